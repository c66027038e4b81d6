// The engine `exact` in mode models: the Gram matrix of all models, slot by slot. Tiles come outermost: some tiles of all
// models are read, multiplied and forgotten, so every byte is read once and memory does not depend on the size of a slot.
// The spectrum and those of the stream's prefixes follow from the Gram alone (exact-spectrum.ts). Directions are sums of
// the models' weights, which are read once more for them.
// Cost a weight: N² flops for the Gram, 2 N (1 + k) for the directions. Memory: (3 + N) floats a weight of a tile.
import { join } from 'node:path';
import { concat, defer, EMPTY, from, ignoreElements, mergeMap, type Observable, type ObservableInput, of } from 'rxjs';
import { sinkFailure } from '../sinks/durable-file.ts';
import { isFloat32 } from '../sources/open-block.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { weightBytes } from '../sources/reading-plan.ts';
import type { ReadFault, SlotAtHand } from '../sources/staged-block.ts';
import { tilesOf } from '../sources/tile.ts';
import {
  blockBufferBytes,
  checkBlock,
  type SourceBlock,
  type WeightBlock,
  weightBlocks,
} from '../sources/weight-blocks.ts';
import { allDone } from './all-done.ts';
import { BlockBuffers, type HeldBlock, type TimedRead } from './block-buffers.ts';
import { concatMapAhead } from './concat-map-ahead.ts';
import type { GroupModes } from './exact-modes.ts';
import { type ExactGram, type ExactSpectrum, exactSpectrum, signsOfCoordinates } from './exact-spectrum.ts';
import { faultsOf, faultsOfVisit, leaveOut, withoutRepeats } from './find-faults.ts';
import { afterGroup, type BlockUpdate } from './incremental-pca.ts';
import { createSpillFiles, forgetSpillFiles, SpillFailed } from './spill-files.ts';
import type { Subspace, SubspaceEstimate } from './subspace.ts';
import type { SubspaceSpec } from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';
import type { SlotLayout, VisitResult, VisitTask } from './tile-tasks.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

/** Parts alive at once: one in use, one being read. */
const PARTS_ALIVE = 2;

export interface ExactPcaOptions<R> {
  /** Directions made, k; the spectrum is whole whatever it is. */
  readonly rank: number;
  readonly tiles: Tiles;
  /** Subtract the mean over models (PCA). Default true. */
  readonly center?: boolean;
  /** Prefixes of the stream that are solved at once. Default 1. */
  readonly solvers?: number;
  /** Make the directions too, in a second pass over the weights. Default true. */
  readonly basis?: boolean;
  /** Where slots too large for the memory keep their directions; needed when the plan has any and `basis` is not false. */
  readonly scratch?: string;
  /** What a model with NaN, Inf or missing bytes does: stop the stream (default), or be left out of that slot. */
  readonly onBadSource?: 'error' | 'skip';
  /** What a group's models are also handed to, where they are read whole and at once: its modes rows and cols. */
  readonly beside?: (group: SlotGroup) => GroupModes | null;
  /** After all of a group's slots were finished; the stream waits for it. */
  readonly afterGroup?: (group: SlotGroup) => Promise<void>;
  /** Sees a slot's Gram matrix, before its spectrum is found. */
  readonly onGram?: (slot: PlannedSlot, models: readonly PlannedModel[], gram: ExactGram) => void;
  /** Sees a slot's spectrum, before its directions are made. */
  readonly onSpectrum?: (slot: PlannedSlot, models: readonly PlannedModel[], spectrum: ExactSpectrum) => void;
  /** Where the weights come from. Default: the plan's files. */
  readonly blocks?: (plan: ReadingPlan) => Observable<WeightBlock>;
  /** Uses a slot's results while its directions can be read; what it emits goes downstream. Default: emits the results. */
  readonly finish?: (slot: ExactSlot) => ObservableInput<R>;
}

/** All that the engine knows of a slot. */
export interface ExactSlot {
  readonly kind: 'exact';
  /** The models that are in, in order. */
  readonly models: readonly PlannedModel[];
  readonly estimate: SubspaceEstimate;
  readonly spectrum: ExactSpectrum;
  /** The directions; null where none were asked for. */
  readonly subspace: Subspace | null;
}

/** A slot of the running group. */
interface SlotWork {
  readonly slot: PlannedSlot;
  readonly spec: SubspaceSpec;
  /** Models that cannot be in. */
  readonly left: Set<PlannedModel>;
  models: readonly PlannedModel[];
  visit: VisitResult | undefined;
  spectrum: ExactSpectrum | null;
  peaks: Float64Array | null;
}

