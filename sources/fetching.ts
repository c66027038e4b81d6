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
  /** Bytes [from, to) of the file. */
  readonly from: number;
  readonly to: number;
}

/** Of one of a model's files. */
export const runsIn = (
  { slots }: SlotGroup,
  model: PlannedModel,
  file: number,
  range: TileRange | undefined,
): readonly Run[] => {
  const segments = slots.map((slot) => ({ slot, tensor: tensorPart(slot, featuresIn(slot.features, range), model) }));
  return neighboursOf(segments.filter(({ tensor }) => tensor.file === file)).map((run) => {
    const last = run.at(-1)!.tensor;
    return { segments: run, from: run[0]!.tensor.offset, to: last.offset + last.byteLength };
  });
};

/** The units in which a run stands, as they are fetched. */
const unitsOf = ({ from, to }: Run): { readonly from: number; readonly bytes: number } => {
  const first = Math.floor(from / DIRECT_UNIT) * DIRECT_UNIT;
  return { from: first, bytes: Math.ceil((to - first) / DIRECT_UNIT) * DIRECT_UNIT };
};

const isWorthFetching = ({ from, to }: Run): boolean => to - from >= LEAST_DIRECT;

/** Bytes that can be fetched of a model. */
const modelBytes = (group: SlotGroup, model: PlannedModel, range: TileRange | undefined): number => {
  let bytes = 0;
  for (const file of model.header.files.keys())
    for (const run of runsIn(group, model, file, range)) if (isWorthFetching(run)) bytes += unitsOf(run).bytes;
  return bytes;
};

const mostModelBytes = (group: SlotGroup, models: readonly PlannedModel[], range: TileRange | undefined): number =>
  models.reduce((most, model) => Math.max(most, modelBytes(group, model, range)), 0);

/**
 * Bytes of memory into which any block of the models can be fetched, wherever it begins; 0 where everything stands in runs too
 * short for that.
 * @param range the largest part, where blocks come in parts
 */
export const fetchingBytes = (
  group: SlotGroup,
  { models, block }: Pick<ReadingPlan, 'models' | 'block'>,
  range: TileRange | undefined = group.tilesAtOnce === undefined ? undefined : { from: 0, to: group.tilesAtOnce },
): number => {
  const bytes = Math.min(block, models.length) * mostModelBytes(group, models, range);
  return bytes === 0 ? 0 : DIRECT_UNIT + bytes;
};

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

  constructor(
    buffer: SharedArrayBuffer,
    group: SlotGroup,
    models: readonly PlannedModel[],
    range: TileRange | undefined,
  ) {
    this.#memory = directMemory(buffer);
    const bytes = mostModelBytes(group, models, range);
    this.#next = new Map(models.map((model, i) => [model, i * bytes]));
    this.#found = new Map(models.map((model) => [model, new Map()]));
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
