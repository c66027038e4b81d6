// The scatter matrices of a group of slots in the modes rows and cols, exact and additive: blocks of models go in, one after
// the other, and eigenpairs come out. Every row position (and column position) is centred over the models, as in the
// zero-centred HOSVD of arXiv 2512.05117, algorithm 1.
// Centring needs no second pass and no correction: model n + 1 contributes sqrt(n / (n + 1)) (W − mean of the n before),
// whose products add up to the scatter about the mean of all (Welford 1962). What is multiplied is as small as the spread
// of the models, whatever their mean is; the mean itself is float64.
// Cost a weight and model: `side` flops a mode. Memory: 8 bytes a weight of the slot for the mean, 4 bytes a weight of the
// models sampled at a time, 4 side (side + 512) bytes a mode. Sides that are too wide for that are followed
// (followed-scatter.ts).
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import type { BlockAtHand, ReadFault, SlotAtHand } from '../sources/staged-block.ts';
import { type TileRange, tilesOf } from '../sources/tile.ts';
import { type CoreEnergy, CoreTensor, type ModelVectors, projectModels } from './core-tensor.ts';
import { faultsOf, leaveOut } from './find-faults.ts';
import { FollowedScatter, type FollowingEngine } from './followed-scatter.ts';
import { blocksOf, isDiagonal, type PackedBlock, packedLength } from './linalg/packed-blocks.ts';
import { samplePieces } from './sample-pieces.ts';
import { type ModeSpectrum, scatterSpectrum } from './scatter-spectrum.ts';
import type { Sampled, SampleShape, SideDirections, SideMode, StagedTiles } from './scatter-tasks.ts';
import { firstOfEachModel, type Tiles } from './tile-pool.ts';

/** Weights sampled at a time, of one slot: whole models, at least one. */
const SAMPLED_WEIGHTS = 2 ** 25;
/** The widest scatter matrix that is kept whole, unless the engine exact is asked for. */
export const LARGEST_EXACT_SIDE = 2 ** 14;
/** Tiles that a task samples: enough to be worth a message. */
const TILES_A_TASK = 16;
/** Threads that send samples to a card: more would send the same ones, and it does one product at a time. */
const CARD_TASKS = 4;

/** The other side: what a mode's scatter matrix is as wide as. */
export const sideOf = (mode: SideMode, { rows, cols }: Pick<PlannedSlot, 'rows' | 'cols'>): number =>
  mode === 'rows' ? cols : rows;

/** Samples that one model gives a mode. */
const samplesOf = (mode: SideMode, { rows, cols }: PlannedSlot): number => (mode === 'rows' ? rows : cols);

/** Strides that are multiples of 4 KiB would put all rows of a column into the same few cache lines. */
export const sampleShape = ({ rows, cols }: Pick<PlannedSlot, 'rows' | 'cols'>): SampleShape => ({
  rows,
  cols,
  stride: cols % 1024 === 0 ? cols + 16 : cols,
});

/** Models sampled at a time: a divisor of the block, so that it is the same wherever blocks are cut. */
export const modelsAtOnce = (features: number, block: number): number => {
  let most = 1;
  for (let b = 1; b <= block; b++) if (block % b === 0 && b * features <= SAMPLED_WEIGHTS) most = b;
  return most;
};

export interface ScatterOptions {
  /** All of the stream, in order. */
  readonly models: readonly PlannedModel[];
  readonly modes: readonly SideMode[];
  /** Directions made, k. */
  readonly rank: number;
  /** Models a block. */
  readonly block: number;
  readonly center: boolean;
  /** The widest matrix that is kept whole. Default `LARGEST_EXACT_SIDE`. */
  readonly largestSide?: number;
  /** What follows wider ones. Default `incremental`. */
  readonly follower?: FollowingEngine;
  readonly tiles: Tiles;
  readonly onBadSource: 'error' | 'skip';
  /** Measure energies in `measure`. Default true. */
  readonly energies?: boolean;
  /** Also make the core tensor there, with these directions of mode models; asked in `solve`, in both modes alone. */
  readonly vectorsOf?: (slot: PlannedSlot) => ModelVectors | null;
}

