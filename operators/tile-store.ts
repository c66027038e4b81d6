// Tiles of slots, and what is done to them: one thread's share of the work. A tile is held in panels, as wide as the
// device likes them, each with rows [ones; −shift; mean; r state rows; b models]. A visit does all that a block owes a
// panel while it is in the cache: the mixing left over from the block before, widening and shifting the new rows into
// place, the Gram. Mixing writes into a spare matrix, which then takes the panel's place.

import { createHash } from 'node:crypto';
import { firstBadWeight } from '../sources/bad-weight.ts';
import type { OpenRows } from '../sources/open-block.ts';
import { tilesOf } from '../sources/tile.ts';
import type { CommonPanels } from './common-panels.ts';
import { type Device, type DeviceMatrix, type PlacedRows, type RowBytes, spreadRows } from './devices/device.ts';
import {
  exchange,
  freeSlots,
  type HeldSlot,
  type HeldSlots,
  type HeldTile,
  holdSlots,
  NOTHING_HELD,
  type Panel,
  passes,
  placeOf,
  type Stretch,
  stretchesOf,
  tilesIn,
} from './held-slots.ts';
import { productOf } from './linalg/dense-products.ts';
import { largerPeak } from './linalg/larger-peak.ts';
import { firstPlaces, type Places, placedAt, placeRows, placesOf, type ReadRows } from './placed-rows.ts';
import { areNeighbours } from './row-lists.ts';
import { RowReader, type UnreadRow } from './row-reader.ts';
import { signRows } from './sign-rows.ts';
import { type Generation, readValues, writeValues } from './spill-files.ts';
import type { TileQueue } from './tile-messages.ts';
import type {
  BadRow,
  FetchTask,
  FinishTask,
  LoadTask,
  Mix,
  ProjectTask,
  SaveTask,
  ScanTask,
  SlotLayout,
  SpillStep,
  VisitTask,
} from './tile-tasks.ts';
import { KINDS, newTimeSpent, type TileTimings, type TimeSpent, type Turn } from './time-spent.ts';
import { CONSTANT_ROWS, rowsBeforeBlock, savedRows } from './update-subspace.ts';

const SHIFT = 1;
const MEAN = 2;

/** What one tile contributes to a visit. */
export interface TileVisit {
  readonly tile: number;
  /** Of all rows with all the upper triangle. */
  readonly gram: Float64Array;
  readonly shiftSum: number;
  /** Rows that could not be read from their files. */
  readonly unread: readonly UnreadRow[];
}

/** What a tile wrote to a checkpoint. */
export interface TileDigest {
  readonly tile: number;
  readonly sha256: Uint8Array;
}

export interface TilePeaks {
  readonly tile: number;
  /** For each direction its entry of largest magnitude in this tile. */
  readonly peaks: Float64Array;
}

export interface TileProjection extends TilePeaks {
  readonly unread: readonly UnreadRow[];
}

export class TileStore {
  readonly #device: Device;
  #held: HeldSlots = NOTHING_HELD;
  /** Through which rows come from the disk. */
  #buffer = new Float32Array(0);
  /** Through which a tile goes into a checkpoint: fresh memory for each would cost as much as writing it. */
  #outgoing = new Float32Array(0);
  /** A panel's shift in float64, and as many ones. */
  #shift = new Float64Array(0);
  #ones = new Float64Array(0);
  /** Through which rows come from models' files, and the base's. */
  readonly #rows: RowReader;
  readonly #origin: RowReader;
  readonly #spent: TimeSpent;
  #turn: Turn = 0;

  /** @param spent where the time of each kind of work is counted */
  constructor(device: Device, spent: TimeSpent = newTimeSpent()) {
    this.#device = device;
    this.#spent = spent;
    const memory = device.rowMemory && (() => device.rowMemory!());
    this.#rows = new RowReader(memory);
    this.#origin = new RowReader(memory);
  }

