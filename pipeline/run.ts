// The main job. Effect owns what has a lifetime (workers, files, the run folder, its lease) and every way it can fail; what
// is done in between is execution.ts.

import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cause, Effect, Exit, Option } from 'effect';
import { checkFreeSpace } from '../configs/check-free-space.ts';
import { checkOutput } from '../configs/check-output.ts';
import { checkTensorboard } from '../configs/check-tensorboard.ts';
import type { CheckpointEvery } from '../configs/checkpoint-every.ts';
import { ConfigInvalid } from '../configs/errors.ts';
import type { RunConfig } from '../configs/run-config.ts';
import type { DeviceChoice } from '../operators/devices/device-choice.ts';
import { findProcessor } from '../operators/devices/device-spec.ts';
import { DeviceFailed, DeviceUnavailable, NumericalFailure } from '../operators/errors.ts';
import { TilePool } from '../operators/tile-pool.ts';
import { type Recovered, UnknownFormat } from '../sinks/checkpoint-store.ts';
import { SinkFailed } from '../sinks/errors.ts';
import { openEventLog } from '../sinks/events.ts';
import { startTensorboardThread, tensorboardFolder } from '../sinks/tensorboard/tensorboard-thread.ts';
import { SourceMalformed, SourceUnavailable } from '../sources/errors.ts';
import { verifyContents } from '../sources/verify-contents.ts';
import {
  type Begin,
  beginOf,
  checkUnchanged,
  configAsked,
  contentsOf,
  deviceDifference,
  rooted,
  SOURCES_ADVICE,
} from './begin.ts';
import { checkpointFolder, continuationOf, type RunContent, readBegin, recoverRun } from './checkpoints.ts';
import { keepsState } from './choose-engine.ts';
import { Interrupted, RunChanged, RunLocked, RunsDiffer, RunUnusable } from './errors.ts';
import { Execution, type Going, type RunControl } from './execution.ts';
import { keptProblem } from './kept-slots.ts';
import { Lease } from './lease.ts';
import { makePlan, type Plan } from './plan.ts';
import { bytesOver, bytesToSpill, groupsInOrder, stateBytes } from './plan-figures.ts';
import { quoted } from './quoted.ts';
import { createRunFolder, createScratch, discardRunFolder, removeScratch, resultsFolder } from './run-folder.ts';
import { type RunStatus, statusOf } from './run-status.ts';
import type { Telemetry } from './telemetry.ts';
import { clearUnborn, hasCheckpoint } from './unborn-run.ts';

export type RunError =
  | ConfigInvalid
  | SourceMalformed
  | SourceUnavailable
  | DeviceUnavailable
  | DeviceFailed
  | NumericalFailure
  | SinkFailed
  | Interrupted
  | RunChanged
  | RunUnusable
  | RunsDiffer
  | RunLocked;

const failures = [
  ConfigInvalid,
  SourceMalformed,
  SourceUnavailable,
  DeviceUnavailable,
  DeviceFailed,
  NumericalFailure,
  SinkFailed,
  Interrupted,
  RunChanged,
  RunUnusable,
  RunsDiffer,
  RunLocked,
];

const isRunError = (cause: unknown): cause is RunError => failures.some((failure) => cause instanceof failure);

/** Runs something that throws our own errors; all others are bugs. */
export const attempt = <A>(step: () => A | Promise<A>): Effect.Effect<A, RunError> =>
  Effect.tryPromise({ try: async () => step(), catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (isRunError(cause) ? Effect.fail(cause) : Effect.die(cause))),
  );

/** Gives back what was taken. Where the disk refuses even that, the failure before it is the one to tell. */
export const released = (step: () => void): Effect.Effect<void> => Effect.ignore(attempt(step));

/**
 * Plans and executes a run; leaves a run folder. One that is stopped or fails leaves what `resumeRun` goes on from, or, if
 * it had not written a checkpoint of its work yet, nothing.
 */