/**
 * Streams a plan, group after group: an update a part of the weights read (its `slots` are empty), and what `finish` makes
 * of each slot. `plan.block` says after how many models the stream is looked at.
 */
export const exactPca = <R = ExactSlot>(plan: ReadingPlan, options: ExactPcaOptions<R>): Observable<BlockUpdate | R> =>
  defer(() => {
    const wide = { ...plan, block: plan.models.length };
    const buffers = new BlockBuffers(() =>
      plan.groups.reduce((most, group) => Math.max(most, blockBufferBytes(wide, group)), 0),
    );
    const groups = plan.groups.map((group) =>
      new ExactGroup(plan, group, options as ExactPcaOptions<unknown>, buffers).stream(),
    );
    return concat(...groups) as Observable<BlockUpdate | R>;
  });

/** How a slot's tiles are laid out that keep no rows. */
export const passingLayout = (
  slot: PlannedSlot,
  { inFiles, tilesAtOnce }: SlotGroup,
  models: readonly PlannedModel[],
): SlotLayout => ({
  slot: slot.name,
  features: slot.features,
  maxRows: 0,
  passingRows: rowsBeforeBlock(models.length),
  inPlace: inFiles === true && isFloat32(slot, models),
  spill: null,
  tilesAtOnce,
});

class ExactGroup {
  readonly #plan: ReadingPlan;
  readonly #group: SlotGroup;
  readonly #options: ExactPcaOptions<unknown>;
  readonly #buffers: BlockBuffers;
  readonly #slots: readonly SlotWork[];
  /** Faults that the running pass has found. */
  #faults: ReadFault[] = [];
  #beside: GroupModes | null = null;
  #parts = 0;
  #restingSince = 0;

