// The main job. Effect owns what has a lifetime (workers, files, the run folder) and every way it can fail; RxJS carries
// the data lane. This file is where they meet.
import { join } from 'node:path';
import { Effect } from 'effect';
import { concat, defer, EMPTY, ignoreElements, lastValueFrom, map, mergeMap, type Observable, tap } from 'rxjs';
import { checkFreeSpace } from '../configs/check-free-space.ts';
import { checkOutput } from '../configs/check-output.ts';
import { ConfigInvalid } from '../configs/errors.ts';
import type { RunConfig } from '../configs/run-config.ts';
import { DeviceUnavailable, NumericalFailure } from '../operators/errors.ts';
import { type ExactModesOptions, exactModes, GroupModes, type ModesOfSlot } from '../operators/exact-modes.ts';
import { exactPca } from '../operators/exact-pca.ts';
import { exactSpectrum } from '../operators/exact-spectrum.ts';
import { GramSum } from '../operators/gram-sum.ts';
import { type BlockUpdate, type IncrementalPcaOptions, incrementalPca } from '../operators/incremental-pca.ts';
import type { Subspace, SubspaceEstimate } from '../operators/subspace.ts';
import { TilePool } from '../operators/tile-pool.ts';
import { SinkFailed } from '../sinks/errors.ts';
import { type EventLog, openEventLog } from '../sinks/events.ts';
import { SourceMalformed, SourceUnavailable } from '../sources/errors.ts';
import type { PlannedSlot, SlotGroup } from '../sources/reading-plan.ts';
import { verifyContents } from '../sources/verify-contents.ts';
import { weightBlocks } from '../sources/weight-blocks.ts';
import { writeBasis, writeModeBases } from './basis-writer.ts';
import { passesOver, sideModesOf } from './choose-engine.ts';
import { Interrupted } from './errors.ts';
import { slotFindings } from './find-warnings.ts';
import { bytesOver, bytesToSpill, groupsInOrder, type ModelInPlan, makePlan, type Plan, type SlotSum } from './plan.ts';
import { describeDevice } from './render-plan.ts';
import {
  type BlockTiming,
  createRunFolder,
  createScratch,
  discardRunFolder,
  removeScratch,
  removeSpill,
  writeModels,
  writeRunJson,
  writeSlots,
  writeTimings,
} from './run-folder.ts';
import { type Alike, alikeInPages, alikeInSlot, duplicatesOf, sameModelFindings } from './same-models.ts';
import { exactHistory, type SlotHistory, spooledHistory } from './slot-history.ts';
import { evrAtCuts, namedEvr } from './slot-results.ts';
import { SlotTables } from './slot-tables.ts';
import { writeSnapshot } from './snapshot.ts';
import type { SlotSummary, Telemetry } from './telemetry.ts';
import { UpdateSpool } from './update-spool.ts';
import { WarningLog } from './warning-log.ts';

export interface RunControl {
  /** Looked at between blocks: a signal that asks the run to stop, or null. */
  readonly stopRequested: () => NodeJS.Signals | null;
}

export type RunError =
  | ConfigInvalid
  | SourceMalformed
  | SourceUnavailable
  | DeviceUnavailable
  | NumericalFailure
  | SinkFailed
  | Interrupted;

const failures = [
  ConfigInvalid,
  SourceMalformed,
  SourceUnavailable,
  DeviceUnavailable,
  NumericalFailure,
  SinkFailed,
  Interrupted,
];

const isRunError = (cause: unknown): cause is RunError => failures.some((failure) => cause instanceof failure);

/** Runs something that throws our own errors; all others are bugs. */
const attempt = <A>(step: () => A | Promise<A>): Effect.Effect<A, RunError> =>
  Effect.tryPromise({ try: async () => step(), catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (isRunError(cause) ? Effect.fail(cause) : Effect.die(cause))),
  );