  /**
   * Takes the tiles of a group of slots for which `owns` says yes; what was held before is given up.
   * @param common of each slot the panels that other threads have too
   */
  open(
    slots: readonly SlotLayout[],
    owns: (slot: number, tile: number) => boolean,
    common: readonly (CommonPanels | null)[] = [],
  ): void {
    this.clear();
    this.#held = holdSlots(this.#device, slots, owns, common);
  }

  clear(): void {
    freeSlots(this.#device, this.#held);
    this.#held = NOTHING_HELD;
    this.#rows.clear();
    this.#origin.clear();
  }

  /**
   * @param grams memory for the Grams of the task's tiles, one after the other; null: each takes its own
   * @param queue from which tiles are taken that other threads have too; null: all that are here are visited
   */
  visit(task: VisitTask, grams: SharedArrayBuffer | null = null, queue: TileQueue = null): readonly TileVisit[] {
    const slot = this.#held.slots[task.slot];
    if (!slot) return [];
    const before = rowsBeforeBlock(task.stateRows);
    const all = before + task.block;
    const columns = task.full ? all : task.block;
    const places = placesOf(task.staged, before);
    const origin = originOf(task, places, before);
    this.#turn = task.turn ?? 0;
    const visits = takenFrom(queue, tilesIn(slot, task.tiles), (tile): TileVisit => {
      const gram = gramIn(grams, tile.index - (task.tiles?.from ?? 0), all * columns);
      const unread: UnreadRow[] = [];
      if (task.shift !== null) slot.shiftSums[tile.index] = 0;
      for (const stretch of stretchesOf(slot, tile)) {
        const rows = this.#placed(slot, stretch, task, places, origin, unread);
        let since = performance.now();
        for (const panel of stretch.panels) {
          const from = tile.start + panel.start - stretch.start;
          this.#bring(slot, tile, panel, task.spill);
          if (task.spill !== null) since = performance.now();
          if (task.mix !== null) since = this.#mix(slot, panel, task.mix, since);
          if (task.shift !== null) {
            if (origin !== null) this.#negatedMean(slot, panel, rows.origin, from, origin);
            slot.shiftSums[tile.index]! += this.#settleShift(slot, panel, origin !== null);
            if (task.signs) this.#settleSigns(tile, panel, task.signs, task.stateRows);
          }
          this.#device.widen(rows.staged, from, panel.matrix, SHIFT);
          since = this.#count('widen', since);
          if (task.full) this.#device.gramOfAll(panel.matrix, all, gram);
          else this.#device.gram(panel.matrix, 0, all, before, columns, gram);
          since = this.#count('gram', since);
          this.#leave(slot, tile, panel, task.spill, all);
        }
      }
      return { tile: tile.index, gram, shiftSum: slot.shiftSums[tile.index]!, unread };
    });
    const start = performance.now();
    this.#device.settle();
    this.#count('gram', start);
    this.#turn = 0;
    return visits;
  }

  /** Makes directions out of the weights alone, and tells each direction's largest entry. */
  project(task: ProjectTask, queue: TileQueue = null): readonly TileProjection[] {
    const slot = this.#held.slots[task.slot];
    if (!slot) return [];
    const { mix } = task;
    const places = placesOf(task.staged, rowsBeforeBlock(0));
    const origin = originOf(task, places, rowsBeforeBlock(0));
    return takenFrom(queue, tilesIn(slot, task.tiles), (tile) => {
      const peaks = new Float64Array(mix.m - 1);
      const unread: UnreadRow[] = [];
      for (const stretch of stretchesOf(slot, tile)) {
        const rows = this.#placed(slot, stretch, task, places, origin, unread);
        for (const panel of stretch.panels) {
          const from = tile.start + panel.start - stretch.start;
          this.#bring(slot, tile, panel, null);
          if (origin !== null) this.#negatedMean(slot, panel, rows.origin, from, origin);
          this.#settleShift(slot, panel, origin !== null);
          this.#device.widen(rows.staged, from, panel.matrix, SHIFT);
          const start = performance.now();
          const target = panel.kept ?? this.#device.reshape(slot.spare, panel.width);
          this.#device.combine(mix.values, mix.m, panel.matrix, MEAN, mix.n, target, CONSTANT_ROWS);
          this.#count('mix', start);
          this.#widenPeaks(peaks, target, panel.width);
          if (panel.kept === null) {
            slot.spare = target;
            slot.files!.write(0, placeOf(slot, tile, panel), this.#device.read(target, 0, MEAN + mix.m));
          }
        }
      }
      return { tile: tile.index, peaks, unread };
    });
  }

  /** Values of models that are not finite, or too large to square, the first of each tile, and rows that cannot be read. */
  scan(task: ScanTask, queue: TileQueue = null): readonly BadRow[] {
    const slot = this.#held.slots[task.slot];
    if (!slot) return [];
    const found: BadRow[] = [];
    const places = placesOf(task.staged, 0);
    takenFrom(queue, tilesIn(slot, task.tiles), (tile) => {
      for (const stretch of stretchesOf(slot, tile)) {
        const placed = placeRows(slot.layout.slot, stretch, task.staged, places, this.#reading(this.#rows, found));
        for (const panel of stretch.panels) {
          const start = tile.start + panel.start;
          const spare = this.#device.reshape(slot.spare, panel.width);
          for (const { batch, rows } of placed) {
            for (const row of rows) {
              this.#device.widen([{ batch, rows: [row], at: [0] }], start - stretch.start, spare, null);
              const values = this.#device.read(spare, 0, 1);
              const index = firstBadWeight(values);
              if (index < 0) continue;
              found.push({ model: batch.models[row]!, index: start + index, value: values[index]! });
            }
          }
        }
      }
    });
    return found;
  }

  /** Turns the rows into the mean and unit directions, and tells each direction's largest entry. */
  finish(task: FinishTask, queue: TileQueue = null): readonly TilePeaks[] {
    const slot = this.#held.slots[task.slot];
    if (!slot) return [];
    return takenFrom(queue, slot.tiles, (tile) => {
      const peaks = new Float64Array(task.mix.m - 1);
      for (const panel of tile.panels) {
        this.#bring(slot, tile, panel, task.spill);
        if (task.settle !== null) this.#mix(slot, panel, task.settle);
        this.#mix(slot, panel, task.mix);
        this.#widenPeaks(peaks, panel.matrix, panel.width);
        if (task.keep) this.#swap(slot, panel);
        else this.#leave(slot, tile, panel, task.spill, MEAN + task.mix.m);
      }
      return { tile: tile.index, peaks };
    });
  }

  /** Writes tiles' absolute means and signed directions where the task says. */
  fetch(task: FetchTask, queue: TileQueue = null): void {
    const slot = this.#held.slots[task.slot];
    if (!slot) return;
    const rows = 1 + task.signs.length;
    const first = tilesOf(slot.layout.features)[task.from]!.start;
    takenFrom(queue, tilesIn(slot, task), (tile) => {
      const out = new Float32Array(task.out, (tile.start - first) * rows * 4, rows * tile.width);
      for (const panel of tile.panels) {
        const { start, width } = panel;
        const matrix = panel.kept ?? panel.matrix;
        const target = out.subarray(start);
        if (task.generation === null) {
          this.#device.readInto(matrix, MEAN, rows, target, tile.width);
          subtract(target.subarray(0, width), this.#device.read(matrix, SHIFT, 1));
        } else {
          const all = this.#readRows(slot, tile, panel, task.generation, MEAN + rows);
          spreadRows(all.subarray(MEAN * width), width, target, tile.width);
          subtract(target.subarray(0, width), all.subarray(SHIFT * width, MEAN * width));
        }
      }
      for (let j = 1; j < rows; j++)
        if (task.signs[j - 1]! < 0) negate(out.subarray(j * tile.width, (j + 1) * tile.width));
    });
  }

  /** Writes tiles' rows to a file, and tells the sha256 of what each of them wrote. */
  save({ slot: index, mix, stateRows, spill, to }: SaveTask, queue: TileQueue = null): readonly TileDigest[] {
    const slot = this.#held.slots[index];
    if (!slot) return [];
    const rows = savedRows(stateRows);
    return takenFrom(queue, slot.tiles, (tile) => {
      const floats = rows * tile.width;
      if (this.#outgoing.length < floats) this.#outgoing = new Float32Array(floats);
      const values = this.#outgoing.subarray(0, floats);
      for (const panel of tile.panels) {
        this.#bring(slot, tile, panel, spill);
        if (mix !== null) this.#mix(slot, panel, mix);
        this.#device.readInto(panel.matrix, SHIFT, rows, values.subarray(panel.start), tile.width);
        this.#leave(slot, tile, panel, null, 0);
      }
      writeValues(to.path, to.fd, to.at + tile.start * rows * 4, values);
      return { tile: tile.index, sha256: createHash('sha256').update(values).digest() };
    });
  }

  /** Reads tiles' rows from a file that `save` wrote. */
  load({ slot: index, stateRows, generation, from }: LoadTask, queue: TileQueue = null): void {
    const slot = this.#held.slots[index];
    if (!slot) return;
    const rows = savedRows(stateRows);
    takenFrom(queue, slot.tiles, (tile) => {
      const values = new Float32Array(rows * tile.width);
      readValues(from.path, from.fd, from.at + tile.start * rows * 4, values);
      slot.shiftSums[tile.index] = 0;
      for (const panel of tile.panels) {
        this.#bring(slot, tile, panel, null);
        const { start, width } = panel;
        const own = new Float32Array((1 + rows) * width).fill(1, 0, width);
        for (let i = 0; i < rows; i++) {
          const row = i * tile.width + start;
          own.set(values.subarray(row, row + width), (1 + i) * width);
        }
        this.#device.write(panel.matrix, 0, own);
        slot.shiftSums[tile.index]! += this.#sumOfShift(own, width);
        this.#leave(slot, tile, panel, generation === null ? null : { from: null, to: generation }, 1 + rows);
      }
    });
  }

  /** Looks for larger entries of each direction. */
  #widenPeaks(peaks: Float64Array, matrix: DeviceMatrix, width: number): void {
    const [at, count] = [MEAN + 1, peaks.length];
    const [values, each] =
      this.#device.peaks === undefined
        ? [this.#device.read(matrix, at, count), width]
        : [this.#device.peaks(matrix, at, count), 1];
    for (let j = 0; j < count; j++) peaks[j] = largerPeak(peaks[j]!, values.subarray(j * each, (j + 1) * each));
  }

  /** Does work that is not on tiles, and counts its time with theirs. */
  timed<T>(kind: keyof TileTimings, work: () => T): T {
    const start = performance.now();
    const result = work();
    this.#count(kind, start);
    return result;
  }

  /** A stretch's rows, and those that its shift comes from. */
  #placed(
    slot: HeldSlot,
    stretch: Stretch,
    { staged, shift }: Pick<VisitTask, 'staged' | 'shift'>,
    places: readonly Places[],
    origin: Origin | null,
    unread: BadRow[],
  ): { readonly staged: readonly PlacedRows[]; readonly origin: readonly PlacedRows[] } {
    const name = slot.layout.slot;
    const rows = placeRows(name, stretch, staged, places, this.#reading(this.#rows, unread, slot));
    if (origin === null) return { staged: rows, origin: [] };
    if (shift?.from !== 'base') return { staged: rows, origin: placedAt(rows, origin.places) };
    const reading = this.#reading(this.#origin, unread);
    return { staged: rows, origin: placeRows(name, stretch, [shift.staged], origin.places, reading) };
  }

  /**
   * Reads rows with `reader`, telling those that fail to `unread`.
   * @param slot to whose places they may go
   */
  #reading(reader: RowReader, unread: BadRow[], slot: HeldSlot | null = null): ReadRows {
    return (rows, tile, places) => {
      const place = slot && this.#placeFor(slot, rows, places);
      return this.timed('read', () => reader.read(rows, tile, (row) => void unread.push(row), place));
    };
  }

  /** Where rows are read to that are float32, all taken, and in order; null for all others, which come through the reader's memory. */
  #placeFor({ turning, stretch }: HeldSlot, { dtype, models }: OpenRows, { at }: Places): RowBytes | null {
    if (stretch === null || dtype !== 'F32' || at.length < models.length || !areNeighbours(at)) return null;
    return this.#device.inPlace!.rowsAt(turning!, at[0]!, at.length);
  }

  /** Counts what was done since then as work of this kind; returns the time that is now. */
  #count(kind: keyof TileTimings, since: number): number {
    const now = performance.now();
    const at = this.#turn * KINDS.length + KINDS.indexOf(kind);
    this.#spent[at] = this.#spent[at]! + now - since;
    return now;
  }

  /** Puts a spilled panel's rows on the device, in the two parts in which they came to be there. */
  #bring(slot: HeldSlot, tile: HeldTile, panel: Panel, step: SpillStep | null): void {
    const { turning, stretch } = slot;
    if (stretch !== null) panel.matrix = this.#device.inPlace!.window(turning!, panel.start % stretch, panel.width);
    else if (turning !== null) panel.matrix = this.#device.reshape(turning, panel.width);
    if (step === null || step.from === null) return;
    const { generation, stateRows, block } = step.from;
    const { width } = panel;
    const before = rowsBeforeBlock(stateRows);
    const values = this.#readRows(slot, tile, panel, generation, before + block);
    this.#device.write(panel.matrix, 0, values.subarray(0, before * width));
    if (block > 0) this.#device.write(panel.matrix, before, values.subarray(before * width));
  }

  /** Takes a spilled panel's first rows back to the disk. */
  #leave(slot: HeldSlot, tile: HeldTile, panel: Panel, step: SpillStep | null, rows: number): void {
    if (slot.turning !== null && !passes(slot)) slot.turning = panel.matrix;
    if (step === null) return;
    slot.files!.write(step.to, placeOf(slot, tile, panel), this.#device.read(panel.matrix, 0, rows));
  }

  /** The first rows of a spilled panel, from where it was left; valid until the next call. */
  #readRows(slot: HeldSlot, tile: HeldTile, panel: Panel, generation: Generation, rows: number): Float32Array {
    const floats = rows * panel.width;
    if (this.#buffer.length < floats) this.#buffer = new Float32Array(floats);
    const values = this.#buffer.subarray(0, floats);
    slot.files!.read(generation, placeOf(slot, tile, panel), values);
    return values;
  }

  /**
   * Changes a panel's rows in place, or mixes them into the spare matrix, which becomes the panel's.
   * @returns the time that is now
   */
  #mix(slot: HeldSlot, panel: Panel, mix: Mix, since = performance.now()): number {
    const { kind, values, m, n } = mix;
    if (kind === 'add') {
      for (const [a, b] of mix.exchanges) this.#device.swapRows!(panel.matrix, MEAN + a, MEAN + b);
      this.#device.accumulate(values, m, panel.matrix, MEAN, n - m);
    } else {
      slot.spare = this.#device.reshape(slot.spare, panel.width);
      this.#device.combine(values, m, panel.matrix, MEAN, n, slot.spare, CONSTANT_ROWS);
      exchange(slot, panel);
    }
    return this.#count('mix', since);
  }

  /** Takes a mixing back: the spare matrix still holds the rows from before. */
  #swap(slot: HeldSlot, panel: Panel): void {
    slot.spare = this.#device.reshape(slot.spare, panel.width);
    exchange(slot, panel);
    if (slot.turning !== null) slot.turning = panel.matrix;
  }

