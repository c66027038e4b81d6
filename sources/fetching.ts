// What of a block's weights is read past the page cache, and where in memory it goes: runs of tensors that stand together, each model
// in a place of its own.
import { closeSync, openSync } from 'node:fs';
import { DIRECT_UNIT, type DirectMemory, directMemory, directReads } from './direct-reads.ts';
import type { TensorEntry } from './model.ts';
import { neighboursOf } from './neighbours.ts';
import { adviseReading, cachedShare } from './page-cache.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from './reading-plan.ts';
import { tensorPart } from './staged-block.ts';
import { featuresIn, type TileRange } from './tile.ts';

/** Where rows of weights stand that were fetched. */
export interface FetchedRows {
  readonly buffer: SharedArrayBuffer;
  /** The byte of the buffer at which the slot's first weight stands, or would; NaN where nothing of the slot was fetched. */
  readonly at: Float64Array;
}

/** Of pages in the cache: from there on the rest comes that way too. */
const MOSTLY = 0.5;

/** Models that are looked at to know whether the page cache has them, and bytes of a file. */
const SAMPLE = 16;
const SAMPLE_BYTES = 2 ** 26;

/** Whether most of the models' bytes are still to come from the disk, by a sample of them, and could come past the page cache. */
export const areCold = (models: readonly PlannedModel[]): boolean => {
  if (directReads() === null) return false;
  const count = Math.min(SAMPLE, models.length);
  let cached = 0;
  for (let i = 0; i < count; i++) {
    const { path, size } = models[Math.floor((i * models.length) / count)]!.header.files[0]!;
    try {
      const fd = openSync(path, 'r');
      cached += cachedShare(fd, 0, Math.min(size, SAMPLE_BYTES));
      closeSync(fd);
    } catch {
      // Whoever reads it will say what is wrong.
      cached++;
    }
  }
  return cached < MOSTLY * count;
};

/** Bytes of a run of neighbours from which on it is fetched past the cache: below, asking costs more than it spares. */
const LEAST_DIRECT = 2 ** 18;

/** Tensors that stand together, of a group's slots, in one of a model's files. */
export interface Run {
  readonly segments: readonly { readonly slot: PlannedSlot; readonly tensor: TensorEntry }[];
  /** Which of the model's files. */
  readonly file: number;
  /** Bytes [from, to) of the file. */
  readonly from: number;
  readonly to: number;
}

/** All that a model has of a group's slots, or of some tiles of them. */
export const runsOf = ({ slots }: SlotGroup, model: PlannedModel, range: TileRange | undefined): readonly Run[] => {
  const segments = slots.map((slot) => ({ slot, tensor: tensorPart(slot, featuresIn(slot.features, range), model) }));
  return neighboursOf(segments).map((run) => {
    const { file, offset } = run[0]!.tensor;
    const last = run.at(-1)!.tensor;
    return { segments: run, file, from: offset, to: last.offset + last.byteLength };
  });
};

/** The units in which a run stands, as they are fetched. */
const unitsOf = ({ from, to }: Run): { readonly from: number; readonly bytes: number } => {
  const first = Math.floor(from / DIRECT_UNIT) * DIRECT_UNIT;
  return { from: first, bytes: Math.ceil((to - first) / DIRECT_UNIT) * DIRECT_UNIT };
};

const isWorthFetching = ({ from, to }: Run): boolean => to - from >= LEAST_DIRECT;

/** Bytes that can be fetched of a model. */
const modelBytes = (group: SlotGroup, model: PlannedModel, range: TileRange | undefined): number =>
  runsOf(group, model, range)
    .filter(isWorthFetching)
    .reduce((sum, run) => sum + unitsOf(run).bytes, 0);

const mostModelBytes = (group: SlotGroup, models: readonly PlannedModel[], range: TileRange | undefined): number =>
  models.reduce((most, model) => Math.max(most, modelBytes(group, model, range)), 0);

/** Bytes of memory for so many models, and for where it begins. */
const placesBytes = (models: number, bytes: number): number => (bytes === 0 ? 0 : DIRECT_UNIT + models * bytes);

/**
 * Bytes of memory into which any block of the models can be fetched, wherever it begins; 0 where everything stands in runs too
 * short for that.
 * @param range the largest part, where blocks come in parts
 */
export const fetchingBytes = (
  group: SlotGroup,
  { models, block }: Pick<ReadingPlan, 'models' | 'block'>,
  range: TileRange | undefined = group.tilesAtOnce === undefined ? undefined : { from: 0, to: group.tilesAtOnce },
): number => placesBytes(Math.min(block, models.length), mostModelBytes(group, models, range));

/** Whether blocks of a group are read past the page cache, as far as it has not got them. */
export const isFetched = (group: SlotGroup, plan: Pick<ReadingPlan, 'models' | 'block'>): boolean => {
  if (group.standby === undefined) return false;
  const bytes = fetchingBytes(group, plan);
  return bytes > 0 && bytes <= group.standby.bytes;
};

/** Memory in which each model has a place of the same size, so that rows of models alike are evenly spaced. */
export class Fetching {
  readonly #memory: DirectMemory;
  /** Of what was fetched: the byte of the buffer at which a slot's first weight stands, or would. */
  readonly #found: ReadonlyMap<PlannedModel, Map<PlannedSlot, number>>;
  /** Where the next run of a model goes. */
  readonly #next: Map<PlannedModel, number>;

  private constructor(buffer: SharedArrayBuffer, models: readonly PlannedModel[], bytes: number) {
    this.#memory = directMemory(buffer);
    this.#next = new Map(models.map((model, i) => [model, i * bytes]));
    this.#found = new Map(models.map((model) => [model, new Map()]));
  }

  /** Null where the buffer has no room for all that these models have of a group, or of some tiles of it. */
  static into(
    buffer: SharedArrayBuffer,
    group: SlotGroup,
    models: readonly PlannedModel[],
    range: TileRange | undefined,
  ): Fetching | null {
    const bytes = mostModelBytes(group, models, range);
    return placesBytes(models.length, bytes) <= buffer.byteLength ? new Fetching(buffer, models, bytes) : null;
  }

  /** Whether a run is to be fetched: that has been of use so far, and the page cache has not got it. */
  takes(fd: number, run: Run): boolean {
    if (directReads()?.isOfUse !== true || !isWorthFetching(run)) return false;
    return cachedShare(fd, run.from, run.to - run.from) < MOSTLY;
  }

  /** Fetches a run; what does not come whole is left to whoever reads the rows, and finds out why. */
  async fetch(fd: number, model: PlannedModel, run: Run): Promise<void> {
    const units = unitsOf(run);
    const to = this.#next.get(model)!;
    this.#next.set(model, to + units.bytes);
    const came = await directReads()!.read(this.#memory, { fd, ...units, to });
    if (units.from + came < run.to) {
      adviseReading(fd, run.from, run.to - run.from);
      return;
    }
    const found = this.#found.get(model)!;
    const { start } = this.#memory;
    for (const { slot } of run.segments) found.set(slot, start + to - units.from + slot.tensorIn(model).offset);
  }

  /** Where the rows of a slot stand; none where none of them were fetched. */
  rowsOf(slot: PlannedSlot, models: readonly PlannedModel[]): { readonly fetched?: FetchedRows } {
    const at = Float64Array.from(models, (model) => this.#found.get(model)?.get(slot) ?? Number.NaN);
    return at.every(Number.isNaN) ? {} : { fetched: { buffer: this.#memory.buffer, at } };
  }
}
