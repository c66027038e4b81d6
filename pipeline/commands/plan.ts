// `weightspan plan`: reads headers, and a few MB of weights to see how fast that goes, and says what a run would do.
import { Effect, Option } from 'effect';
import { Command } from 'effect/cli';
import { resolveConfig } from '../../configs/resolve-config.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import { Interrupted } from '../errors.ts';
import { estimateTime } from '../estimate-time.ts';
import { makePlan, type Plan } from '../plan.ts';
import { planToJson, renderPlan } from '../render-plan.ts';
import { onStopRequested } from '../signals.ts';
import { withFailureEvent } from './failure-event.ts';
import { type Flags, givenOptions, off, options, wantsJson } from './options.ts';
import { writeOutput } from './standard-output.ts';

// A plan has nothing to lose: it stops where it stands.
const interrupted = Effect.callback<never, Interrupted>((resume) => {
  const remove = onStopRequested((signal) =>
    resume(
      Effect.fail(new Interrupted({ signal, canResume: false, detail: 'stopped while planning; nothing was written' })),
    ),
  );
  return Effect.sync(remove);
});

interface PlanFlags extends Flags {
  readonly noProbe: Option.Option<boolean>;
}

const estimated = (plan: Plan) =>
  Effect.tryPromise({ try: () => estimateTime(plan), catch: (cause) => cause }).pipe(
    Effect.catch((cause) =>
      cause instanceof SourceMalformed || cause instanceof SourceUnavailable ? Effect.fail(cause) : Effect.die(cause),
    ),
  );

const execute = Effect.fn('plan')(function* (flags: PlanFlags) {
  const { config, json, quiet } = yield* resolveConfig(givenOptions(flags), Option.getOrNull(flags.config), 'plan');
  const plan = yield* Effect.raceFirst(makePlan(config), interrupted);
  const skipsProbe = Option.getOrElse(flags.noProbe, () => false) || (quiet && !json);
  const estimate = skipsProbe ? null : yield* Effect.raceFirst(estimated(plan), interrupted);
  if (json) writeOutput(`${JSON.stringify(planToJson(plan, estimate))}\n`);
  else if (!quiet) writeOutput(`${renderPlan(plan, estimate).trimEnd()}\n`);
});

const planOptions = {
  ...options,
  noProbe: off('probe', 'Read no weights and estimate no time (--probe, the default, takes about 200 ms)'),
};

export const plan = Command.make('plan', planOptions, (flags) =>
  withFailureEvent(execute(flags), () => wantsJson(flags)),
).pipe(
  Command.withDescription(
    'Show what a run would do: models, slots and what is left out and why, memory, bytes, time. Reads headers, and a few MB of weights for the estimate of the time.',
  ),
  Command.withShortDescription('Show what a run would do'),
  Command.withExamples([
    { command: 'weightspan plan ./checkpoints', description: 'Look before a run' },
    {
      command: "weightspan plan ./checkpoints --exclude '*embed*' --memory 2GiB --json",
      description: 'The same as JSON, for a smaller machine',
    },
  ]),
);