  /** Makes the spare matrix's first row the weighted sum of some rows. */
  #negatedMean(
    slot: HeldSlot,
    { width, matrix }: Panel,
    rows: readonly PlacedRows[],
    from: number,
    { first, weights }: Origin,
  ): void {
    slot.spare = this.#device.reshape(slot.spare, width);
    this.#device.widen(rows, from, matrix, null);
    this.#device.combine(weights, 1, matrix, first, weights.length, slot.spare, 0);
  }

  /** Sets the rows that stand still, and a mean of zero; returns the sum of the shift's entries. */
  #settleShift({ spare }: HeldSlot, { width, matrix }: Panel, fromSpare: boolean): number {
    const first = new Float32Array(rowsBeforeBlock(0) * width).fill(1, 0, width);
    if (fromSpare) first.set(this.#device.read(spare, 0, 1), SHIFT * width);
    this.#device.write(matrix, 0, first);
    return this.#sumOfShift(first, width);
  }

  /** Σ of the shift's entries, out of a panel's first rows, which hold it negated; by a product, which needs no compiling. */
  #sumOfShift(rows: Float32Array, width: number): number {
    if (this.#ones.length < width) {
      this.#ones = new Float64Array(width).fill(1);
      this.#shift = new Float64Array(width);
    }
    this.#shift.set(rows.subarray(SHIFT * width, MEAN * width));
    const product = this.#device.multiplyDouble;
    const [sum] = productOf(this.#shift, this.#ones, 1, width, 1, { product });
    return -sum!;
  }

  /** Sets the state's rows of a sketch: zeros, then as many rows of signs. */
  #settleSigns(tile: HeldTile, { start, width, matrix }: Panel, keys: Int32Array, stateRows: number): void {
    const rows = new Float32Array(stateRows * width);
    rows.set(signRows(keys, stateRows / 2, tile.start + start, width), (stateRows / 2) * width);
    this.#device.write(matrix, rowsBeforeBlock(0), rows);
  }
}