export const run = (config: RunConfig, telemetry: Telemetry, control: RunControl): Effect.Effect<void, RunError> =>
  Effect.gen(function* () {
    const out = config.out;
    if (out === null) return yield* new ConfigInvalid({ issues: ['out: expected a folder, found none'] });
    yield* checkTensorboard(config.tensorboard ?? null);
    yield* attempt(() => clearUnborn(out));
    // Before the plan, so that a wrong folder is told at once; and after it, when the models' own paths are known.
    yield* checkOutput(
      out,
      config.sources.filter((source) => source !== '-' && !source.startsWith('@')),
    ).pipe(Effect.mapError((error) => occupiedByRun(out, error)));
    const planned = yield* makePlan(config);
    const { plan, contents } = config.verify ? yield* verified(planned) : { plan: planned, contents: new Map() };
    const paths = [...plan.models, ...(plan.base === null ? [] : [plan.base])].map(({ location }) => location.path);
    yield* checkOutput(out, paths);
    yield* checkSpace(out, plan);
    yield* attempt(() => createRunFolder(out, config)).pipe(Effect.tapError(() => discard(out)));
    const begin = beginOf(plan, contents);
    yield* execute({ out, plan, begin, going: null, telemetry, control }).pipe(
      (running) => orOnProcessor(running, out, telemetry, control),
      Effect.onError((cause) => (isToStay(out, cause) ? Effect.void : discard(out))),
    );
  });

/** Where the output is a run already, the command that goes on with it. */
const occupiedByRun = <E>(out: string, error: E): E | SinkFailed => {
  if (!(error instanceof SinkFailed) || error.reason !== 'occupied') return error;
  const isFinished = existsSync(join(out, 'run.json'));
  if (!isFinished && !existsSync(checkpointFolder(out))) return error;
  const what = isFinished
    ? `holds a finished run; fold more models into it with: weightspan extend ${quoted(out)} SOURCES`
    : `holds a run that is not finished; go on with: weightspan resume ${quoted(out)}`;
  return new SinkFailed({ path: out, reason: 'occupied', detail: `${what}; or give another --out` });
};

/** What may be changed when a run goes on. */
export interface ResumeOptions {
  /** Null: the one it was begun with. */
  readonly device: DeviceChoice | null;
  readonly memory: number | null;
  readonly threads: number | null;
  readonly scratch: string | null;
  readonly tensorboard: string | null;
  readonly checkpointEvery: CheckpointEvery | null;
  /** Go on with another device, library or kernel. */
  readonly allowInexact: boolean;
  readonly roots: RunContent['roots'];
}

