// What `resume` and `extend` have in common: the options that may change while a run goes on, and how it is shown.
import { resolve } from 'node:path';
import { Effect, Option } from 'effect';
import { Argument, type Flag } from 'effect/cli';
import { parseCheckpointEvery } from '../../configs/checkpoint-every.ts';
import { decodeOptions } from '../../configs/decode-options.ts';
import { ConfigInvalid } from '../../configs/errors.ts';
import { parseMemorySize } from '../../configs/memory-size.ts';
import { splitRule } from '../../configs/resolve-config.ts';
import { escapeControls } from '../../sinks/terminal-text.ts';
import { Interrupted } from '../errors.ts';
import type { RunControl } from '../execution.ts';
import type { ResumeOptions, RunError } from '../run.ts';
import { stopRequested } from '../signals.ts';
import type { Telemetry } from '../telemetry.ts';
import { withFailureEvent } from './failure-event.ts';
import { givenOptions, on, options, repeatable } from './options.ts';
import { showProgress } from './show-progress.ts';
import { writeOutput } from './standard-output.ts';

export const runFolder = Argument.String('RUN').pipe(Argument.withDescription('The folder of a run'));

export const continueOptions = {
  sourceRoot: repeatable(
    'source-root',
    'OLD=NEW',
    'Where models have moved: the beginning of their paths, and the new one',
  ),
  allowInexact: on('allow-inexact', 'Go on with another device, library or kernel, whose last bits may differ'),
  device: options.device,
  memory: options.memory,
  threads: options.threads,
  scratch: options.scratch,
  tensorboard: options.tensorboard,
  checkpointEvery: options.checkpointEvery,
  json: options.json,
  quiet: options.quiet,
};

export type ContinueFlags = {
  readonly [K in keyof typeof continueOptions]: (typeof continueOptions)[K] extends Flag.Flag<infer A> ? A : never;
};

type Continue = (options: ResumeOptions, telemetry: Telemetry, control: RunControl) => Effect.Effect<boolean, RunError>;

const yes = (flag: Option.Option<boolean>): boolean => Option.getOrElse(flag, () => false);

/** @param otherwise said where there is nothing to do */
export const continueRun = (run: string, flags: ContinueFlags, otherwise: string, go: Continue) => {
  let failureIsWanted = yes(flags.json);
  return Effect.gen(function* () {
    const { options: given, issues } = decodeOptions(givenOptions(flags), '');
    const wrong = [...issues];
    const roots = flags.sourceRoot.flatMap((rule, i) => splitRule(`source-root[${i}]`, rule, 'OLD=NEW', wrong));
    if (wrong.length > 0) return yield* new ConfigInvalid({ issues: wrong });
    const signal = stopRequested();
    if (signal !== null)
      return yield* new Interrupted({ signal, canResume: true, detail: 'stopped before anything was read' });

    const progress = showProgress({ json: yes(flags.json), quiet: yes(flags.quiet) });
    const { device, memory, threads, scratch, tensorboard, 'checkpoint-every': every } = given;
    const hasWorked = yield* go(
      {
        device: device ?? null,
        memory: memory === undefined ? null : parseMemorySize(memory),
        threads: threads ?? null,
        scratch: scratch ?? null,
        tensorboard: tensorboard === undefined ? null : resolve(tensorboard),
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
    if (hasWorked) return;
    if (yes(flags.json)) writeOutput(`${JSON.stringify({ type: 'finished', out: run })}\n`);
    else writeOutput(`${escapeControls(run)}: ${otherwise}\n`);
  }).pipe((effect) => withFailureEvent(effect, () => failureIsWanted));
};
