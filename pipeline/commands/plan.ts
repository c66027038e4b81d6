// `weightspan plan`: reads headers, no weights, and says what a run would do.
import { Effect, Option } from 'effect';
import { Command } from 'effect/cli';
import { resolveConfig } from '../../configs/resolve-config.ts';
import { Interrupted } from '../errors.ts';
import { makePlan } from '../plan.ts';
import { planToJson, renderPlan } from '../render-plan.ts';
import { onStopRequested } from '../signals.ts';
import { withFailureEvent } from './failure-event.ts';
import { type Flags, givenOptions, options, wantsJson } from './options.ts';
import { writeOutput } from './standard-output.ts';

// A plan has nothing to lose: it stops where it stands.
const interrupted = Effect.callback<never, Interrupted>((resume) => {
  const remove = onStopRequested((signal) =>
    resume(Effect.fail(new Interrupted({ signal, detail: 'stopped while planning; nothing was written' }))),
  );
  return Effect.sync(remove);
});

const execute = Effect.fn('plan')(function* (flags: Flags) {
  const { config, json, quiet } = yield* resolveConfig(givenOptions(flags), Option.getOrNull(flags.config), 'plan');
  const plan = yield* Effect.raceFirst(makePlan(config), interrupted);
  if (json) writeOutput(`${JSON.stringify(planToJson(plan))}\n`);
  else if (!quiet) writeOutput(`${renderPlan(plan).trimEnd()}\n`);
});

export const plan = Command.make('plan', options, (flags) =>
  withFailureEvent(execute(flags), () => wantsJson(flags)),
).pipe(
  Command.withDescription(
    'Show what a run would do, without reading any weights: models, slots and what is left out and why, memory, bytes, time.',
  ),
  Command.withShortDescription('Show what a run would do, without reading any weights'),
  Command.withExamples([
    { command: 'weightspan plan ./checkpoints', description: 'Look before a run' },
    {
      command: "weightspan plan ./checkpoints --exclude '*embed*' --memory 2GiB --json",
      description: 'The same as JSON, for a smaller machine',
    },
  ]),
);