/** Zeros for a tile's Gram. */
const gramIn = (grams: SharedArrayBuffer | null, place: number, cells: number): Float64Array =>
  grams === null ? new Float64Array(cells) : new Float64Array(grams, place * cells * 8, cells).fill(0);

/** What becomes of each tile, or of each that is first taken here of those that several threads have. */
const takenFrom = <R>(queue: TileQueue, tiles: readonly HeldTile[], work: (tile: HeldTile) => R): readonly R[] => {
  if (queue === null) return tiles.map(work);
  const next = new Int32Array(queue);
  const done: R[] = [];
  for (let i = Atomics.add(next, 0, 1); i < tiles.length; i = Atomics.add(next, 0, 1)) done.push(work(tiles[i]!));
  return done;
};

/** Models whose mean is the shift, at most: it only needs to be near the others, and they are widened once more for it. */
const SHIFT_MODELS = 32;

/** Rows whose mean is the shift. */
interface Origin {
  readonly places: readonly Places[];
  /** The first of their places. */
  readonly first: number;
  /** What makes the negated shift out of them: minus their mean. */
  readonly weights: Float64Array;
}

/**
 * Null for a shift of zero, or one that stands.
 * @param places of all of the task's rows, from `before` on
 */
const originOf = (
  { shift, block }: Pick<VisitTask, 'shift' | 'block'>,
  places: readonly Places[],
  before: number,
): Origin | null => {
  if (shift === null || shift.from === 'zero') return null;
  const meanOf = (rows: number): Float64Array => new Float64Array(rows).fill(-1 / rows);
  // A base stands beside the models' rows, which may be in their places: where the mean will be.
  if (shift.from === 'base') return { places: placesOf([shift.staged], MEAN), first: MEAN, weights: meanOf(1) };
  const rows = Math.min(block, SHIFT_MODELS);
  return { places: firstPlaces(places, before + rows), first: before, weights: meanOf(rows) };
};

/** y −= x. */
const subtract = (y: Float32Array, x: Float32Array): void => {
  for (let i = 0; i < y.length; i++) y[i] = y[i]! - x[i]!;
};

const negate = (x: Float32Array): void => {
  for (let i = 0; i < x.length; i++) x[i] = -x[i]!;
};