/** Plans and executes a run; leaves a run folder, or nothing under a final name. */
export const run = (config: RunConfig, telemetry: Telemetry, control: RunControl): Effect.Effect<void, RunError> =>
  Effect.gen(function* () {
    const out = config.out;
    if (out === null) return yield* new ConfigInvalid({ issues: ['out: expected a folder, found none'] });
    // Before the plan, so that a wrong folder is told at once; and after it, when the models' own paths are known.
    yield* checkOutput(
      out,
      config.sources.filter((source) => source !== '-' && !source.startsWith('@')),
    );
    const planned = yield* makePlan(config);
    const { plan, contents } = config.verify ? yield* verified(planned) : { plan: planned, contents: new Map() };
    const paths = [...plan.models, ...(plan.base === null ? [] : [plan.base])].map(({ location }) => location.path);
    yield* checkOutput(out, paths);
    const scratchAdvice = 'name a larger file system with --scratch, or give more --memory';
    yield* checkFreeSpace([
      { folder: out, bytes: plan.bytesToWrite, advice: '--no-basis writes the least' },
      { folder: config.scratch ?? out, bytes: bytesToSpill(plan), advice: scratchAdvice },
    ]);
    yield* attempt(() => createRunFolder(out, config)).pipe(Effect.tapError(() => discard(out)));
    yield* Effect.scoped(
      Effect.gen(function* () {
        const events = yield* Effect.acquireRelease(
          attempt(() => openEventLog(join(out, 'events.ndjson'))),
          (log) => Effect.sync(() => log.close()),
        );
        const scratch = yield* Effect.acquireRelease(
          attempt(() => createScratch(out, config)),
          (folder) => Effect.sync(() => removeScratch(folder)),
        );
        const tiles = yield* Effect.acquireRelease(
          attempt(() => new TilePool(plan.device, config.threads)),
          (pool) => Effect.promise(() => pool.close()),
        );
        const execution = yield* Effect.acquireRelease(
          attempt(() => new Execution(out, scratch, plan, tiles, telemetry, events, control)),
          (execution) => Effect.promise(() => execution.abandon()),
        );
        yield* attempt(() => execution.stream());
        yield* attempt(() => execution.finish(contents));
      }),
    ).pipe(Effect.onError(() => discard(out)));
  });

/** `--verify`: the plan without the models whose weights are bad, or their fault. The base must be sound. */
const verified = (plan: Plan) =>
  Effect.gen(function* () {
    const { digests, faults } = yield* verifyContents(plan);
    const baseFault = plan.base === null ? undefined : faults.get(plan.base);
    const first = baseFault ?? [...faults.values()][0];
    if (first !== undefined && (plan.config.onBadSource === 'error' || baseFault !== undefined)) {
      return yield* Effect.fail(first);
    }
    const models = plan.models.filter((model) => !faults.has(model));
    if (models.length === 0) {
      return yield* new ConfigInvalid({ issues: [`sources: all models were skipped; the first: ${first?.message}`] });
    }
    const bad = plan.models.filter((model) => faults.has(model));
    const skipped = [
      ...plan.skipped,
      ...bad.map((model) => ({
        id: model.id,
        name: model.name,
        source: model.location.source,
        reason: faults.get(model)!.message,
      })),
    ].sort((a, b) => a.id - b.id);
    const bytesToRead = plan.bytesToRead - bytesOver(groupsInOrder(plan), bad);
    return { plan: { ...plan, models, skipped, bytesToRead }, contents: digests };
  });

const discard = (out: string): Effect.Effect<void> => Effect.sync(() => discardRunFolder(out));

/** As tables see it: a row vector of all weights. */
const slotOfSum = ({ id, name }: SlotSum, features: number): PlannedSlot => ({
  id,
  name,
  rows: 1,
  cols: features,
  features,
  tensorIn: () => {
    throw new Error(`${name} stands for several tensors`);
  },
});

/** One run's work and what it has gathered so far. */
class Execution {
  readonly #out: string;
  readonly #scratch: string;
  readonly #plan: Plan;
  readonly #tiles: TilePool;
  readonly #telemetry: Telemetry;
  readonly #control: RunControl;
  readonly #tables: SlotTables;
  readonly #summaries: SlotSummary[] = [];
  readonly #warnings: WarningLog;
  readonly #timings: BlockTiming[] = [];
  /** Models that data faults left out, by slot. */
  readonly #skipped = new Map<number, Map<number, string>>();
  readonly #modelOf: (id: number) => ModelInPlan;
  readonly #sums: ReadonlyMap<SlotSum, GramSum>;
  #alike: Alike;
  #spool: UpdateSpool | null = null;
  #started = 0;
  #blockStarted = 0;
  #bytesRead = 0;
  /** Milliseconds of finishing slots: files and table rows. */
  #writing = 0;
  /** Settles when the basis and mean files written so far are durable. */
  #durable: Promise<void> = Promise.resolve();
  /** Milliseconds of writing basis and mean files since the last block. */
  #writingSinceBlock = 0;