/** Goes on with a run from its newest checkpoint that holds. Resolves with false where it is finished already. */
export const resumeRun = (
  out: string,
  options: ResumeOptions,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<boolean, RunError> =>
  orOnProcessor(resume(out, options, null, telemetry, control), out, telemetry, control);

/** @param failure of the GPU, from which it goes on with another device */
const resume = (
  out: string,
  options: ResumeOptions,
  failure: DeviceFailed | null,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<boolean, RunError | GpuFailed> =>
  Effect.gen(function* () {
    yield* checkTensorboard(options.tensorboard);
    const seen = yield* recovered(out, 'manifest');
    if (seen.manifest === null) {
      if (existsSync(join(out, 'run.json'))) return false;
      return yield* nothingToResume(out, seen);
    }
    if (seen.manifest.content.stage === 'finished') return false;
    yield* Effect.scoped(
      Effect.gen(function* () {
        const lease = yield* leaseOf(out, seen.manifest!.fence);
        // What is there now is nobody else's.
        const from = yield* recovered(out);
        const { manifest } = from;
        if (manifest === null) return yield* nothingToResume(out, from);
        const begin = yield* attempt(() => readBegin(out, manifest));
        const roots = [...manifest.content.roots, ...options.roots];
        const going = { ...continuationOf(begin, manifest.content), begin: rooted(begin, roots) };
        const config = { ...changed(configAsked(begin), options), out };
        const plan = yield* makePlan(config, going).pipe(Effect.mapError((error) => withAdvice(out, error)));
        yield* attempt(() => checkUnchanged(out, going.begin, plan, roots));
        const difference = yield* sameDevice(out, begin, plan, options.allowInexact);
        yield* checkSpace(out, plan);
        const inexact = [...manifest.content.inexact, ...(difference === null ? [] : [difference])];
        yield* attempt(() => createRunFolder(resultsFolder(out, plan), config));
        const continued = { recovered: from, roots, inexact, extends: false, failure };
        yield* work({ out, plan, begin, going: continued, telemetry, control, lease });
      }),
    );
    return true;
  });

/**
 * Folds more models into a finished run, as its next generation. Its tables stand until the new ones are durable. What it
 * has of its models' states is gone on from; what it has none of (engine exact, modes rows and cols) is read again.
 * Resolves with false where all of the models are in the run already.
 */
export const extendRun = (
  out: string,
  sources: readonly string[],
  options: ResumeOptions,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<boolean, RunError> =>
  orOnProcessor(extend(out, sources, options, telemetry, control), out, telemetry, control);

const extend = (
  out: string,
  sources: readonly string[],
  options: ResumeOptions,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<boolean, RunError | GpuFailed> =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* checkTensorboard(options.tensorboard);
      const seen = yield* recovered(out, 'manifest');
      if (seen.manifest === null) return yield* nothingToResume(out, seen);
      const lease = yield* leaseOf(out, seen.manifest.fence);
      const from = yield* recovered(out);
      const { manifest } = from;
      if (manifest === null) return yield* nothingToResume(out, from);
      const { content } = manifest;
      if (content.stage !== 'finished') {
        const detail = `it is not finished; first go on with: weightspan resume ${quoted(out)}`;
        return yield* new RunUnusable({ run: out, detail });
      }
      const before = yield* attempt(() => readBegin(out, manifest));
      // Before anything is written: what is begun on a state that is not whole could neither be finished nor taken back.
      const isContinued = keepsState(before.config.engine, before.config) && before.config.mode.includes('models');
      const problem = isContinued ? keptProblem(before, content) : null;
      if (problem !== null) {
        const detail = `${problem}; start over with all models and another --out`;
        return yield* new RunUnusable({ run: out, detail });
      }
      const roots = [...content.roots, ...options.roots];
      const saved = content.kept;
      const going = { begin: rooted(before, roots), done: { models: 0, sides: 0 }, groups: 0, saved, added: sources };
      const config = { ...changed(configAsked(before), options), out, sources: [...before.config.sources, ...sources] };
      const planned = yield* makePlan(config, going).pipe(Effect.mapError((error) => withAdvice(out, error)));
      const known = before.used.length;
      const old = { ...planned, models: planned.models.slice(0, known) };
      yield* attempt(() => checkUnchanged(out, going.begin, old, roots));
      if (planned.models.length === known) return false;
      const difference = yield* sameDevice(out, before, planned, options.allowInexact);
      const checked = config.verify ? yield* verified(planned, known) : { plan: planned, contents: new Map() };
      const { plan } = checked;
      yield* checkSpace(out, plan);
      // What an extension left that never came to a checkpoint.
      removeScratch(resultsFolder(out, plan));
      yield* attempt(() => createRunFolder(resultsFolder(out, plan), config));
      const begin = beginOf(plan, new Map([...contentsOf(before), ...checked.contents]));
      // Where all is read again, it is all of this device.
      const inexact = [...content.inexact, ...(isContinued && difference !== null ? [difference] : [])];
      yield* work({
        out,
        plan,
        begin,
        going: { recovered: from, roots, inexact, extends: true, failure: null },
        telemetry,
        control,
        lease,
      });
      return true;
    }),
  );

/** What a run folder tells of its run. */
export const runStatus = (out: string): Effect.Effect<RunStatus, RunError> =>
  Effect.gen(function* () {
    const found = yield* recovered(out);
    if (found.manifest === null && found.damages.length === 0 && !existsSync(join(out, 'run.json')))
      return yield* nothingToResume(out, found);
    return yield* attempt(() => statusOf(out, found));
  });

const changed = (
  config: RunConfig,
  { device, memory, threads, scratch, tensorboard, checkpointEvery }: ResumeOptions,
): RunConfig => ({
  ...config,
  device: device ?? config.device,
  memory: memory ?? config.memory,
  threads: threads ?? config.threads,
  scratch: scratch ?? config.scratch,
  tensorboard: tensorboard ?? config.tensorboard ?? null,
  checkpointEvery: checkpointEvery ?? config.checkpointEvery,
});

/** The difference that was allowed, or null where there is none. */
const sameDevice = (
  out: string,
  begin: Begin,
  plan: Plan,
  allowed: boolean,
): Effect.Effect<string | null, RunChanged> => {
  const difference = deviceDifference(begin.device, plan.device.info);
  if (difference === null || allowed) return Effect.succeed(difference);
  const advice = 'results may differ in the last bits; give --allow-inexact to go on all the same';
  return Effect.fail(new RunChanged({ run: out, differences: [`device: ${difference}`], advice }));
};

const recovered = (out: string, look: 'files' | 'manifest' = 'files'): Effect.Effect<Recovered<RunContent>, RunError> =>
  attempt(() => {
    try {
      return recoverRun(out, look);
    } catch (cause) {
      if (cause instanceof UnknownFormat) throw new RunUnusable({ run: out, detail: cause.message });
      throw cause;
    }
  });

const nothingToResume = (out: string, { damages }: Recovered<RunContent>): RunUnusable => {
  const [first] = damages;
  if (!existsSync(out))
    return new RunUnusable({ run: out, detail: 'expected the folder of a run, found nothing there' });
  const isUnborn = !hasCheckpoint(out) && !existsSync(join(out, 'run.json'));
  const detail =
    first === undefined || isUnborn
      ? 'expected the folder of a run, found no checkpoint in it that is whole; a run that was killed that early is begun again by its own command'
      : `no checkpoint of it can be used: ${first.message}; start over with another --out`;
  return new RunUnusable({ run: out, detail });
};

/** Where a model cannot even be read, the run it belongs to is named too. */
const withAdvice = (run: string, error: RunError): RunError => {
  if (!(error instanceof SourceMalformed || error instanceof SourceUnavailable)) return error;
  const isForeign = error instanceof SourceMalformed && error.rule === 'few-common-slots';
  const advice = isForeign ? 'such models make a run of their own: weightspan run, with another --out' : SOURCES_ADVICE;
  return new RunChanged({ run, differences: [error.message], advice });
};

/**
 * Whether a run that ended early leaves its folder: where it was asked to stop, or has a checkpoint of its work (the first
 * says only what it is) or all of its results, or where the folder is somebody else's.
 */
const isToStay = (out: string, cause: Cause.Cause<RunError>): boolean => {
  const error = Option.getOrNull(Cause.findErrorOption(cause));
  if (error instanceof Interrupted || error instanceof RunLocked) return true;
  return existsSync(join(out, 'run.json')) || hasCheckpoint(out);
};

const checkSpace = (out: string, plan: Plan): Effect.Effect<void, SinkFailed> =>
  checkFreeSpace([
    {
      folder: out,
      bytes: plan.bytesToWrite + stateBytes(plan).most,
      advice: '--no-basis and --drop-state write the least',
    },
    {
      folder: plan.config.scratch ?? out,
      bytes: bytesToSpill(plan),
      advice: 'name a larger file system with --scratch, or give more --memory',
    },
  ]);

const leaseOf = (out: string, after: number) =>
  Effect.acquireRelease(
    attempt(() => {
      mkdirSync(checkpointFolder(out), { recursive: true });
      return Lease.take(out, checkpointFolder(out), after);
    }),
    (lease) => released(() => lease.release()),
  );

interface Work {
  readonly out: string;
  readonly plan: Plan;
  readonly begin: Begin;
  readonly going: Going | null;
  readonly telemetry: Telemetry;
  readonly control: RunControl;
}

const execute = (of: Work): Effect.Effect<void, RunError | GpuFailed> =>
  Effect.scoped(Effect.flatMap(leaseOf(of.out, 0), (lease) => work({ ...of, lease })));

const work = ({ out, plan, begin, going, telemetry, control, lease }: Work & { readonly lease: Lease }) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { config } = plan;
      const from = going?.recovered.manifest?.content.events ?? null;
      const lost = from === null ? 0 : blocksBehind(join(out, 'events.ndjson'), from.size);
      const events = yield* Effect.acquireRelease(
        attempt(() => openEventLog(join(out, 'events.ndjson'), from === null ? {} : { from })),
        (log) => released(() => log.close()),
      );
      yield* tensorboardOf(out, config, telemetry);
      const scratch = yield* Effect.acquireRelease(
        attempt(() => createScratch(out, config)),
        // Of a run that was taken over, the folder in it is somebody else's.
        (folder) => (lease.isLost && config.scratch === null ? Effect.void : released(() => removeScratch(folder))),
      );
      const tiles = yield* Effect.acquireRelease(
        attempt(() => new TilePool(plan.device, config.threads)),
        (pool) => Effect.promise(() => pool.close()),
      );
      const execution = yield* Effect.acquireRelease(
        attempt(() => new Execution({ out, scratch, plan, tiles, telemetry, events, control, lease, begin, going })),
        (execution) => Effect.promise(() => execution.abandon()),
      );
      yield* attempt(async () => {
        await execution.stream(lost);
        await execution.finish(contentsOf(begin));
      }).pipe(
        Effect.mapError((error) => (error instanceof DeviceFailed ? ofGpu(out, plan, error) : error)),
        Effect.tapError((error) => released(() => error instanceof GpuFailed || execution.tellFailure(error))),
      );
      yield* attempt(() => events.close());
    }),
  );

