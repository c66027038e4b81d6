// `weightspan resume`: goes on with a run that was stopped, killed or failed.
import { Effect, Option } from 'effect';
import { Argument, Command, type Flag } from 'effect/cli';
import { parseCheckpointEvery } from '../../configs/checkpoint-every.ts';
import { decodeOptions } from '../../configs/decode-options.ts';
import { ConfigInvalid } from '../../configs/errors.ts';
import { parseMemorySize } from '../../configs/memory-size.ts';
import { type Rename, splitRule } from '../../configs/resolve-config.ts';
import { escapeControls } from '../../sinks/terminal-text.ts';
import { Interrupted } from '../errors.ts';
import { resumeRun } from '../run.ts';
import { stopRequested } from '../signals.ts';
import { withFailureEvent } from './failure-event.ts';
import { givenOptions, on, options, repeatable } from './options.ts';
import { showProgress } from './show-progress.ts';
import { writeOutput } from './standard-output.ts';

const resumeOptions = {
  run: Argument.String('RUN').pipe(Argument.withDescription('The folder of a run')),
  sourceRoot: repeatable(
    'source-root',
    'OLD=NEW',
    'Where models have moved: the beginning of their paths, and the new one',
  ),
  allowInexact: on('allow-inexact', 'Go on with another device, library or kernel, whose last bits may differ'),
  memory: options.memory,
  threads: options.threads,
  scratch: options.scratch,
  checkpointEvery: options.checkpointEvery,
  json: options.json,
  quiet: options.quiet,
};

type ResumeFlags = {
  readonly [K in keyof typeof resumeOptions]: (typeof resumeOptions)[K] extends Flag.Flag<infer A> ? A : string;
};

const yes = (flag: Option.Option<boolean>): boolean => Option.getOrElse(flag, () => false);

const execute = (flags: ResumeFlags) => {
  let failureIsWanted = yes(flags.json);
  return Effect.gen(function* () {
    const { options: given, issues } = decodeOptions(givenOptions(flags), '');
    const wrong = [...issues];
    const roots: Rename[] = flags.sourceRoot.flatMap((rule, i) =>
      splitRule(`source-root[${i}]`, rule, 'OLD=NEW', wrong),
    );
    if (wrong.length > 0) return yield* new ConfigInvalid({ issues: wrong });
    const signal = stopRequested();
    if (signal !== null)
      return yield* new Interrupted({ signal, canResume: true, detail: 'stopped before anything was read' });

    const progress = showProgress({ json: yes(flags.json), quiet: yes(flags.quiet) });
    const { memory, threads, scratch, 'checkpoint-every': every } = given;
    const resumed = yield* resumeRun(
      flags.run,
      {
        memory: memory === undefined ? null : parseMemorySize(memory),
        threads: threads ?? null,
        scratch: scratch ?? null,
        checkpointEvery: every === undefined ? null : parseCheckpointEvery(every),
        allowInexact: yes(flags.allowInexact),
        roots,
      },
      (event) => {
        if (event.type === 'failed') failureIsWanted = false;
        progress.telemetry(event);
      },
      { stopRequested },
    ).pipe(Effect.ensuring(Effect.promise(() => progress.close())));
    if (resumed) return;
    if (yes(flags.json)) writeOutput(`${JSON.stringify({ type: 'finished', out: flags.run })}\n`);
    else writeOutput(`${escapeControls(flags.run)}: finished already\n`);
  }).pipe((effect) => withFailureEvent(effect, () => failureIsWanted));
};

export const resume = Command.make('resume', resumeOptions, execute).pipe(
  Command.withDescription(
    'Go on with a run that was stopped, killed or failed, from its newest checkpoint that holds. The tables are those of a run that was never stopped, to the last bit.',
  ),
  Command.withShortDescription('Go on with a run that was stopped'),
  Command.withExamples([
    { command: 'weightspan resume runs/first', description: 'From the newest checkpoint' },
    {
      command: 'weightspan resume runs/first --memory 2GiB --source-root /old/models=/new/models',
      description: 'On a smaller machine, with the models elsewhere',
    },
  ]),
);
