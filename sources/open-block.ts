// Opens the files of a block of models and leaves the weights in them: whoever multiplies reads a tile's rows when their
// turn comes, into memory that stays in the cache. The kernel is told at once which bytes that will be, and fetches them; or
// what it has not got yet is read past its cache, into memory that stands by for it.
import { setImmediate } from 'node:timers/promises';
import { bytesPerElement } from './dtype.ts';
import type { SourceMalformed, SourceUnavailable } from './errors.ts';
import { type FetchedRows, Fetching, runsOf } from './fetching.ts';
import type { Dtype, ModelFile } from './model.ts';
import { adviseReading, takesAdvice } from './page-cache.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from './reading-plan.ts';
import { checkUnchanged, isLocal, type SourceFiles } from './source-files.ts';
import { type BlockAtHand, byDtype, MODELS_AT_ONCE, placesIn, type ReadFault } from './staged-block.ts';
import { TILE_WIDTH, type TileRange } from './tile.ts';

/**
 * Weights of one slot and dtype, in their files. Row i belongs to `models[i]` and to block position `positions[i]`; −1
 * leaves it out.
 */
export interface OpenRows {
  readonly dtype: Dtype;
  readonly models: Int32Array;
  readonly positions: Int32Array;
  /** Descriptors of this process, good in every thread; −1 where the file could not be opened. */
  readonly fds: Int32Array;
  /** The byte at which the slot's first weight stands. */
  readonly at: Float64Array;
  /** What of them has been fetched into memory, where any has. */
  readonly fetched?: FetchedRows;
}

/** Files that stay open as long as their block is in use. */
export class HeldFiles {
  readonly #files: SourceFiles;
  readonly #fds = new Map<ModelFile, number>();

  constructor(files: SourceFiles) {
    this.#files = files;
  }

  /** @throws SourceMalformed when it is not the planned file any more, SourceUnavailable when it cannot be opened */
  async hold(file: ModelFile): Promise<number> {
    this.#files.hold(file);
    try {
      const fd = await this.#files.descriptorOf(file);
      this.#fds.set(file, fd);
      return fd;
    } catch (error) {
      await this.#files.release(file);
      throw error;
    }
  }

  /** −1 when it could not be opened. */
  descriptorOf(file: ModelFile): number {
    return this.#fds.get(file) ?? -1;
  }

  /**
   * What cannot be looked at any more, such as a file that its server has deleted, is not known to have changed.
   * @throws SourceMalformed when a file was written to while it was read
   */
  check(): void {
    for (const [file, fd] of this.#fds) {
      try {
        checkUnchanged(file, fd);
      } catch (error) {
        if ((error as SourceMalformed | SourceUnavailable)._tag === 'SourceMalformed') throw error;
      }
    }
  }

