// `weightspan run`: executes the plan and leaves a run folder.
import { Effect, Option } from 'effect';
import { Command } from 'effect/cli';
import { resolveConfig } from '../../configs/resolve-config.ts';
import { Interrupted } from '../errors.ts';
import { run as runPipeline } from '../run.ts';
import { stopRequested } from '../signals.ts';
import { withFailureEvent } from './failure-event.ts';
import { type Flags, givenOptions, on, options, wantsJson } from './options.ts';
import { showProgress } from './show-progress.ts';
import { watchBeside } from './watch-beside.ts';
import { type WatchFlags, watchFlags } from './watch-options.ts';

const runOptions = {
  ...options,
  watch: on('watch', 'Show the run on a web page while it goes on, on 127.0.0.1; its address goes to standard error'),
  ...watchFlags,
};

const execute = (flags: Flags & WatchFlags & { readonly watch: Option.Option<boolean> }) => {
  let failureIsWanted = wantsJson(flags);
  return Effect.gen(function* () {
    const { config, json, quiet } = yield* resolveConfig(givenOptions(flags), Option.getOrNull(flags.config), 'run');
    failureIsWanted = json;
    const signal = stopRequested();
    if (signal !== null)
      return yield* new Interrupted({ signal, canResume: false, detail: 'stopped before anything was read' });

    const isWatched = Option.getOrElse(flags.watch, () => false);
    const progress = showProgress({ json, quiet });
    const endPage = yield* watchBeside(config.out, isWatched, flags, progress.telemetry);
    yield* runPipeline(
      config,
      (event) => {
        if (event.type === 'failed') failureIsWanted = false;
        progress.telemetry(event);
      },
      { stopRequested },
    ).pipe(Effect.ensuring(Effect.promise(() => progress.close())), Effect.ensuring(endPage));
  }).pipe((effect) => withFailureEvent(effect, () => failureIsWanted));
};

export const run = Command.make('run', runOptions, execute).pipe(
  Command.withDescription(
    'Stream the weights of all models through an incremental PCA, slot by slot, and write the results to a new folder. The first SIGINT or SIGTERM stops between two blocks, a second one at once.',
  ),
  Command.withShortDescription('Stream the models and write the results to a folder'),
  Command.withExamples([
    { command: 'weightspan run ./checkpoints --out runs/first', description: 'A folder of models' },
    {
      command: "weightspan run @models.txt --out runs/qkv --include '*attention*' --rank 64",
      description: 'Models from a list, attention weights only, more components',
    },
    {
      command: 'weightspan run ./vits --out runs/vits --config configs/vit-finetunes.yaml',
      description: 'With a preset',
    },
  ]),
);
