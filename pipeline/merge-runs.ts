// `weightspan merge`: finished runs over disjoint models into one, from what they kept of their states alone. The run is made
// in a folder beside its place and renamed when it is whole, so that a merge that fails or is killed leaves nothing that
// looks like a run. The merged runs are only read.
import { existsSync, mkdirSync, realpathSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { Effect } from 'effect';
import { checkFreeSpace } from '../configs/check-free-space.ts';
import { checkOutput } from '../configs/check-output.ts';
import { ConfigInvalid } from '../configs/errors.ts';
import { choiceOf, findDevice, findProcessor, openDevice } from '../operators/devices/device-spec.ts';
import { SpillFailed } from '../operators/spill-files.ts';
import { UnknownFormat } from '../sinks/checkpoint-store.ts';
import { nodeDisk, readingDisk } from '../sinks/disk.ts';
import { sinkFailure, TEMPORARY_PREFIX } from '../sinks/durable-file.ts';
import { DamagedFile } from '../sinks/errors.ts';
import { openEventLog } from '../sinks/events.ts';
import { findMergeProblems } from './check-mergeable.ts';
import { checkpointFolder, readBegin, recoverRun } from './checkpoints.ts';
import { RunLocked, RunsDiffer, RunUnusable } from './errors.ts';
import type { RunControl } from './execution.ts';
import { readFinishedRun } from './finished-run.ts';
import { Lease, leaseHolder } from './lease.ts';
import { MergeExecution } from './merge-execution.ts';
import { type MergedPart, makeMergePlan } from './merge-plan.ts';
import { quoted } from './quoted.ts';
import { attempt as attemptRun, type RunError, released } from './run.ts';
import { createRunFolder } from './run-folder.ts';
import type { Telemetry } from './telemetry.ts';

export interface MergeOptions {
  readonly out: string;
  /** Merge what was made on another device, library or kernel. */
  readonly allowInexact: boolean;
}

const attempt = <A>(step: () => A | Promise<A>): Effect.Effect<A, RunError> =>
  attemptRun(async () => {
    try {
      return await step();
    } catch (cause) {
      if (cause instanceof DamagedFile) throw new RunUnusable({ run: cause.path, detail: cause.detail });
      if (cause instanceof SpillFailed) throw sinkFailure(cause.path, 'merging states', cause);
      throw cause;
    }
  });

/** Merges runs into a new one; the order in which they are given changes nothing. */
export const mergeRuns = (
  runs: readonly string[],
  { out, allowInexact }: MergeOptions,
  telemetry: Telemetry,
  control: RunControl,
): Effect.Effect<void, RunError> =>
  Effect.gen(function* () {
    if (runs.length < 2)
      return yield* new ConfigInvalid({ issues: [`runs: expected two or more to merge, found ${runs.length}`] });
    yield* checkOutput(out, runs);
    const { parts, problems } = yield* attempt(() => readParts(runs));
    const found = yield* attempt(() =>
      findDevice(parts[0] === undefined ? 'auto' : choiceOf(parts[0].begin.device), {
        threads: 1,
        precision: parts[0]?.begin.device.precision ?? 'float32',
      }).catch((cause) => {
        if (!allowInexact) throw cause;
        return findProcessor('auto');
      }),
    );
    const against = [...problems, ...findMergeProblems(parts, allowInexact ? null : found.info)];
    if (against.length > 0) return yield* new RunsDiffer({ problems: against });
    const merge = yield* attempt(() => makeMergePlan(parts, { out }, found));
    const { plan } = merge;
    yield* checkFreeSpace([{ folder: dirname(resolve(out)), bytes: plan.bytesToWrite, advice: 'name another --out' }]);
    const inexact = allowInexact
      ? [...new Set(findMergeProblems(parts, found.info))]
      : [...new Set(parts.flatMap(({ content }) => content.inexact))];
    const folder = yield* attempt(() => claimFolder(out));
    const done = yield* Effect.scoped(
      Effect.gen(function* () {
        const lease = yield* Effect.acquireRelease(
          attempt(() => Lease.take(out, checkpointFolder(folder))),
          (taken) => released(() => taken.release()),
        );
        yield* attempt(() => createRunFolder(folder, plan.config));
        const events = yield* Effect.acquireRelease(
          attempt(() => openEventLog(join(folder, 'events.ndjson'))),
          (log) => released(() => log.close()),
        );
        const device = yield* Effect.acquireRelease(
          attempt(() => openDevice(found.spec)),
          (opened) => Effect.promise(() => opened.close()),
        );
        const execution = yield* Effect.acquireRelease(
          attempt(
            () =>
              new MergeExecution({ folder, parts, merge, found, device, lease, telemetry, events, control, inexact }),
          ),
          (running) => Effect.promise(() => running.close()),
        );
        return yield* attempt(() => execution.run());
      }),
    ).pipe(Effect.onError(() => released(() => rmSync(folder, { recursive: true, force: true }))));
    yield* attempt(() => publish(folder, out)).pipe(
      Effect.onError(() => released(() => rmSync(folder, { recursive: true, force: true }))),
    );
    telemetry(done);
  });

/** All runs, in canonical order, and what is wrong with any by itself. Rejects with `RunLocked`, `SinkFailed`. */
const readParts = async (
  runs: readonly string[],
): Promise<{ readonly parts: readonly MergedPart[]; readonly problems: readonly string[] }> => {
  const parts: MergedPart[] = [];
  const problems: string[] = [];
  const seen = new Map<string, string>();
  for (const run of runs) {
    const real = existsSync(run) ? realpathSync(run) : run;
    const before = seen.get(real);
    seen.set(real, run);
    if (before !== undefined) {
      problems.push(`${run}: given twice${before === run ? '' : `, also as ${before}`}`);
      continue;
    }
    try {
      parts.push(await readPart(run));
    } catch (cause) {
      if (cause instanceof RunUnusable) problems.push(cause.message);
      else if (cause instanceof DamagedFile || cause instanceof UnknownFormat) problems.push(cause.message);
      else throw cause;
    }
  }
  const keyOf = ({ description, digest }: MergedPart): string => `${description.run_id} ${digest}`;
  return { parts: parts.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1)), problems };
};