  close(): void {
    for (const file of this.#fds.keys()) void this.#files.release(file);
    this.#fds.clear();
  }
}

/** How long files are opened before the thread does something else. */
const MOST_BUSY_MS = 5;

/** Files that a block may have open, while the next one opens as many (`withStandby` has fewer where three are alive). */
const MOST_FILES = 256;

/**
 * Whether blocks can be left in their files: few enough, on file systems of a machine that fetches what it is told will be
 * read. Of a server reading many large pieces at once is what is known to be fast.
 */
export const canStayInFiles = ({ models, base, block }: Omit<ReadingPlan, 'groups'>): boolean => {
  if (!takesAdvice()) return false;
  const counts = models.map(({ header }) => header.files.length);
  const most = MOST_FILES - (base?.header.files.length ?? 0);
  // Any models that follow each other: a run that goes on has blocks that begin where it stood.
  let files = 0;
  for (const [i, count] of counts.entries()) {
    files += count - (i < block ? 0 : counts[i - block]!);
    if (files > most) return false;
  }
  const all = base === null ? models : [base, ...models];
  return all.every(({ header }) => header.files.every(({ path }) => isLocal(path)));
};

/** Whether all models have a slot's weights in float32, as they are multiplied. */
export const isFloat32 = (slot: PlannedSlot, models: readonly PlannedModel[]): boolean =>
  models.every((model) => slot.tensorIn(model).dtype === 'F32');

/**
 * Bytes that a thread reads at a time: a tile's rows, for each dtype there is in the group, and the base's row.
 * @param widthOf features of a slot that are read at a time, at most
 */
export const tileRowsBytes = (
  { slots }: SlotGroup,
  { models, base, block }: Omit<ReadingPlan, 'groups'>,
  widthOf: (slot: PlannedSlot) => number = () => TILE_WIDTH,
): number => {
  const widest = (members: readonly PlannedModel[]): number => {
    const bytes = new Map<Dtype, number>();
    for (const slot of slots)
      for (const dtype of byDtype(slot, members).keys()) {
        const row = Math.min(slot.features, widthOf(slot)) * bytesPerElement(dtype);
        bytes.set(dtype, Math.max(row, bytes.get(dtype) ?? 0));
      }
    return [...bytes.values()].reduce((sum, row) => sum + row, 0);
  };
  return Math.min(block, models.length) * widest(models) + (base === null ? 0 : widest([base]));
};

/** A block whose weights are still in their files. */
export interface OpenBlock extends BlockAtHand<OpenRows> {
  readonly files: HeldFiles;
}

/**
 * Opens the files in which the group's slots of these models stand, or some tiles of them, and has the kernel fetch the
 * weights. Faults of single models are collected; a file that is not the planned one any more throws.
 * @param buffer where what the kernel has not got is fetched to, if it has room for these models (`fetchingBytes`)
 */
export const openBlock = async (
  files: SourceFiles,
  group: SlotGroup,
  models: readonly PlannedModel[],
  range?: TileRange,
  buffer: SharedArrayBuffer | null = null,
): Promise<OpenBlock> => {
  const held = new HeldFiles(files);
  const fetching = buffer === null ? null : Fetching.into(buffer, group, models, range);
  const fetches: Promise<void>[] = [];
  const faults: ReadFault[] = [];
  const queue = [...models];
  let since = performance.now();
  const openNext = async (): Promise<void> => {
    for (let model = queue.shift(); model !== undefined; model = queue.shift()) {
      faults.push(...(await openModel(held, group, model, range, fetching, fetches)));
      // Advice may wait for a busy disk: others have their turn.
      if (performance.now() - since < MOST_BUSY_MS) continue;
      await setImmediate();
      since = performance.now();
    }
  };
  const opened = await Promise.allSettled(Array.from({ length: MODELS_AT_ONCE }, openNext));
  // Also where opening failed: until then the buffer is written to.
  const fetched = await Promise.allSettled(fetches);
  const failed = [...opened, ...fetched].find((settled) => settled.status === 'rejected');
  if (failed !== undefined) {
    held.close();
    throw failed.reason;
  }
  faults.sort((a, b) => a.model.id - b.model.id || a.slot.id - b.slot.id);
  const slots = group.slots.map((slot) => {
    const { kept, placesOf } = placesIn(slot, models, faults);
    const rows = [...byDtype(slot, models)].map(([dtype, members]) => ({
      dtype,
      ...placesOf(members),
      fds: Int32Array.from(members, (model) => held.descriptorOf(model.header.files[slot.tensorIn(model).file]!)),
      at: Float64Array.from(members, (model) => slot.tensorIn(model).offset),
      ...fetching?.rowsOf(slot, members),
    }));
    return { slot, models: kept, rows };
  });
  return { slots, faults, files: held };
};

/** Opens a model's files, and has them fetched; returns its slots in those that cannot be opened. */
const openModel = async (
  held: HeldFiles,
  group: SlotGroup,
  model: PlannedModel,
  range: TileRange | undefined,
  fetching: Fetching | null,
  fetches: Promise<void>[],
): Promise<readonly ReadFault[]> => {
  const faults: ReadFault[] = [];
  const all = runsOf(group, model, range);
  for (const [index, file] of model.header.files.entries()) {
    const runs = all.filter((run) => run.file === index);
    if (runs.length === 0) continue;
    try {
      const fd = await held.hold(file);
      for (const run of runs) {
        if (fetching?.takes(fd, run) === true) {
          const fetch = fetching.fetch(fd, model, run);
          // Told when all are looked at.
          fetch.catch(() => {});
          fetches.push(fetch);
        } else adviseReading(fd, run.from, run.to - run.from);
      }
    } catch (cause) {
      const error = cause as SourceMalformed | SourceUnavailable;
      // Two versions of a model would be mixed: that always stops the run. And no model is to blame for too many open files.
      if (error._tag === 'SourceMalformed' ? error.rule === 'changed' : error.isExhausted === true) throw error;
      for (const { segments } of runs) for (const { slot } of segments) faults.push({ model, slot, error });
    }
  }
  return faults;
};