/** Event files, where they are asked for; of a run that leaves nothing they go too. */
const tensorboardOf = (out: string, { tensorboard }: RunConfig, telemetry: Telemetry) =>
  tensorboard == null
    ? Effect.void
    : Effect.acquireRelease(
        Effect.sync(() =>
          startTensorboardThread(out, tensorboard, (detail) =>
            telemetry({
              type: 'notice',
              text: `no more TensorBoard events are written to ${tensorboardFolder(tensorboard, out)}: ${detail}; the run goes on`,
            }),
          ),
        ),
        (thread, exit) =>
          Effect.promise(() =>
            thread.close(
              Exit.isSuccess(exit) || isToStay(out, exit.cause as Cause.Cause<RunError>) ? 'keep' : 'remove',
            ),
          ),
      );

/** A GPU that nobody asked for has failed, in the run of a plan: no error yet. */
class GpuFailed {
  readonly plan: Plan;
  readonly failure: DeviceFailed;

  constructor(plan: Plan, failure: DeviceFailed) {
    this.plan = plan;
    this.failure = failure;
  }
}

/** Who asked for a GPU is told that it failed, and how to go on. */
const ofGpu = (out: string, plan: Plan, failure: DeviceFailed): DeviceFailed | GpuFailed => {
  if (plan.config.device === 'auto') return new GpuFailed(plan, failure);
  if (!hasCheckpoint(out)) return failure;
  const go = `weightspan resume ${quoted(out)}`;
  const detail = `${failure.detail}; go on from the last checkpoint with: ${go}, or without the GPU: ${go} --device blas (or tfjs) --allow-inexact`;
  return new DeviceFailed({ ...failure, detail });
};