const readPart = async (run: string): Promise<MergedPart> => {
  const owner = leaseHolder(checkpointFolder(run));
  if (owner !== null) throw new RunLocked({ run, owner });
  const finished = await readFinishedRun(run);
  const { manifest, digest, damages } = recoverRun(run, 'files', readingDisk);
  if (manifest === null) {
    const [first] = damages;
    const detail =
      first === undefined
        ? 'it has no checkpoints/, which the states are in; copy that folder too, or run it again'
        : `its state cannot be used: ${first.message}; run it again`;
    throw new RunUnusable({ run, detail });
  }
  const { content, files, logs } = manifest;
  if (content.stage !== 'finished')
    throw new RunUnusable({ run, detail: `it is not finished; first go on with: weightspan resume ${quoted(run)}` });
  const kept = files.reduce((sum, { name, size }) => sum + (/^(rows|scatter)-/.test(name) ? size : 0), 0);
  return { ...finished, begin: readBegin(run, manifest), content, logs, digest: digest!, kept };
};

/** The folder in which the run is made, beside its place. Throws `RunLocked`, `SinkFailed`. */
const claimFolder = (out: string): string => {
  const place = resolve(out);
  const folder = join(dirname(place), TEMPORARY_PREFIX + basename(place));
  try {
    if (existsSync(folder)) {
      const owner = leaseHolder(checkpointFolder(folder));
      if (owner !== null) throw new RunLocked({ run: out, owner });
      // Of a merge that was killed.
      rmSync(folder, { recursive: true });
    }
    mkdirSync(checkpointFolder(folder), { recursive: true });
    return folder;
  } catch (cause) {
    if (cause instanceof RunLocked) throw cause;
    throw sinkFailure(folder, 'creating it', cause);
  }
};

/** Gives the run its place, where nothing or an empty folder is. Throws `SinkFailed`. */
const publish = (folder: string, out: string): void => {
  try {
    nodeDisk.syncFolder(folder);
    renameSync(folder, resolve(out));
    nodeDisk.syncFolder(dirname(resolve(out)));
  } catch (cause) {
    throw sinkFailure(out, 'giving the merged run its place', cause);
  }
};