/**
 * Whether a side is too wide for a matrix (1.1 GB at the limit), so that its directions are followed. By the side alone:
 * results must not depend on the memory there is.
 */
export const isFollowed = (
  side: number,
  { largestSide = LARGEST_EXACT_SIDE }: Pick<ScatterOptions, 'largestSide'>,
): boolean => side > largestSide;

/** A slot's models as they went in. */
export interface ScatterModels {
  readonly models: readonly PlannedModel[];
  /** ‖W − origin‖². */
  readonly rawNorm2: Float64Array;
  readonly meanEntry: Float64Array;
}

/** What each model of a slot has along the directions of a mode. */
export interface ModeEnergies {
  readonly mode: SideMode;
  /** N x k, in the order of the slot's models. */
  readonly energies: Float64Array;
}

export interface SlotEnergies {
  /** ‖W − mean‖². */
  readonly norm2: Float64Array;
  readonly modes: readonly ModeEnergies[];
}

/** What a checkpoint keeps of a slot beside its arrays: those stand in a file, from byte `at` on. */
export interface SavedScatter {
  readonly slotId: number;
  readonly at: number;
  /** Ids of the models that are in, and of those that cannot be. */
  readonly models: Int32Array;
  readonly left: Int32Array;
  readonly rawNorm2: Float64Array;
  readonly meanEntry: Float64Array;
  readonly hasOrigin: boolean;
}

interface Scatter {
  readonly mode: SideMode;
  readonly side: number;
  /** The whole matrix, or what is followed of it. */
  readonly kept: { readonly packed: SharedArrayBuffer } | { readonly followed: FollowedScatter };
}

interface Directions extends SideDirections {
  readonly mode: SideMode;
}

interface SlotScatter {
  readonly slot: PlannedSlot;
  readonly atOnce: number;
  readonly shape: SampleShape;
  readonly ranges: readonly TileRange[];
  readonly scatters: readonly Scatter[];
  readonly samples: SharedArrayBuffer;
  /** Null uncentred. */
  readonly mean: SharedArrayBuffer | null;
  origin: SharedArrayBuffer | null;
  readonly left: Set<PlannedModel>;
  readonly models: PlannedModel[];
  readonly rawNorm2: number[];
  readonly meanEntry: number[];
  directions: readonly Directions[];
  readonly norm2: number[];
  readonly energies: Map<SideMode, number[]>;
  core: CoreTensor | null;
}

export class ModeScatter {
  readonly #options: ScatterOptions;
  readonly #slots: readonly SlotScatter[];
  readonly #place: ReadonlyMap<PlannedModel, number>;