  constructor(
    out: string,
    scratch: string,
    plan: Plan,
    tiles: TilePool,
    telemetry: Telemetry,
    events: EventLog,
    control: RunControl,
  ) {
    this.#out = out;
    this.#scratch = scratch;
    this.#plan = plan;
    this.#tiles = tiles;
    this.#control = control;
    this.#telemetry = (event) => {
      telemetry(event);
      events.write(event);
    };
    this.#tables = new SlotTables(out, plan);
    this.#warnings = new WarningLog(out, this.#telemetry);
    const byId = new Map(plan.models.map((model) => [model.id, model]));
    this.#modelOf = (id) => byId.get(id)!;
    this.#sums = new Map(plan.sums.map((sum) => [sum, new GramSum(plan.models)]));
    this.#alike = alikeInPages(plan.models);
  }

  async stream(): Promise<void> {
    const { config, models, slots, leftOut, skipped, bytesToRead, device } = this.#plan;
    this.#telemetry({
      type: 'plan',
      models: models.length,
      slots: slots.length,
      leftOut: leftOut.length,
      skipped: skipped.length,
      groups: groupsInOrder(this.#plan).length,
      bytesToRead,
      device: describeDevice(this.#plan),
      threads: config.threads,
      memory: config.memory,
    });
    const nothing = { slot: null, slotId: null, model: null, modelId: null, value: null };
    for (const text of device.warnings) this.#warnings.add({ ...nothing, code: 'device', text });
    for (const { name, reason } of skipped) this.#telemetry({ type: 'skip', model: name, slot: null, reason });
    await this.#tiles.ready();
    this.#started = this.#blockStarted = performance.now();
    const results = concat(this.#models(), this.#sides());
    await lastValueFrom(results.pipe(ignoreElements()), { defaultValue: undefined });
    this.#closeSpool();
  }

  #models(): Observable<BlockUpdate> {
    if (this.#plan.groups.length === 0) return EMPTY;
    return this.#plan.engine === 'exact' ? this.#exact() : this.#incremental();
  }

  /** The modes rows and cols, always exact. */
  get #modesOptions(): ExactModesOptions<never> {
    const { config } = this.#plan;
    return {
      modes: sideModesOf(config),
      rank: config.rank,
      center: config.center,
      energies: config.energies,
      onBadSource: config.onBadSource,
      tiles: this.#tiles,
      finish: (found) => this.#finishModes(found),
    };
  }

  /** Groups that mode models does not share. */
  #sides(): Observable<BlockUpdate> {
    const plan = { ...this.#plan, groups: this.#plan.sideGroups };
    return exactModes<never>(plan, this.#modesOptions).pipe(tap((update) => this.#recordBlock(update)));
  }

  /** Groups that it shares. */
  #beside(group: SlotGroup): GroupModes | null {
    if (group.beside !== true) return null;
    const { engine, config, models, block } = this.#plan;
    const before = engine === 'exact' ? passesOver(engine, config) : Math.ceil(models.length / block);
    return new GroupModes(this.#plan, group, this.#modesOptions, before);
  }

  #exact(): Observable<BlockUpdate> {
    const { config } = this.#plan;
    const slots = exactPca<never>(this.#plan, {
      rank: config.rank,
      center: config.center,
      basis: config.basis,
      onBadSource: config.onBadSource,
      tiles: this.#tiles,
      scratch: this.#scratch,
      beside: (group) => this.#beside(group),
      onGram: (slot, models, gram) => {
        for (const [sum, total] of this.#sums) if (sum.slots.includes(slot)) total.add(slot, models, gram);
      },
      finish: (slot) => this.#finishSlot(slot.estimate, slot.subspace, () => exactHistory(slot)),
    }).pipe(tap((update) => this.#recordBlock(update)));
    const sums = defer(() => {
      this.#finishSums();
      return EMPTY;
    });
    return concat(slots, sums);
  }

  /** Whole models and modules, once all their slots are known. */
  #finishSums(): void {
    const start = performance.now();
    const { config, base, block } = this.#plan;
    for (const [sum, total] of this.#sums) {
      const { models, gram, features } = total.result();
      if (models.length === 0) continue;
      const slot = slotOfSum(sum, features);
      const { rank, center } = config;
      const spec = { features, rank, center, shiftIsOrigin: base !== null || !center };
      const spectrum = exactSpectrum(spec, gram, block, this.#tiles.solve);
      const signs = new Float64Array(spectrum.rank).fill(1);
      const estimate = { engine: 'exact', slot, spec, state: spectrum.state, rank: spectrum.rank, signs } as const;
      this.#summaries.push(this.#tables.appendSum(estimate, exactHistory({ models, estimate, spectrum })));
    }
    this.#writing += performance.now() - start;
  }

  #incremental(): Observable<BlockUpdate> {
    const { config } = this.#plan;
    return weightBlocks(this.#plan).pipe(
      map((block) => {
        this.#stopIfAsked(block.index);
        return block;
      }),
      incrementalPca<never>({
        rank: config.rank,
        center: config.center,
        onBadSource: config.onBadSource,
        tiles: this.#tiles,
        scratch: this.#scratch,
        beside: (group) => this.#beside(group),
        ...this.#snapshots(),
        finish: (subspace) => this.#finishSlot(subspace, subspace, () => spooledHistory(this.#spool!, subspace)),
      }),
      tap((update) => this.#recordBlock(update)),
    );
  }

  /** Gives the tables their names, run.json last. */
  async finish(contents: ReadonlyMap<number, string>): Promise<void> {
    const { config, models, bytesToRead, flops } = this.#plan;
    const fitted = (performance.now() - this.#started - this.#writing) / 1e3;
    await this.#durable;
    const duplicates = duplicatesOf(models, contents);
    for (const found of sameModelFindings(duplicates, this.#alike, this.#modelOf)) this.#warnings.add(found);
    this.#tables.close();
    writeSlots(this.#out, this.#plan);
    writeModels(this.#out, this.#plan, contents, duplicates);
    this.#warnings.close();
    // What was written since the last block belongs to it: a group's files are written at its end.
    const last = this.#timings.pop();
    if (last !== undefined) this.#timings.push({ ...last, write_s: last.write_s + this.#writingSinceBlock / 1e3 });
    writeTimings(this.#out, this.#timings);
    removeSpill(this.#out);
    writeRunJson(this.#out, this.#plan);
    this.#telemetry({
      type: 'done',
      out: config.out ?? this.#out,
      models: models.length,
      slots: this.#summaries,
      warnings: this.#warnings.groups,
      bytesRead: bytesToRead,
      fit_s: fitted,
      tables_s: (performance.now() - this.#started) / 1e3,
      flops,
      device: describeDevice(this.#plan),
    });
  }

  /** Leaves nothing half-written; what is finished has its name already. */
  async abandon(): Promise<void> {
    await this.#durable.catch(() => {});
    this.#tables.abort();
    this.#warnings.abort();
    this.#closeSpool();
    removeSpill(this.#out);
  }

  #closeSpool(): void {
    this.#spool?.close();
    this.#spool = null;
  }

  #stopIfAsked(block: number): void {
    const signal = this.#control.stopRequested();
    if (signal !== null)
      throw new Interrupted({ signal, detail: `stopped before block ${block + 1}; nothing was kept` });
  }

  #recordBlock(update: BlockUpdate): void {
    const { config, models, bytesToRead } = this.#plan;
    const { group, index } = update;
    const groups = groupsInOrder(this.#plan).length;
    if (index === 0) {
      this.#closeSpool();
      this.#spool = new UpdateSpool(join(this.#out, 'spill', `group-${String(group.index).padStart(4, '0')}.spool`));
      this.#telemetry({ type: 'group', group: group.index, groups, slots: group.slots.length });
    }
    for (const slot of update.slots) this.#spool!.append(index, config.rank, slot);
    for (const fault of update.skipped) {
      const bySlot = this.#skipped.get(fault.slot.id) ?? new Map<number, string>();
      // Another mode may have said so before.
      if (bySlot.has(fault.model.id)) continue;
      bySlot.set(fault.model.id, fault.error.message);
      this.#skipped.set(fault.slot.id, bySlot);
      const names = { model: fault.model.name, slot: fault.slot.name };
      this.#telemetry({ type: 'skip', ...names, reason: fault.error.message });
    }
    this.#bytesRead += update.bytes;
    const now = performance.now();
    this.#telemetry({
      type: 'block',
      group: group.index,
      groups,
      block: index,
      blocks: update.blocks,
      modelsSeen: update.modelsSeen,
      models: models.length,
      bytesRead: this.#bytesRead,
      bytesToRead,
      seconds: (now - this.#started) / 1e3,
      slots: update.slots.map(({ slot, update: { state, drift } }) => ({
        slot: slot.name,
        ...namedEvr(evrAtCuts(state.eigenvalues.subarray(0, config.rank), state.total, config.rank)),
        drift: drift[1]?.max ?? null,
      })),
    });
    this.#timings.push({
      group: group.index,
      block: index,
      models_seen: update.modelsSeen,
      seconds: (now - this.#blockStarted) / 1e3,
      bytes: update.bytes,
      read_s: update.readSeconds,
      wait_s: update.waitSeconds,
      widen_s: update.tileSeconds.widen,
      gram_s: update.tileSeconds.gram,
      mix_s: update.tileSeconds.mix,
      write_s: this.#writingSinceBlock / 1e3,
    });
    this.#writingSinceBlock = 0;
    this.#blockStarted = performance.now();
    this.#stopIfAsked(index + 1);
  }

  /** A slot's files and rows, while its state is still on the device. */
  #finishSlot(estimate: SubspaceEstimate, subspace: Subspace | null, history: () => SlotHistory): Observable<never> {
    return defer(async () => {
      const start = performance.now();
      const { slot } = estimate;
      const { summary, models } = this.#tables.append(estimate, history(), this.#skippedOf(slot.id));
      this.#summaries.push(summary);
      for (const found of slotFindings(estimate, models, this.#modelOf)) this.#warnings.add(found);
      this.#alike = alikeInSlot(this.#alike, estimate, models);
      if (this.#plan.config.basis && subspace !== null) await this.#writeBasis(subspace);
      this.#writing += performance.now() - start;
    }).pipe(mergeMap(() => EMPTY));
  }

  #finishModes(found: ModesOfSlot): Observable<never> {
    return defer(() => {
      const start = performance.now();
      const { config } = this.#plan;
      this.#summaries.push(...this.#tables.appendModes(found, this.#skippedOf(found.slot.id)));
      if (config.basis) {
        const alone = !config.mode.includes('models');
        for (const [file, bytes] of writeModeBases(this.#out, found, alone))
          this.#telemetry({ type: 'write', file, bytes });
      }
      const spent = performance.now() - start;
      this.#writing += spent;
      this.#writingSinceBlock += spent;
      return EMPTY;
    });
  }

  /** The disk may take its time while the next group is folded, but never for more than one slot's files. */
  async #writeBasis(subspace: Subspace): Promise<void> {
    await this.#durable;
    const start = performance.now();
    const { bytes, durable } = await writeBasis(this.#out, subspace);
    this.#durable = durable.then(() => {
      this.#writingSinceBlock += performance.now() - start;
      for (const [file, written] of bytes) this.#telemetry({ type: 'write', file, bytes: written });
    });
    // Whoever waits for it is told; until then nobody does.
    this.#durable.catch(() => {});
  }

  #skippedOf(slotId: number): ReadonlyMap<number, string> {
    return this.#skipped.get(slotId) ?? new Map();
  }

  /** What makes the snapshots, where they are asked for. */
  #snapshots(): Pick<IncrementalPcaOptions<never>, 'snapshot'> {
    const every = this.#plan.config.snapshotEvery;
    if (every === null) return {};
    const use = (estimates: readonly SubspaceEstimate[], update: BlockUpdate): Observable<never> =>
      defer(() => {
        const start = performance.now();
        const folder = writeSnapshot(this.#out, this.#plan, update, estimates, this.#spool!, (id) =>
          this.#skippedOf(id),
        );
        this.#telemetry({ type: 'snapshot', folder, modelsSeen: update.modelsSeen });
        this.#writing += performance.now() - start;
        return EMPTY;
      });
    return { snapshot: { every, use } };
  }
}