/**
 * Where a GPU fails that was taken unasked, goes on without it: from the last checkpoint, since what the GPU held is gone, and
 * no block that was half folded has ever come to a checkpoint.
 */
const orOnProcessor = <A>(
  running: Effect.Effect<A, RunError | GpuFailed>,
  out: string,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<A, RunError> =>
  running.pipe(
    Effect.catch((error) => {
      if (!(error instanceof GpuFailed)) return Effect.fail(error);
      const { memory, threads, scratch, tensorboard = null, checkpointEvery } = error.plan.config;
      return Effect.gen(function* () {
        const device = (yield* attempt(() => findProcessor('auto'))).spec.name as 'blas' | 'tfjs';
        const options = {
          device,
          memory,
          threads,
          scratch,
          tensorboard,
          checkpointEvery,
          allowInexact: true,
          roots: [],
        };
        return (yield* resume(out, options, error.failure, telemetry, control)) as A;
      }).pipe(Effect.mapError((again) => (again instanceof GpuFailed ? again.failure : again)));
    }),
  );

/** Blocks that a run reported behind a checkpoint. */
const blocksBehind = (path: string, size: number): number => {
  try {
    const lines = readFileSync(path).subarray(size).toString().split('\n');
    return lines.filter((line) => line.includes('"type":"block"')).length;
  } catch {
    return 0;
  }
};

/**
 * `--verify`: the plan without the models whose weights are bad, or their fault. The base must be sound.
 * @param known models that were verified before
 */
const verified = (plan: Plan, known = 0) =>
  Effect.gen(function* () {
    const added = plan.models.slice(known);
    const { digests, faults } = yield* verifyContents({
      ...plan,
      models: added,
      groups: groupsInOrder(plan).map(({ group }) => group),
    });
    const baseFault = plan.base === null ? undefined : faults.get(plan.base);
    const bad = added.filter((model) => faults.has(model));
    // The first in order, whichever was read first.
    const first = baseFault ?? (bad[0] === undefined ? undefined : faults.get(bad[0]));
    if (first !== undefined && (plan.config.onBadSource === 'error' || baseFault !== undefined)) {
      return yield* Effect.fail(first);
    }
    const sound = added.filter((model) => !faults.has(model));
    if (sound.length === 0) {
      return yield* new ConfigInvalid({ issues: [`sources: all models were skipped; the first: ${first?.message}`] });
    }
    const skipped = [
      ...plan.skipped,
      ...bad.map((model) => ({
        id: model.id,
        name: model.name,
        source: model.location.source,
        kind: model.location.layout === 'adapter' ? ('adapter' as const) : ('checkpoint' as const),
        reason: faults.get(model)!.message,
      })),
    ].sort((a, b) => a.id - b.id);
    const generations = [...plan.generations.slice(0, -1), sound.length];
    const models = [...plan.models.slice(0, known), ...sound];
    const bytesToRead = plan.bytesToRead - bytesOver(groupsInOrder(plan), bad);
    return { plan: { ...plan, models, generations, skipped, bytesToRead }, contents: digests };
  });

const discard = (out: string): Effect.Effect<void> =>
  Effect.sync(() => {
    try {
      discardRunFolder(out);
    } catch {
      // What failed before is to be told; a run that never was is cleared away by the next one.
    }
  });
