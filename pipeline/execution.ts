// One run's work: the engines' results become tables, files and telemetry, and checkpoints are written between them.
import {
  concat,
  concatMap,
  defer,
  EMPTY,
  from,
  ignoreElements,
  lastValueFrom,
  map,
  mergeMap,
  type Observable,
  tap,
} from 'rxjs';
import { type ModelVectors, modelVectors } from '../operators/core-tensor.ts';
import type { DeviceFailed } from '../operators/errors.ts';
import { exactAdapters } from '../operators/exact-adapters.ts';
import { type ExactModesOptions, exactModes, GroupModes, type ModesOfSlot } from '../operators/exact-modes.ts';
import { type ExactPcaOptions, exactPca } from '../operators/exact-pca.ts';
import { type ExactGram, type ExactSpectrum, exactSpectrum, signsOfCoordinates } from '../operators/exact-spectrum.ts';
import { GramSum } from '../operators/gram-sum.ts';
import type { RestoredGroup } from '../operators/incremental-engine.ts';
import {
  type BlockUpdate,
  type IncrementalPcaOptions,
  incrementalPca,
  type SavedEngine,
} from '../operators/incremental-pca.ts';
import { nearDuplicates } from '../operators/near-duplicates.ts';
import { rehearseSpectrum, rehearseUpdate } from '../operators/rehearse.ts';
import type { Subspace, SubspaceEstimate } from '../operators/subspace.ts';
import type { StreamingEngine } from '../operators/subspace-state.ts';
import type { TilePool } from '../operators/tile-pool.ts';
import type { Recovered } from '../sinks/checkpoint-store.ts';
import type { EventLog } from '../sinks/events.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../sources/reading-plan.ts';
import { blocksAlive, weightBlocks } from '../sources/weight-blocks.ts';
import { AdapterStarts } from './adapter-starts.ts';
import { adapterWarnings } from './adapter-warnings.ts';
import { BasisWindows, writeBasis, writeModeBases } from './basis-writer.ts';
import type { Begin } from './begin.ts';
import {
  Checkpoints,
  type CheckpointsOptions,
  type PendingSlots,
  type Position,
  type RunContent,
} from './checkpoints.ts';
import { followerOf, keepsState, largestSideOf, passesOver, sideModesOf } from './choose-engine.ts';
import { withCores } from './core-results.ts';
import { Interrupted } from './errors.ts';
import { fewModels } from './few-models.ts';
import { slotFindings } from './find-warnings.ts';
import type { Lease } from './lease.ts';
import type { ModelInPlan, Plan, SlotSum } from './plan.ts';
import { groupsInOrder, stateBytes } from './plan-figures.ts';
import { quoted } from './quoted.ts';
import { describeDevice } from './render-plan.ts';
import {
  type BlockTiming,
  publishResults,
  removeSpill,
  resultsFolder,
  writeModels,
  writeRunJson,
  writeSlots,
  writeTimings,
} from './run-folder.ts';
import type { JournalEntry } from './run-journal.ts';
import { type Alike, alikeInPages, alikeInSlot, duplicatesOf, sameModelFindings } from './same-models.ts';
import { exactHistory, type SlotHistory, spooledHistory } from './slot-history.ts';
import { slotProgress } from './slot-progress.ts';
import { SlotTables } from './slot-tables.ts';
import { writeSnapshot } from './snapshot.ts';
import type { SlotSummary, Telemetry } from './telemetry.ts';
import { WarningLog } from './warning-log.ts';

export interface RunControl {
  /** Looked at between blocks: a signal that asks the run to stop, or null. */
  readonly stopRequested: () => NodeJS.Signals | null;
}

/** What a run goes on from. */
export interface Going {
  readonly recovered: Recovered<RunContent>;
  readonly roots: RunContent['roots'];
  readonly inexact: RunContent['inexact'];
  /** With more models, from a finished run. */
  readonly extends: boolean;
  /** Of the GPU that it ran on before; null where it goes on for another reason. */
  readonly failure: DeviceFailed | null;
}

export interface ExecutionOptions {
  readonly out: string;
  readonly scratch: string;
  readonly plan: Plan;
  readonly tiles: TilePool;
  readonly telemetry: Telemetry;
  readonly events: EventLog;
  readonly control: RunControl;
  readonly lease: Lease;
  readonly begin: Begin;
  /** Null for a new run. */
  readonly going: Going | null;
}

