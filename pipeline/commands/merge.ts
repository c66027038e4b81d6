// `weightspan merge`: finished runs over disjoint models into one.
import { Effect, Option } from 'effect';
import { Argument, Command, Flag } from 'effect/cli';
import { ConfigInvalid } from '../../configs/errors.ts';
import { Interrupted } from '../errors.ts';
import { mergeRuns } from '../merge-runs.ts';
import { stopRequested } from '../signals.ts';
import { withFailureEvent } from './failure-event.ts';
import { on, options } from './options.ts';
import { showProgress } from './show-progress.ts';

const flags = {
  runs: Argument.String('RUNS').pipe(
    Argument.withDescription('The folders of finished runs, two or more, in any order'),
    Argument.variadic(),
  ),
  out: Flag.String('out').pipe(
    Flag.withMetavar('RUN'),
    Flag.withDescription('Folder to write the merged run to: new or empty'),
    Flag.optional,
  ),
  allowInexact: on('allow-inexact', 'Merge runs of other devices, libraries or kernels, whose last bits may differ'),
  json: options.json,
  quiet: options.quiet,
};

const yes = (flag: Option.Option<boolean>): boolean => Option.getOrElse(flag, () => false);

export const merge = Command.make('merge', flags, (given) => {
  let failureIsWanted = yes(given.json);
  return Effect.gen(function* () {
    const out = Option.getOrNull(given.out);
    if (out === null)
      return yield* new ConfigInvalid({
        issues: ['out: expected the folder to write the merged run to (--out RUN), found nothing'],
      });
    const signal = stopRequested();
    if (signal !== null)
      return yield* new Interrupted({ signal, canResume: false, detail: 'stopped before anything was read' });
    const progress = showProgress({ json: yes(given.json), quiet: yes(given.quiet) });
    yield* mergeRuns(
      given.runs,
      { out, allowInexact: yes(given.allowInexact) },
      (event) => {
        if (event.type === 'failed') failureIsWanted = false;
        progress.telemetry(event);
      },
      { stopRequested },
    ).pipe(Effect.ensuring(Effect.promise(() => progress.close())));
  }).pipe((effect) => withFailureEvent(effect, () => failureIsWanted));
}).pipe(
  Command.withDescription(
    'Merge finished runs over disjoint models into one run, from what they kept of their states; no weights are read. The runs must have the same slots, modes, base, centring and rank, and mode models of engine incremental. The order in which they are given changes nothing.',
  ),
  Command.withShortDescription('Merge finished runs over disjoint models'),
  Command.withExamples([
    { command: 'weightspan merge runs/shard-* --out runs/all', description: 'Shards that ran on several machines' },
  ]),
);
