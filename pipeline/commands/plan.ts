// `weightspan plan`: what a run would do, without reading a weight.
import { Effect } from 'effect';
import { Command } from 'effect/cli';
import { openTextStream } from '../../sinks/text-stream.ts';
import { makePlan } from '../plan.ts';
import { planToJson, renderPlan } from '../render-plan.ts';
import { resolveOptions, sharedOptions } from './options.ts';

export const planCommand = Command.make('plan', sharedOptions, (options) =>
  Effect.gen(function* () {
    const { config, json } = yield* resolveOptions(options, 'plan');
    const plan = yield* makePlan(config);
    const stdout = openTextStream(process.stdout);
    stdout.write(json ? `${JSON.stringify(planToJson(plan))}\n` : renderPlan(plan));
    yield* Effect.promise(() => stdout.flush());
  }),
).pipe(
  Command.withDescription('Show what a run would read, leave out, hold in memory and write. Headers alone are read.'),
  Command.withExamples([
    { command: 'weightspan plan models/ --rank 32', description: 'Plan a run over a folder of models' },
  ]),
);