  constructor(slots: readonly PlannedSlot[], options: ScatterOptions) {
    this.#options = options;
    this.#place = new Map(options.models.map((model, i) => [model, i]));
    this.#slots = slots.map((slot): SlotScatter => {
      const atOnce = modelsAtOnce(slot.features, options.block);
      const tiles = tilesOf(slot.features).length;
      const shape = sampleShape(slot);
      return {
        slot,
        atOnce,
        shape,
        ranges: Array.from({ length: Math.ceil(tiles / TILES_A_TASK) }, (_, i) => ({
          from: i * TILES_A_TASK,
          to: Math.min((i + 1) * TILES_A_TASK, tiles),
        })),
        scatters: options.modes.map((mode) => {
          const side = sideOf(mode, slot);
          const { rank, tiles, follower = 'incremental' } = options;
          return isFollowed(side, options)
            ? { mode, side, kept: { followed: new FollowedScatter(slot.name, mode, side, rank, tiles, follower) } }
            : { mode, side, kept: { packed: new SharedArrayBuffer(packedLength(side) * 8) } };
        }),
        samples: new SharedArrayBuffer(atOnce * shape.rows * shape.stride * 4),
        mean: options.center ? new SharedArrayBuffer(slot.features * 8) : null,
        origin: null,
        left: new Set(),
        models: [],
        rawNorm2: [],
        meanEntry: [],
        directions: [],
        norm2: [],
        energies: new Map(options.modes.map((mode) => [mode, []])),
        core: null,
      };
    });
  }

  /**
   * Takes a block of models in, whole slots; returns the models that cannot be in.
   * Rejects with SourceMalformed or SourceUnavailable where a model cannot be in and `onBadSource` says so.
   */
  async fold(read: BlockAtHand, base: BlockAtHand | null): Promise<readonly ReadFault[]> {
    const lost = read.faults.filter((fault) => this.#leave(fault));
    if (lost.length > 0 && this.#options.onBadSource === 'error') throw lost[0]!.error;
    const faults = await Promise.all(
      this.#slots.map((work, i) => this.#foldSlot(work, read.slots[i]!, base?.slots[i] ?? null)),
    );
    return [...lost, ...faults.flat()];
  }

  async #foldSlot(work: SlotScatter, read: SlotAtHand, base: SlotAtHand | null): Promise<readonly ReadFault[]> {
    if (base !== null) await this.#settleOrigin(work, base);
    const { faults, staged } = await this.#surveyed(work, leaveOut(read, work.left));
    for (const [from, to] of this.#windows(work, staged.models)) {
      const { norms2, sums } = await this.#sample(work, staged, from, to, 'running');
      // The first of all models is its own mean: its samples are zero.
      if (work.mean === null || work.models.length + to - from > 1) await this.#addSamples(work, to - from);
      for (let i = from; i < to; i++) {
        work.models.push(staged.models[i]!);
        work.rawNorm2.push(norms2[i - from]!);
        work.meanEntry.push(sums[i - from]! / work.slot.features);
      }
    }
    return faults;
  }

  /**
   * Models sampled together, as [from, to): by their places in the stream, so that sums do not depend on how many are read
   * at a time, also where models were left out.
   */
  #windows({ atOnce }: SlotScatter, models: readonly PlannedModel[]): readonly (readonly [number, number])[] {
    const windows: [number, number][] = [];
    let last = -1;
    models.forEach((model, i) => {
      const window = Math.floor(this.#place.get(model)! / atOnce);
      if (window !== last) windows.push([i, i]);
      windows.at(-1)![1] = i + 1;
      last = window;
    });
    return windows;
  }

  async #settleOrigin(work: SlotScatter, base: SlotAtHand): Promise<void> {
    const origin = new SharedArrayBuffer(work.slot.features * 4);
    await this.#overTiles(work, base, (part) => this.#options.tiles.scatter({ kind: 'origin', ...part, origin }));
    work.origin = origin;
  }

  /** The models that can be in. */
  async #surveyed(work: SlotScatter, read: SlotAtHand) {
    const parts = await this.#overTiles(work, read, (part) => this.#options.tiles.scatter({ kind: 'survey', ...part }));
    const faults = faultsOf(work.slot, read.models, null, firstOfEachModel(parts.flat()));
    if (faults.length > 0 && this.#options.onBadSource === 'error') throw faults[0]!.error;
    for (const fault of faults) this.#leave(fault);
    return { faults, staged: leaveOut(read, work.left) };
  }

  /** True when that is news. */
  #leave({ slot, model }: ReadFault): boolean {
    const { left } = this.#slots.find((work) => work.slot === slot)!;
    if (left.has(model)) return false;
    left.add(model);
    return true;
  }

  async #sample(
    work: SlotScatter,
    staged: SlotAtHand,
    from: number,
    to: number,
    about: 'running' | 'fixed',
  ): Promise<Sampled> {
    const { mean, origin, samples, models, shape } = work;
    const parts = await this.#overTiles(work, staged, (part) =>
      this.#options.tiles.scatter({
        kind: 'sample',
        ...part,
        from,
        to,
        about,
        seen: models.length,
        mean,
        origin,
        shape,
        samples,
      }),
    );
    const sum = (what: keyof Sampled): Float64Array =>
      Float64Array.from({ length: to - from }, (_, i) => parts.reduce((all, part) => all + part[what][i]!, 0));
    return { norms2: sum('norms2'), sums: sum('sums') };
  }

  async #addSamples({ shape, scatters, samples }: SlotScatter, models: number): Promise<void> {
    const common = { kind: 'fold', shape, models, samples } as const;
    await Promise.all(
      scatters.flatMap(({ mode, side, kept }): Promise<unknown>[] => {
        if ('followed' in kept) return [kept.followed.add({ mode, shape, models, samples })];
        return this.#dealt(blocksOf(side)).map((blocks) =>
          this.#options.tiles.scatter({ ...common, mode, blocks, scatter: kept.packed }),
        );
      }),
    );
  }

  /** Blocks by task. */
  #dealt(blocks: readonly PackedBlock[]): readonly (readonly PackedBlock[])[] {
    const { info, threads } = this.#options.tiles;
    if (info.name !== 'cuda') {
      // The small ones last, so that threads end together.
      return [...blocks].sort((a, b) => Number(isDiagonal(a)) - Number(isDiagonal(b))).map((block) => [block]);
    }
    // Samples are sent to a card once a task.
    const tasks = Math.min(threads, CARD_TASKS, blocks.length);
    const first = (task: number): number => Math.floor((task * blocks.length) / tasks);
    return Array.from({ length: tasks }, (_, task) => blocks.slice(first(task), first(task + 1)));
  }

  #overTiles<R>(
    { slot, ranges }: SlotScatter,
    staged: SlotAtHand,
    ask: (part: StagedTiles) => Promise<R>,
  ): Promise<R[]> {
    const { name, features } = slot;
    const models = staged.models.length;
    if (models === 0) return Promise.resolve([]);
    return Promise.all(ranges.map((tiles) => ask({ slot: name, features, staged: staged.rows, models, tiles })));
  }

  /**
   * Writes what blocks so far have come to: of each slot the scatter of every mode, the mean, the origin.
   * @param write takes them one after the other
   */
  save(write: (bytes: Uint8Array) => void): readonly SavedScatter[] {
    let at = 0;
    return this.#slots.map((work) => {
      const { slot, models, left, rawNorm2, meanEntry, origin } = work;
      const ids = (some: Iterable<PlannedModel>): Int32Array => Int32Array.from(some, ({ id }) => id);
      const saved: SavedScatter = {
        slotId: slot.id,
        at,
        models: ids(models),
        left: ids(left),
        rawNorm2: Float64Array.from(rawNorm2),
        meanEntry: Float64Array.from(meanEntry),
        hasOrigin: origin !== null,
      };
      for (const array of arraysOf(work)) {
        write(new Uint8Array(array));
        at += array.byteLength;
      }
      return saved;
    });
  }

  /**
   * Takes what `save` wrote, perhaps of more slots.
   * @param read fills bytes from a place of the file on
   */
  load(saved: readonly SavedScatter[], read: (into: Uint8Array, at: number) => void): void {
    const byId = new Map(this.#options.models.map((model) => [model.id, model]));
    for (const work of this.#slots) {
      const known = saved.find(({ slotId }) => slotId === work.slot.id)!;
      if (known.hasOrigin) work.origin = new SharedArrayBuffer(work.slot.features * 4);
      for (const id of known.models) work.models.push(byId.get(id)!);
      for (const id of known.left) work.left.add(byId.get(id)!);
      for (const norm2 of known.rawNorm2) work.rawNorm2.push(norm2);
      for (const entry of known.meanEntry) work.meanEntry.push(entry);
      let { at } = known;
      for (const array of arraysOf(work)) {
        read(new Uint8Array(array), at);
        at += array.byteLength;
      }
      for (const { kept } of work.scatters) if ('followed' in kept) kept.followed.restore();
    }
  }

  /** Models of a slot, in the order in which they went in. */
  modelsOf(index: number): ScatterModels {
    const { models, rawNorm2, meanEntry } = this.#slots[index]!;
    return { models, rawNorm2: Float64Array.from(rawNorm2), meanEntry: Float64Array.from(meanEntry) };
  }

  /** Eigenpairs of a slot, a mode each; with no models, none. */
  async solve(index: number): Promise<readonly ModeSpectrum[]> {
    const work = this.#slots[index]!;
    if (work.models.length === 0) return [];
    const found: ModeSpectrum[] = [];
    const { slot, models } = work;
    const { rank, center, tiles } = this.#options;
    for (const { mode, side, kept } of work.scatters) {
      const samples = models.length * samplesOf(mode, slot);
      if ('followed' in kept) {
        found.push(kept.followed.spectrum(samples));
        continue;
      }
      const { packed } = kept;
      const most = Math.min(side, center ? samples - samplesOf(mode, slot) : samples);
      found.push(await scatterSpectrum({ slot: slot.name, mode, side, packed, samples, most, rank, tiles }));
    }
    work.directions = found.map(({ mode, rank, directions }) => {
      const values = new SharedArrayBuffer(directions.byteLength);
      new Float32Array(values).set(directions);
      return { mode, rank, values };
    });
    const vectors = this.#options.vectorsOf?.(slot) ?? null;
    const [rows, cols] = sidesOf(work);
    work.core =
      vectors === null || rows === undefined || cols === undefined
        ? null
        : new CoreTensor(vectors, { rows: rows.rank, cols: cols.rank });
    return found;
  }

  /** The mean over models, absolute, features float32; null uncentred. */
  meanOf(index: number): Float32Array | null {
    const { mean } = this.#slots[index]!;
    return mean === null ? null : Float32Array.from(new Float64Array(mean));
  }

  /** Measures a block of models, read once more, along the directions that `solve` found. */
  async measure(read: BlockAtHand): Promise<void> {
    const lost = read.faults.find(
      ({ slot, model }) => !this.#slots.find((work) => work.slot === slot)!.left.has(model),
    );
    if (lost !== undefined) throw lost.error;
    await Promise.all(this.#slots.map((work, i) => this.#measureSlot(work, leaveOut(read.slots[i]!, work.left))));
  }

  async #measureSlot(work: SlotScatter, staged: SlotAtHand): Promise<void> {
    for (const [from, to] of this.#windows(work, staged.models)) {
      const { norms2 } = await this.#sample(work, staged, from, to, 'fixed');
      for (const norm2 of norms2) work.norm2.push(norm2);
      if (this.#options.energies !== false) {
        for (const directions of work.directions) {
          const energies = work.energies.get(directions.mode)!;
          for (const energy of await this.#energiesOf(work, directions, to - from)) energies.push(energy);
        }
      }
      if (work.core === null) continue;
      const [rows, cols] = sidesOf(work);
      const some = { shape: work.shape, samples: work.samples, models: to - from };
      const projected = await projectModels(this.#options.tiles, some, rows!, cols!);
      for (const [i, one] of projected.entries()) work.core.add(staged.models[from + i]!, one);
    }
  }

  async #energiesOf(
    { slot, shape, samples }: SlotScatter,
    { mode, rank, values }: Directions,
    models: number,
  ): Promise<Float64Array> {
    const sums = new Float64Array(models * rank);
    if (rank === 0) return sums;
    const tasks = samplePieces(slot.features, sideOf(mode, slot), models);
    const answers = await Promise.all(
      tasks.map((some) =>
        this.#options.tiles.scatter({
          kind: 'energy',
          mode,
          shape,
          models,
          samples,
          pieces: some,
          rank,
          directions: values,
        }),
      ),
    );
    tasks.forEach((some, t) => {
      some.forEach(({ model }, i) => {
        for (let j = 0; j < rank; j++) sums[model * rank + j] = sums[model * rank + j]! + answers[t]![i * rank + j]!;
      });
    });
    return sums;
  }

  /** Energies of the core tensor, once all blocks were measured; null where there is none. */
  coreOf(index: number): readonly CoreEnergy[] | null {
    return this.#slots[index]!.core?.energies() ?? null;
  }

  /** What `measure` found, once all blocks were given. */
  energiesOf(index: number): SlotEnergies {
    const { norm2, energies } = this.#slots[index]!;
    return {
      norm2: Float64Array.from(norm2),
      modes: [...energies].map(([mode, values]) => ({ mode, energies: Float64Array.from(values) })),
    };
  }
}

/** Directions of mode rows and of mode cols. */
const sidesOf = ({ directions }: SlotScatter): readonly (Directions | undefined)[] =>
  (['rows', 'cols'] as const).map((mode) => directions.find((one) => one.mode === mode));

/** What is kept of a slot between two blocks. */
const arraysOf = ({ scatters, mean, origin }: SlotScatter): readonly SharedArrayBuffer[] => [
  ...scatters.flatMap(({ kept }) => ('followed' in kept ? kept.followed.arrays : [kept.packed])),
  ...(mean === null ? [] : [mean]),
  ...(origin === null ? [] : [origin]),
];