const AT_THE_BEGINNING: Position = {
  done: { models: 0, sides: 0 },
  groups: 0,
  sums: null,
  sumsDone: false,
  bytesRead: 0,
  bytesToRead: 0,
  seconds: 0,
  events: { size: 0, seq: 0 },
};

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
export class Execution {
  readonly #out: string;
  /** Where tables, basis and mean files are written. */
  readonly #results: string;
  readonly #scratch: string;
  readonly #plan: Plan;
  readonly #tiles: TilePool;
  readonly #telemetry: Telemetry;
  readonly #control: RunControl;
  readonly #events: EventLog;
  readonly #tables: SlotTables;
  readonly #summaries: SlotSummary[] = [];
  readonly #warnings: WarningLog;
  readonly #timings: BlockTiming[] = [];
  /** Models that data faults left out, by slot. */
  readonly #skipped = new Map<number, Map<number, string>>();
  readonly #windows = new BasisWindows();
  /** Directions of mode models that the core tensor is made of, by slot; none where it is not asked for. */
  readonly #vectors = new Map<number, ModelVectors>();
  readonly #modelOf: (id: number) => ModelInPlan;
  readonly #sums: Map<SlotSum, GramSum>;
  readonly #checkpoints: Checkpoints;
  readonly #lease: Lease;
  readonly #going: Going | null;
  /** Where the run this one continues stood. */
  readonly #before: Position;
  #done: Position['done'];
  #groupsDone: number;
  #sumsDone: boolean;
  /** Whether the sums have something of the running group, of which a checkpoint between groups would know nothing. */
  #sumsAhead = false;
  /** What is found out from here on is found out again by whoever resumes: the last group is finishing. */
  #isFinal = false;
  #group = -1;
  #saved: PendingSlots | null = null;
  #alike: Alike;
  /** Null before they were looked for, and where there are no adapters. */
  #starts: AdapterStarts | null = null;
  /** Models that are as good as copies of an earlier one, which is the value. */
  #copies: ReadonlyMap<number, number> = new Map();
  #started = 0;
  #blockStarted = 0;
  #bytesRead: number;
  /** Milliseconds that are none of the fit: writing results (states that are kept, files, table rows), and looking for copies. */
  #besideFit = 0;
  /** Settles when the basis and mean files written so far are durable. */
  #durable: Promise<void> = Promise.resolve();
  /** Milliseconds of writing basis and mean files since the last block. */
  #writingSinceBlock = 0;