  constructor(plan: ReadingPlan, group: SlotGroup, options: ExactPcaOptions<unknown>, buffers: BlockBuffers) {
    this.#plan = plan;
    this.#group = group;
    this.#options = options;
    this.#buffers = buffers;
    const center = options.center ?? true;
    this.#slots = group.slots.map((slot) => ({
      slot,
      spec: {
        features: slot.features,
        rank: options.rank,
        center,
        shiftIsOrigin: plan.base !== null || !center || slot.isDelta === true,
      },
      left: new Set<PlannedModel>(),
      models: [],
      visit: undefined,
      spectrum: null,
      peaks: null,
    }));
  }

  stream(): Observable<unknown> {
    const basis = this.#options.basis ?? true;
    return concat(
      defer(() => {
        const { beside } = this.#options;
        if (this.#group.tilesAtOnce === undefined) this.#beside = beside?.(this.#group) ?? null;
        return this.#gramPass();
      }),
      defer(async () => {
        for (const work of this.#slots) await this.#solve(work);
      }).pipe(ignoreElements()),
      defer(() => from(this.#beside?.solve() ?? Promise.resolve())).pipe(mergeMap(() => EMPTY)),
      basis ? this.#basisPass() : EMPTY,
      defer(() => {
        const use = this.#options.finish ?? ((slot: ExactSlot) => of(slot));
        const scratch = this.#buffers.acquire(this.#group);
        const done = this.#slots.flatMap((work, i) =>
          work.models.length === 0 ? [] : [defer(() => use(this.#resultOf(work, i, scratch.buffer)))],
        );
        return concat(
          ...done,
          defer(() => {
            this.#buffers.release(scratch);
            const beside = this.#beside;
            this.#beside = null;
            return beside?.finish() ?? EMPTY;
          }),
          afterGroup(this.#options, this.#group),
        );
      }),
    );
  }

  /** Reads all weights once. Where that shows models that cannot be in, once more without them. */
  #gramPass(): Observable<unknown> {
    const pass = defer(() => {
      this.#faults = [];
      for (const work of this.#slots) work.visit = undefined;
      const layouts = this.#slots.map(({ slot }) => this.#layoutOf(slot, 0, null));
      return this.#partsOver(this.#options.tiles.open(layouts), (block, timed) => this.#foldPart(block, timed));
    });
    const again: Observable<unknown> = defer(() => (this.#faults.length === 0 ? EMPTY : this.#gramPass()));
    return concat(pass, again);
  }

  #basisPass(): Observable<unknown> {
    return defer(() => {
      const spill = this.#group.tilesAtOnce === undefined ? null : this.#spillPath();
      const layouts = this.#slots.map(({ slot, spectrum }) =>
        this.#layoutOf(slot, rowsBeforeBlock(spectrum?.rank ?? 0), spill),
      );
      return this.#partsOver(this.#openSpilled(layouts, spill), (block, timed) =>
        this.#projectPart(block, timed, spill !== null),
      );
    });
  }

  /** @param opening the tiles, for which the first part's weights need not wait */
  #partsOver(
    opening: Promise<void>,
    use: (block: WeightBlock, timed: TimedRead) => Promise<readonly ReadFault[]>,
  ): Observable<BlockUpdate> {
    this.#restingSince = performance.now();
    // Told to the first part, unless its weights fail first.
    opening.catch(() => {});
    const wide = { ...this.#plan, groups: [this.#group], block: this.#plan.models.length };
    return (this.#options.blocks ?? weightBlocks)(wide).pipe(
      concatMapAhead<WeightBlock, HeldBlock, TimedRead, BlockUpdate>({
        ahead: PARTS_ALIVE,
        acquire: ({ group }) => this.#buffers.acquire(group),
        release: (held) => this.#buffers.release(held),
        read: (block, held) => this.#buffers.read(block, held),
        use: (block, timed) => from(opening).pipe(mergeMap(() => this.#usePart(block, timed, use))),
      }),
    );
  }

  async #usePart(
    block: WeightBlock,
    timed: TimedRead,
    use: (block: WeightBlock, timed: TimedRead) => Promise<readonly ReadFault[]>,
  ): Promise<BlockUpdate> {
    const waitSeconds = Math.max(timed.ready - this.#restingSince, 0) / 1e3;
    const using = use(block, timed);
    timed.using = using;
    const skipped = await using.finally(() => checkBlock(timed.read));
    const parts = block.parts?.length ?? 1;
    const update: BlockUpdate = {
      kind: 'block',
      group: this.#group,
      index: this.#parts++,
      blocks: parts * ((this.#options.basis ?? true) ? 2 : 1),
      modelsSeen: this.#plan.models.length,
      slots: [],
      skipped,
      bytes: this.#bytesOf(block),
      readSeconds: timed.seconds,
      waitSeconds,
      tileSeconds: this.#options.tiles.takeTimings(),
    };
    this.#restingSince = performance.now();
    return update;
  }

  #bytesOf({ parts, part, models }: WeightBlock): number {
    const all = weightBytes(this.#group.slots, models);
    if (parts === null) return all;
    // Factors serve all parts: they come with the first.
    if (this.#group.slots[0]!.isDelta === true) return part === 0 ? all : 0;
    const tiles = tilesOf(this.#group.slots[0]!.features);
    const { from: first, to } = parts[part]!;
    const features = tiles.slice(first, to).reduce((sum, { width }) => sum + width, 0);
    return (all * features) / this.#group.slots[0]!.features;
  }

  /** Adds a part to the Grams; returns models that turned out not to belong in them. */
  async #foldPart(block: WeightBlock, { read }: TimedRead): Promise<readonly ReadFault[]> {
    let found = this.#newFaults(read.faults);
    const folded = await allDone(
      this.#slots.map(async (work, i) => {
        const staged = leaveOut(read.slots[i]!, work.left);
        work.models = staged.models;
        if (staged.models.length === 0) return [];
        const task = this.#taskOf(block, i, staged, read.base);
        const visit = await this.#options.tiles.visit(task, found.length === 0 ? work.visit : undefined);
        work.visit = visit;
        return faultsOfVisit(this.#options.tiles, staged, this.#plan.base, task, visit);
      }),
    );
    found = [...found, ...this.#newFaults(folded.flat())];
    if (found.length > 0 && this.#options.onBadSource !== 'skip') throw found[0]!.error;
    for (const { slot, model } of found) this.#slots.find((work) => work.slot === slot)!.left.add(model);
    this.#faults = [...this.#faults, ...found];
    // What comes after a fault is only looked through: the pass is done again.
    if (this.#faults.length > 0) for (const work of this.#slots) work.visit = undefined;
    // Where models are read at once a pass has one part, and the last pass no faults.
    else if (this.#beside !== null) return withoutRepeats([...found, ...(await this.#beside.fold(read))]);
    return found;
  }

  #newFaults(faults: readonly ReadFault[]): readonly ReadFault[] {
    return faults.filter(({ slot, model }) => !this.#slots.find((work) => work.slot === slot)!.left.has(model));
  }

  async #solve(work: SlotWork): Promise<void> {
    if (work.models.length === 0 || work.visit === undefined) return;
    const gram = { values: work.visit.gram, models: work.models.length, shiftSum: work.visit.shiftSum };
    this.#options.onGram?.(work.slot, work.models, gram);
    work.spectrum = await exactSpectrum(work.spec, gram, this.#plan.block, this.#options.tiles, this.#options.solvers);
    this.#options.onSpectrum?.(work.slot, work.models, work.spectrum);
    work.visit = undefined;
  }

  async #projectPart(block: WeightBlock, { read }: TimedRead, spilled: boolean): Promise<readonly ReadFault[]> {
    const fault = this.#newFaults(read.faults)[0];
    if (fault !== undefined) throw fault.error;
    await allDone(
      this.#slots.map(async (work, i) => {
        if (work.spectrum === null) return;
        const staged = leaveOut(read.slots[i]!, work.left);
        const { slot, block: models, staged: rows, shift, tiles } = this.#taskOf(block, i, staged, read.base);
        const { mix: values, rank } = work.spectrum;
        const mix = { kind: 'replace', values, m: 1 + rank, n: 1 + models } as const;
        const { peaks, unread } = await this.#options.tiles.project({
          slot,
          block: models,
          staged: rows,
          shift: shift!,
          mix,
          tiles,
          spilled,
        });
        const unreadable = faultsOf(work.slot, staged.models, this.#plan.base, unread)[0];
        if (unreadable !== undefined) throw unreadable.error;
        const known = work.peaks;
        work.peaks =
          known === null ? peaks : peaks.map((peak, j) => (Math.abs(peak) > Math.abs(known[j]!) ? peak : known[j]!));
      }),
    );
    await this.#beside?.measure(read);
    return [];
  }

  #resultOf(work: SlotWork, index: number, scratch: SharedArrayBuffer | null): ExactSlot {
    const { slot, spec, models, peaks } = work;
    const spectrum = work.spectrum!;
    const { state, rank } = spectrum;
    const signs =
      peaks === null ? signsOfCoordinates(spectrum) : Float64Array.from(peaks, (peak) => (peak < 0 ? -1 : 1));
    const estimate: SubspaceEstimate = { engine: 'exact', slot, spec, state, rank, signs };
    if (peaks === null && (this.#options.basis ?? true) === false)
      return { kind: 'exact', models, estimate, spectrum, subspace: null };
    const generation = this.#group.tilesAtOnce === undefined ? null : 0;
    const { tiles } = this.#options;
    const subspace: Subspace = {
      ...estimate,
      kind: 'subspace',
      tiles: tilesOf(slot.features),
      readTiles: (first, to, out) => tiles.fetch({ slot: index, from: first, to, signs, out, generation }),
      scratch,
    };
    return { kind: 'exact', models, estimate, spectrum, subspace };
  }

  #taskOf(
    block: WeightBlock,
    index: number,
    staged: SlotAtHand,
    base: SourceBlock | null,
  ): VisitTask & { shift: object } {
    const shiftless = this.#options.center === false || this.#slots[index]!.slot.isDelta === true;
    const shift =
      base !== null
        ? ({ from: 'base', staged: base.slots[index]!.rows[0]! } as const)
        : ({ from: shiftless ? 'zero' : 'mean' } as const);
    return {
      slot: index,
      mix: null,
      stateRows: 0,
      block: staged.models.length,
      staged: staged.rows,
      shift,
      full: true,
      tiles: block.parts?.[block.part] ?? null,
      spill: null,
    };
  }

  #layoutOf(slot: PlannedSlot, maxRows: number, spill: SlotLayout['spill']): SlotLayout {
    return { ...passingLayout(slot, this.#group, this.#plan.models), maxRows, spill };
  }

  #spillPath(): readonly [string, string] {
    const { scratch } = this.#options;
    const name = this.#group.slots[0]!.name;
    if (scratch === undefined) throw new Error(`slot ${name} needs a scratch folder, and none was given`);
    const path = (generation: number): string =>
      join(scratch, `group-${String(this.#group.index).padStart(4, '0')}.${generation}.spill`);
    return [path(0), path(1)];
  }

  async #openSpilled(layouts: readonly SlotLayout[], spill: readonly [string, string] | null): Promise<void> {
    try {
      if (spill !== null) createSpillFiles(spill);
      await this.#options.tiles.open(layouts);
    } catch (cause) {
      throw cause instanceof SpillFailed ? sinkFailure(cause.path, 'spilling tiles', cause) : cause;
    } finally {
      if (spill !== null) forgetSpillFiles(spill);
    }
  }
}