  constructor({ out, scratch, plan, tiles, telemetry, events, control, lease, begin, going }: ExecutionOptions) {
    this.#out = out;
    this.#results = resultsFolder(out, plan);
    this.#scratch = scratch;
    this.#plan = plan;
    this.#tiles = tiles;
    this.#control = control;
    this.#going = going;
    this.#lease = lease;
    this.#events = events;
    this.#telemetry = (event) => {
      telemetry(event);
      events.write(event);
    };
    const record = (entry: JournalEntry): void => this.#record(entry);
    this.#tables = new SlotTables(this.#results, plan, {
      record: (rows) => record({ kind: 'rows', rows }),
      effective: (ids) => this.#starts?.effective(ids) ?? null,
    });
    this.#warnings = new WarningLog(this.#results, this.#telemetry, (finding) => record({ kind: 'warning', finding }));
    const byId = new Map(plan.models.map((model) => [model.id, model]));
    this.#modelOf = (id) => byId.get(id)!;
    this.#alike = alikeInPages(plan.models);
    const content = going?.recovered.manifest?.content;
    this.#before = going?.extends === false ? content! : AT_THE_BEGINNING;
    const { done, groups, sumsDone, bytesRead } = this.#before;
    this.#done = done;
    this.#groupsDone = groups;
    this.#sumsDone = sumsDone;
    this.#bytesRead = bytesRead;
    this.#sums = new Map(sumsDone ? [] : plan.sums.map((sum) => [sum, new GramSum(plan.models)]));
    const { config } = plan;
    const options: CheckpointsOptions = {
      run: out,
      lease,
      begin,
      every: config.checkpointEvery,
      expectedBytes: stateBytes(plan).group,
      roots: going?.roots ?? [],
      inexact: going?.inexact ?? [],
      outputs: () => this.#durable,
      written: (checkpoint, seconds) => this.#telemetry({ type: 'checkpoint', checkpoint, seconds }),
    };
    const carried: JournalEntry[] = [];
    this.#checkpoints =
      going === null
        ? Checkpoints.create(options)
        : going.extends
          ? Checkpoints.extend(options, going.recovered, (entry) => carried.push(entry))
          : Checkpoints.reopen(options, going.recovered, (entry) => this.#replay(entry));
    for (const entry of carried) this.#carry(entry);
    if (this.#before.sums !== null) this.#loadSums(this.#before.sums);
  }

  #record(entry: JournalEntry): void {
    if (!this.#isFinal) this.#checkpoints.journal.write(entry);
  }

  #replay(entry: JournalEntry): void {
    if (entry.kind === 'rows') this.#tables.replay(entry.rows);
    else if (entry.kind === 'warning') this.#warnings.replay(entry.finding);
    else if (entry.kind === 'copies') this.#copies = new Map(entry.copies);
    else if (entry.kind === 'timing') this.#timings.push(entry.timing);
    else if (entry.kind === 'skip') this.#leaveOut(entry.slot, entry.model, entry.reason);
    else if (entry.kind === 'summary') this.#summaries.push(entry.summary);
    else if (entry.kind === 'vectors') this.#vectors.set(entry.slot, entry.vectors);
    else this.#alike = entry.alike;
  }

  /** Takes what an extension needs of the run before it: the tables are made anew. */
  #carry(entry: JournalEntry): void {
    if (entry.kind !== 'timing' && entry.kind !== 'skip') return;
    this.#replay(entry);
    this.#record(entry);
  }

  /** @param lost blocks that are folded again */
  async stream(lost: number): Promise<void> {
    const { config, models, slots, leftOut, skipped, device } = this.#plan;
    const isNew = this.#going === null || this.#going.extends;
    const groups = this.#groupCount;
    if (isNew)
      this.#telemetry({
        type: 'plan',
        models: models.length,
        slots: slots.length,
        leftOut: leftOut.length,
        skipped: skipped.length,
        groups,
        bytesToRead: this.#bytesToRead,
        device: describeDevice(this.#plan),
        threads: config.threads,
        memory: config.memory,
      });
    const nothing = { slot: null, slotId: null, model: null, modelId: null, value: null };
    if (isNew) {
      for (const text of device.warnings) this.#warnings.add({ ...nothing, code: 'device', text });
      const few = fewModels(this.#plan);
      if (few !== null) this.#warnings.add({ ...nothing, code: 'few-models', value: models.length, text: few });
      for (const text of adapterWarnings(this.#plan)) this.#warnings.add({ ...nothing, code: 'lora-factors', text });
      for (const { name, reason } of skipped) this.#telemetry({ type: 'skip', model: name, slot: null, reason });
    } else {
      this.#tellResumed(lost);
      const failure = this.#going?.failure ?? null;
      if (failure !== null) {
        const text = `${failure.message}; what came after the last checkpoint is folded again on ${describeDevice(this.#plan)}`;
        this.#warnings.add({ ...nothing, code: 'device', text });
      }
    }
    this.#checkpoints.mark(this.#position());
    if (isNew) this.#checkpoints.commitMark();
    await this.#rehearse();
    await this.#tiles.ready();
    this.#blockStarted = performance.now();
    this.#started = this.#blockStarted - this.#before.seconds * 1e3;
    this.#starts = await AdapterStarts.find(this.#plan, this.#tiles.multiplyDouble);
    const shared = this.#starts?.finding ?? null;
    // A run that goes on may have said so before.
    if (shared !== null && !this.#warnings.has(shared.code)) this.#warnings.add(shared);
    this.#blockStarted = performance.now();
    const results = concat(this.#models(), this.#sides());
    await lastValueFrom(results.pipe(ignoreElements()), { defaultValue: undefined });
  }

  /** The threads are starting, and nothing else is to be done. */
  async #rehearse(): Promise<void> {
    const { engine, config, groups } = this.#plan;
    const [first] = groups;
    if (first === undefined || first.factored !== undefined) return;
    const { features } = first.slots[0]!;
    if (engine === 'exact') await rehearseSpectrum({ features, center: config.center }, this.#tiles);
    else if (engine === 'incremental') rehearseUpdate({ features, center: config.center, engine }, this.#tiles);
  }

  #tellResumed(lost: number): void {
    const { manifest, damages } = this.#going!.recovered;
    const folded = groupsInOrder(this.#plan)[0]?.group.folded;
    this.#telemetry({
      type: 'resumed',
      checkpoint: manifest!.sequence,
      groups: this.#groupCount,
      group: this.#before.groups,
      block: folded?.blocks ?? 0,
      modelsSeen: folded?.models ?? 0,
      bytesRead: this.#before.bytesRead,
      seconds: this.#before.seconds,
      lost,
      damages: damages.map(({ message }) => message),
    });
  }

  get #keepsState(): boolean {
    return keepsState(this.#plan.engine, this.#plan.config);
  }

  get #groupCount(): number {
    return this.#before.groups + groupsInOrder(this.#plan).length;
  }

  get #bytesToRead(): number {
    return this.#before.bytesRead + this.#plan.bytesToRead;
  }

  #position(): Position {
    return {
      done: this.#done,
      groups: this.#groupsDone,
      sums: null,
      sumsDone: this.#sumsDone,
      bytesRead: this.#bytesRead,
      bytesToRead: this.#bytesToRead,
      seconds: this.#started === 0 ? this.#before.seconds : (performance.now() - this.#started) / 1e3,
      events: this.#events.position,
    };
  }

  /** After a group's block: its states are written where a checkpoint is due, or where they are to be kept. */
  async #afterBlock({ group, index, blocks, modelsSeen, bytes }: BlockUpdate, engine: SavedEngine): Promise<void> {
    const { config, models, block } = this.#plan;
    const stop = this.#control.stopRequested();
    const isLast = index === blocks - 1;
    const folded = bytes === 0 ? 0 : Math.min(block, models.length);
    const due = (await this.#isDue(folded)) || stop !== null;
    if (due || (isLast && !config.dropState)) {
      await engine.rested();
      const start = performance.now();
      const at = { first: group.slots[0]!.id, slots: group.slots.length, models: modelsSeen, blocks: index + 1 };
      const slots = await this.#checkpoints.save(at, (file) => engine.save(file), engine.beside);
      if (isLast && !config.dropState) this.#saved = slots;
      if (due) this.#checkpoints.commitRunning(slots, this.#position());
      const spent = performance.now() - start;
      this.#writingSinceBlock += spent;
      // A result like the basis, but for the mixing that its rows still owed; checkpoints on the way are a part of the fit.
      if (isLast && !config.dropState) this.#besideFit += spent - (this.#takeMixing() * 1e3) / config.threads;
    }
    if (stop !== null) await this.#stop(stop);
  }

  /** Seconds of all threads' mixing since the last block was recorded, which belong to it. */
  #takeMixing(): number {
    const { mix } = this.#tiles.takeTimings();
    this.#addToLastBlock('mix_s', mix);
    return mix;
  }

  #addToLastBlock(part: 'mix_s' | 'write_s', seconds: number): void {
    const last = this.#timings.pop();
    if (last !== undefined) this.#timings.push({ ...last, [part]: last[part] + seconds });
  }

  /** Throws where all further work would be lost: a checkpoint failed, or somebody else has the run. */
  #checkGoesOn(): void {
    if (this.#lease.isLost) this.#lease.check();
    this.#checkpoints.check();
  }

  /** After a part of a group that is done again from its beginning. */
  async #afterPart(): Promise<void> {
    this.#checkGoesOn();
    const stop = this.#control.stopRequested();
    if (stop !== null && !this.#sumsAhead) await this.#stop(stop);
  }

  async #afterGroup(group: SlotGroup, modes: 'models' | 'sides'): Promise<void> {
    const { models, sides } = this.#done;
    const count = group.slots.length;
    this.#done =
      modes === 'sides'
        ? { models, sides: sides + count }
        : { models: models + count, sides: group.beside === true ? sides + count : sides };
    this.#groupsDone++;
    this.#sumsAhead = false;
    if (this.#saved !== null) this.#checkpoints.keep(this.#saved);
    else if (modes === 'models' && group.folded !== undefined && this.#keepsState && !this.#plan.config.dropState)
      this.#checkpoints.keepRestored(group.slots[0]!.id, count);
    this.#saved = null;
    this.#checkpoints.mark(this.#position());
    const stop = this.#control.stopRequested();
    const folded = !this.#keepsState || modes === 'sides' ? this.#plan.models.length : 0;
    if ((await this.#isDue(folded)) && !this.#isFinal) this.#commitMark();
    if (stop !== null && !this.#isFinal) await this.#stop(stop);
  }

  /** Where checkpoints come as asked, the disk is waited for; else one more is left out while it is busy. */
  async #isDue(models: number): Promise<boolean> {
    this.#checkGoesOn();
    if (!this.#checkpoints.pace.isDue(models)) return false;
    if (this.#plan.config.checkpointEvery === null) return !this.#checkpoints.isBusy;
    await this.#checkpoints.settled();
    return true;
  }

  #commitMark(): void {
    this.#checkpoints.commitMark(this.#sums.size === 0 ? null : () => this.#saveSums());
  }

  #saveSums(): readonly Uint8Array[] {
    return [...this.#sums.values()].map((sum) => new Uint8Array(sum.save().buffer));
  }

  /** One after the other: each may be as large as an array can be. */
  #loadSums(file: string): void {
    let at = 0;
    for (const sum of this.#sums.values()) {
      const saved = new Float64Array(sum.savedLength);
      this.#checkpoints.read(file, new Uint8Array(saved.buffer), at);
      sum.load(saved);
      at += saved.byteLength;
    }
  }

  async #stop(signal: NodeJS.Signals): Promise<never> {
    this.#commitMark();
    await this.#checkpoints.settled();
    const { bytesRead, seconds } = this.#position();
    this.#telemetry({ type: 'stopped', signal, bytesRead, bytesToRead: this.#bytesToRead, seconds });
    throw new Interrupted({
      signal,
      canResume: true,
      detail: `stopped; go on with: weightspan resume ${quoted(this.#out)}`,
    });
  }

  #models(): Observable<BlockUpdate> {
    // Of a run that goes on all groups may be done, and their sums not.
    if (this.#plan.groups.length === 0 && this.#sums.size === 0) return EMPTY;
    const [first] = this.#plan.groups;
    if (first?.factored !== undefined) return concat(this.#factored(this.#plan.groups, 'models'), this.#sumsAtEnd());
    return this.#plan.engine === 'exact' ? this.#exact() : this.#incremental();
  }

  /** The modes rows and cols, always exact. */
  get #modesOptions(): ExactModesOptions<never> {
    const { config } = this.#plan;
    return {
      modes: sideModesOf(config),
      largestSide: largestSideOf(config),
      follower: followerOf(config),
      rank: config.rank,
      center: config.center,
      energies: config.energies,
      ...(config.core ? { vectorsOf: ({ id }) => this.#vectors.get(id) ?? null } : {}),
      onBadSource: config.onBadSource,
      tiles: this.#tiles,
      finish: (found) => this.#finishModes(found),
      afterGroup: (group) => this.#afterGroup(group, 'sides'),
    };
  }

  /** Groups that mode models does not share. */
  #sides(): Observable<BlockUpdate> {
    if (this.#plan.sideGroups[0]?.factored !== undefined) return this.#factored(this.#plan.sideGroups, 'sides');
    const plan = { ...this.#plan, groups: this.#plan.sideGroups };
    return exactModes<never>(plan, this.#modesOptions).pipe(this.#inParts);
  }

  /** Groups that it shares. */
  #beside(group: SlotGroup): GroupModes | null {
    if (group.beside !== true) return null;
    const { engine, basis, config, models, block } = this.#plan;
    const passes = passesOver(engine, basis, config);
    const before = engine === 'exact' ? passes : passes * Math.ceil(models.length / block);
    const modes = new GroupModes(this.#plan, group, this.#modesOptions, before);
    if (group.folded !== undefined) this.#checkpoints.restoreSides(group.slots[0]!.id, group.slots.length, modes);
    return modes;
  }

  #exact(): Observable<BlockUpdate> {
    const { config } = this.#plan;
    const slots = exactPca<never>(this.#plan, {
      rank: config.rank,
      center: config.center,
      basis: this.#plan.basis,
      onBadSource: config.onBadSource,
      tiles: this.#tiles,
      solvers: this.#plan.solvers,
      scratch: this.#scratch,
      beside: (group) => this.#beside(group),
      onSpectrum: (slot, models, spectrum) => this.#keepVectors(slot, models, spectrum),
      ...this.#exactSlots,
      afterGroup: (group) => this.#afterGroup(group, 'models'),
    }).pipe(this.#inParts);
    return concat(slots, this.#sumsAtEnd());
  }

  #keepVectors(slot: PlannedSlot, models: readonly PlannedModel[], spectrum: ExactSpectrum): void {
    if (!this.#plan.config.core) return;
    const vectors = modelVectors(models, spectrum);
    this.#vectors.set(slot.id, vectors);
    // Where the modes share the reading, whoever resumes finds them again with the rest of the group.
    if (this.#plan.sideGroups.length > 0) this.#record({ kind: 'vectors', slot: slot.id, vectors });
  }

  /** Models that are near-duplicates of an earlier one, by the inner products of all their weights. */
  #findCopies(models: readonly PlannedModel[], gram: ExactGram): void {
    const { duplicateOf } = nearDuplicates(gram);
    const copies = models.flatMap(({ id }, i): [number, number][] =>
      duplicateOf[i]! < 0 ? [] : [[id, models[duplicateOf[i]!]!.id]],
    );
    this.#copies = new Map(copies);
    this.#record({ kind: 'copies', copies });
  }

  /** What becomes of a slot in engine exact and mode models, however its Gram matrix was made. */
  get #exactSlots(): Pick<ExactPcaOptions<never>, 'onGram' | 'finish'> {
    return {
      onGram: (slot, models, gram) => {
        this.#sumsAhead ||= this.#sums.size > 0;
        for (const [sum, total] of this.#sums) if (sum.slots.includes(slot)) total.add(slot, models, gram);
        if (this.#plan.slots.length > 1) return;
        // Of several slots that is found with their sums.
        const start = performance.now();
        this.#findCopies(models, gram);
        this.#besideFit += performance.now() - start;
      },
      finish: (slot) => this.#finishSlot(slot.estimate, slot.subspace, () => exactHistory(slot)),
    };
  }

  /** What becomes of a stream whose groups are done again from their beginning where a run is stopped within one. */
  readonly #inParts = (stream: Observable<BlockUpdate>): Observable<BlockUpdate> =>
    stream.pipe(
      tap((update) => this.#recordBlock(update)),
      concatMap((update) => from(this.#afterPart()).pipe(map(() => update))),
    );

  #sumsAtEnd(): Observable<never> {
    return defer(() => this.#finishSums()).pipe(ignoreElements());
  }

  /** Adapters by their factors, in all modes. */
  #factored(groups: readonly SlotGroup[], modes: 'models' | 'sides'): Observable<BlockUpdate> {
    const { config } = this.#plan;
    return exactAdapters<never>(
      { ...this.#plan, groups },
      {
        modes: config.mode,
        rank: config.rank,
        center: config.center,
        energies: config.energies,
        core: config.core,
        onBadSource: config.onBadSource,
        tiles: this.#tiles,
        solvers: this.#plan.solvers,
        ...this.#exactSlots,
        finishModes: (found) => this.#finishModes(found),
        afterGroup: (group) => this.#afterGroup(group, modes),
      },
    ).pipe(this.#inParts);
  }

  /** Whole models and modules, once all their slots are known. */
  async #finishSums(): Promise<void> {
    const start = performance.now();
    const { config, base, block } = this.#plan;
    for (const [sum, total] of this.#sums) {
      const { models, gram, features } = total.result();
      if (models.length === 0) continue;
      if (sum.slots.length === this.#plan.slots.length) this.#findCopies(models, gram);
      const slot = slotOfSum(sum, features);
      const { rank, center } = config;
      const shiftIsOrigin = base !== null || !center || sum.slots.every(({ isDelta }) => isDelta === true);
      const spec = { features, rank, center, shiftIsOrigin };
      const spectrum = await exactSpectrum(spec, gram, block, this.#tiles, this.#plan.solvers);
      const signs = signsOfCoordinates(spectrum);
      const estimate = { engine: 'exact', slot, spec, state: spectrum.state, rank: spectrum.rank, signs } as const;
      this.#summarise(this.#tables.appendSum(estimate, exactHistory({ models, estimate, spectrum })));
    }
    this.#sums.clear();
    this.#sumsDone = true;
    this.#checkpoints.mark(this.#position());
    this.#besideFit += performance.now() - start;
  }

  #incremental(): Observable<BlockUpdate> {
    const { config } = this.#plan;
    const { passes, seed } = config;
    return weightBlocks({ ...this.#plan, passes }).pipe(
      incrementalPca<never>({
        engine: this.#plan.engine as StreamingEngine,
        seed,
        rank: config.rank,
        center: config.center,
        onBadSource: config.onBadSource,
        tiles: this.#tiles,
        scratch: this.#scratch,
        blocksAlive: blocksAlive(this.#plan.groups),
        beside: (group) => this.#beside(group),
        ...this.#snapshots(),
        restore: (group) => this.#restore(group),
        checkpoint: (update, engine) => (this.#keepsState ? this.#afterBlock(update, engine) : this.#afterPart()),
        mayVisitAhead: () => {
          const { models, block } = this.#plan;
          const due = this.#checkpoints.pace.isDueAfter(Math.min(block, models.length));
          return !due && this.#control.stopRequested() === null;
        },
        afterGroup: (group) => this.#afterGroup(group, 'models'),
        finish: (subspace) =>
          this.#finishSlot(subspace, subspace, () =>
            spooledHistory(this.#checkpoints.spool, subspace, this.#tiles.multiplyDouble),
          ),
      }),
      tap((update) => this.#recordBlock(update)),
    );
  }

  /** Gives the tables their names, run.json last; then the state that `extend` goes on from. */
  async finish(contents: ReadonlyMap<number, string>): Promise<void> {
    const { config, models, flops } = this.#plan;
    const fitted = (performance.now() - this.#started - this.#besideFit) / 1e3;
    this.#isFinal = true;
    await this.#durable;
    // From here on results get their names, which is not undone.
    this.#lease.check();
    const duplicates = duplicatesOf(models, contents);
    for (const found of sameModelFindings(duplicates, this.#alike, this.#copies, this.#modelOf))
      this.#warnings.add(found);
    this.#tables.close();
    writeSlots(this.#results, this.#plan);
    const originals = new Map([...this.#copies, ...duplicates]);
    writeModels(this.#results, this.#plan, contents, originals, (id) => this.#starts?.groupOf(id) ?? null);
    this.#warnings.close();
    // What was written since the last block belongs to it: a group's files are written at its end.
    this.#addToLastBlock('write_s', this.#writingSinceBlock / 1e3);
    writeTimings(this.#results, this.#timings);
    removeSpill(this.#out);
    writeRunJson(this.#results, this.#plan, this.#going?.inexact ?? []);
    publishResults(this.#out, this.#plan);
    const tables = (performance.now() - this.#started) / 1e3;
    this.#checkpoints.commitFinished(this.#position());
    await this.#checkpoints.settled();
    this.#checkpoints.close();
    this.#telemetry({
      type: 'done',
      out: config.out ?? this.#out,
      models: models.length,
      slots: withCores(this.#summaries, this.#plan.slots, this.#tables),
      warnings: this.#warnings.groups,
      bytesRead: this.#bytesRead,
      fit_s: fitted,
      tables_s: tables,
      flops,
      device: describeDevice(this.#plan),
    });
  }

  /**
   * Leaves a word in the events for those who watch or come later; a run that was asked to stop has said so itself, and the
   * events of one that was taken over are somebody else's.
   */
  tellFailure(error: { readonly name: string; readonly message: string }): void {
    if (error instanceof Interrupted || this.#lease.isLost) return;
    this.#events.write({ type: 'failed', error: error.name, message: error.message });
  }

  /**
   * Leaves nothing half-written; what is finished has its name already, and checkpoints stay. Where the run was taken over,
   * files under those names are somebody else's by now.
   */
  async abandon(): Promise<void> {
    await this.#durable.catch(() => {});
    await this.#checkpoints.settled().catch(() => {});
    this.#checkpoints.close();
    if (this.#lease.isLost) return;
    this.#tables.abort();
    this.#warnings.abort();
    removeSpill(this.#out);
  }

  #restore(group: SlotGroup): RestoredGroup | null {
    return group.folded === undefined ? null : this.#checkpoints.restore(group.slots[0]!.id, group.slots.length);
  }

  #summarise(summary: SlotSummary): void {
    this.#summaries.push(summary);
    this.#record({ kind: 'summary', summary });
  }

  #leaveOut(slot: number, model: number, reason: string): void {
    const bySlot = this.#skipped.get(slot) ?? new Map<number, string>();
    bySlot.set(model, reason);
    this.#skipped.set(slot, bySlot);
  }

  #recordBlock(update: BlockUpdate): void {
    const { config, models } = this.#plan;
    const { group, index } = update;
    const groups = this.#groupCount;
    if (this.#group !== group.index) {
      this.#group = group.index;
      this.#telemetry({ type: 'group', group: group.index, groups, slots: group.slots.length });
    }
    for (const slot of update.slots) this.#checkpoints.spool.append(index, config.rank, slot);
    for (const { slot, model, error } of update.skipped) {
      // Another mode may have said so before.
      if (this.#skippedOf(slot.id).has(model.id)) continue;
      this.#leaveOut(slot.id, model.id, error.message);
      this.#record({ kind: 'skip', slot: slot.id, model: model.id, reason: error.message });
      this.#telemetry({ type: 'skip', model: model.name, slot: slot.name, reason: error.message });
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
      bytesToRead: this.#bytesToRead,
      seconds: (now - this.#started) / 1e3,
      slots: update.slots.map((slot) => slotProgress(slot, config)),
    });
    const timing: BlockTiming = {
      group: group.index,
      block: index,
      models_seen: update.modelsSeen,
      seconds: (now - this.#blockStarted) / 1e3,
      bytes: update.bytes,
      read_s: update.readSeconds + update.tileSeconds.read,
      wait_s: update.waitSeconds,
      widen_s: update.tileSeconds.widen,
      gram_s: update.tileSeconds.gram,
      mix_s: update.tileSeconds.mix,
      write_s: this.#writingSinceBlock / 1e3,
    };
    this.#timings.push(timing);
    this.#record({ kind: 'timing', timing });
    this.#writingSinceBlock = 0;
    this.#blockStarted = performance.now();
    const isLastGroup = group.index === groups - 1;
    // Only a group that goes on from its blocks needs them again; its results are found out again, as is all of the others.
    const beginsAgain = !this.#keepsState || this.#plan.sideGroups.includes(group);
    this.#isFinal ||= isLastGroup && (beginsAgain || index === update.blocks - 1);
  }

  /** A slot's files and rows, while its state is still on the device. */
  #finishSlot(estimate: SubspaceEstimate, subspace: Subspace | null, history: () => SlotHistory): Observable<never> {
    return defer(async () => {
      const start = performance.now();
      const { slot } = estimate;
      const { summary, models } = this.#tables.append(estimate, history(), this.#skippedOf(slot.id));
      this.#summarise(summary);
      for (const found of slotFindings(estimate, models, this.#modelOf)) this.#warnings.add(found);
      this.#alike = alikeInSlot(this.#alike, estimate, models);
      this.#record({ kind: 'alike', alike: this.#alike });
      if (this.#plan.basis && subspace !== null) await this.#writeBasis(subspace);
      this.#besideFit += performance.now() - start;
    }).pipe(mergeMap(() => EMPTY));
  }

  #finishModes(found: ModesOfSlot): Observable<never> {
    return defer(() => {
      const start = performance.now();
      const { config } = this.#plan;
      this.#vectors.delete(found.slot.id);
      for (const summary of this.#tables.appendModes(found, this.#skippedOf(found.slot.id))) this.#summarise(summary);
      if (config.basis !== false) {
        const alone = !config.mode.includes('models');
        for (const [file, bytes] of writeModeBases(this.#results, found, alone))
          this.#telemetry({ type: 'write', file, bytes });
      }
      const spent = performance.now() - start;
      this.#besideFit += spent;
      this.#writingSinceBlock += spent;
      return EMPTY;
    });
  }

  /** The disk may take its time while the next group is folded, but never for more than one slot's files. */
  async #writeBasis(subspace: Subspace): Promise<void> {
    await this.#durable;
    const start = performance.now();
    const { bytes, durable } = await writeBasis(this.#results, subspace, this.#windows);
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
        const folder = writeSnapshot(
          this.#out,
          this.#plan,
          update,
          estimates,
          this.#checkpoints.spool,
          (id) => this.#skippedOf(id),
          this.#tiles.multiplyDouble,
        );
        this.#telemetry({ type: 'snapshot', folder, modelsSeen: update.modelsSeen });
        this.#besideFit += performance.now() - start;
        return EMPTY;
      });
    return { snapshot: { every, use } };
  }
}
