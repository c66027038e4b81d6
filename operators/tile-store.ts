// Tiles of slots, and what is done to them: one thread's share of the work. Each tile has rows
// [ones; −shift; mean; r state rows; b models] on the device, and a visit does all that a block owes a tile while it is
// in the cache: the mixing left over from the block before, widening and shifting the new rows into place, the Gram.
// Mixing writes into a spare matrix, which then takes the tile's place.

import { firstBadWeight } from '../sources/bad-weight.ts';
import { bytesPerElement } from '../sources/dtype.ts';
import type { StagedRows } from '../sources/staged-block.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { makeWeightBatch, type WeightRows, weightRows } from '../sources/weight-batch.ts';
import type { Device, DeviceMatrix } from './devices/device.ts';
import type { BadValue, FetchTask, FinishTask, SlotLayout, TileTimings, VisitTask } from './tile-tasks.ts';
import { CONSTANT_ROWS, rowsBeforeBlock } from './update-subspace.ts';

const ONES = 0;
const SHIFT = 1;
const MEAN = 2;

interface HeldTile extends Tile {
  matrix: DeviceMatrix;
  /** Σ of the shift's entries. */
  shiftSum: number;
}

interface HeldSlot {
  readonly layout: SlotLayout;
  readonly tiles: readonly HeldTile[];
  spare: DeviceMatrix;
}

/** What one tile contributes to a visit. */
export interface TileVisit {
  readonly tile: number;
  readonly gram: Float64Array;
  readonly shiftSum: number;
}

export interface TilePeaks {
  readonly tile: number;
  /** For each direction its entry of largest magnitude in this tile. */
  readonly peaks: Float64Array;
}

export class TileStore {
  readonly #device: Device;
  #slots: (HeldSlot | null)[] = [];
  #widen = 0;
  #gram = 0;
  #mix = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Takes the tiles of a group of slots for which `owns` says yes; what was held before is given up. */
  open(slots: readonly SlotLayout[], owns: (slot: number, tile: number) => boolean): void {
    this.clear();
    this.#slots = slots.map((layout, slot) => {
      const tiles = tilesOf(layout.features).filter((tile) => owns(slot, tile.index));
      if (tiles.length === 0) return null;
      const widest = tiles[0]!.width;
      const allocate = (width: number): DeviceMatrix =>
        this.#device.reshape(this.#device.allocate(layout.maxRows, widest), width);
      return {
        layout,
        tiles: tiles.map((tile) => ({ ...tile, matrix: allocate(tile.width), shiftSum: 0 })),
        spare: allocate(widest),
      };
    });
  }

  clear(): void {
    for (const slot of this.#slots) {
      if (slot === null) continue;
      this.#device.free(slot.spare);
      for (const tile of slot.tiles) this.#device.free(tile.matrix);
    }
    this.#slots = [];
  }

  visit(task: VisitTask): readonly TileVisit[] {
    const slot = this.#slots[task.slot];
    if (!slot) return [];
    const before = rowsBeforeBlock(task.stateRows);
    const all = before + task.block;
    const columns = task.full ? all : task.block;
    return slot.tiles.map((tile) => {
      if (task.mix !== null) this.#mixTile(slot, tile, task.mix.values, task.mix.m, task.mix.n);
      const start = performance.now();
      this.#placeRows(slot, tile, task, before);
      const widened = performance.now();
      const gram = new Float64Array(all * columns);
      this.#device.gram(tile.matrix, 0, all, task.full ? 0 : before, columns, gram);
      this.#widen += widened - start;
      this.#gram += performance.now() - widened;
      return { tile: tile.index, gram, shiftSum: tile.shiftSum };
    });
  }

  /** The first value of each model that is not finite, or too large to square. */
  scan(slotIndex: number, staged: readonly StagedRows[]): readonly BadValue[] {
    const slot = this.#slots[slotIndex];
    if (!slot) return [];
    const found: BadValue[] = [];
    for (const tile of slot.tiles) {
      const spare = this.#device.reshape(slot.spare, tile.width);
      for (const rows of staged) {
        const batch = batchOf(slot.layout.slot, rows, tile);
        batch.models.forEach((model, i) => {
          if (rows.positions[i]! < 0) return;
          this.#device.widen(batch, [i], spare, [0], null);
          const index = firstBadWeight(this.#device.read(spare, 0, 1));
          if (index < 0) return;
          found.push({ model, index: tile.start + index, value: this.#device.read(spare, 0, 1)[index]! });
        });
      }
    }
    return found;
  }

  /** Turns the rows into the mean and unit directions, and tells each direction's largest entry. */
  finish(task: FinishTask): readonly TilePeaks[] {
    const slot = this.#slots[task.slot];
    if (!slot) return [];
    const { values, m, n } = task.mix;
    return slot.tiles.map((tile) => {
      this.#mixTile(slot, tile, values, m, n);
      const peaks = new Float64Array(m - 1);
      for (let j = 0; j < peaks.length; j++) {
        let peak = 0;
        const row = this.#device.read(tile.matrix, MEAN + 1 + j, 1);
        for (let i = 0; i < row.length; i++) if (Math.abs(row[i]!) > Math.abs(peak)) peak = row[i]!;
        peaks[j] = peak;
      }
      return { tile: tile.index, peaks };
    });
  }

  /** Writes tiles' absolute means and signed directions where the task says. */
  fetch(task: FetchTask): void {
    const slot = this.#slots[task.slot];
    if (!slot) return;
    const rows = 1 + task.signs.length;
    const first = tilesOf(slot.layout.features)[task.from]!.start;
    for (const tile of slot.tiles) {
      if (tile.index < task.from || tile.index >= task.to) continue;
      const out = new Float32Array(task.out, (tile.start - first) * rows * 4, rows * tile.width);
      // A read may be a view that the next one replaces: the mean is finished before the shift is looked at.
      const mean = out.subarray(0, tile.width);
      mean.set(this.#device.read(tile.matrix, MEAN, 1));
      const shift = this.#device.read(tile.matrix, SHIFT, 1);
      for (let i = 0; i < mean.length; i++) mean[i] = mean[i]! - shift[i]!;
      for (let j = 0; j < task.signs.length; j++) {
        const row = this.#device.read(tile.matrix, MEAN + 1 + j, 1);
        const target = out.subarray((1 + j) * tile.width, (2 + j) * tile.width);
        if (task.signs[j]! < 0) for (let i = 0; i < row.length; i++) target[i] = -row[i]!;
        else target.set(row);
      }
    }
  }

  /** Seconds spent since the last call. */
  takeTimings(): TileTimings {
    const timings = { widen: this.#widen / 1e3, gram: this.#gram / 1e3, mix: this.#mix / 1e3 };
    this.#widen = this.#gram = this.#mix = 0;
    return timings;
  }

  #mixTile(slot: HeldSlot, tile: HeldTile, p: Float64Array, m: number, n: number): void {
    const start = performance.now();
    const spare = this.#device.reshape(slot.spare, tile.width);
    this.#device.combine(p, m, tile.matrix, MEAN, n, spare, CONSTANT_ROWS);
    slot.spare = tile.matrix;
    tile.matrix = spare;
    this.#mix += performance.now() - start;
  }

  /** Widens the block into its rows; in a slot's first visit settles the shift first. */
  #placeRows(slot: HeldSlot, tile: HeldTile, task: VisitTask, before: number): void {
    const batches = task.staged.map((rows) => {
      const kept = [...rows.positions.keys()].filter((i) => rows.positions[i]! >= 0);
      return { batch: batchOf(slot.layout.slot, rows, tile), kept, at: kept.map((i) => before + rows.positions[i]!) };
    });
    const place = (shift: number | null): void => {
      for (const { batch, kept, at } of batches) this.#device.widen(batch, kept, tile.matrix, at, shift);
    };
    if (task.shift === null) {
      place(SHIFT);
      return;
    }
    const negatedShift = this.#negatedShift(slot, tile, task, before, place);
    const constants = new Float32Array(CONSTANT_ROWS * tile.width).fill(1, 0, tile.width);
    constants.set(negatedShift, SHIFT * tile.width);
    this.#device.write(tile.matrix, ONES, constants);
    this.#device.write(tile.matrix, MEAN, new Float32Array(tile.width));
    place(SHIFT);
    tile.shiftSum = 0;
    for (const value of negatedShift) tile.shiftSum -= value;
  }

  #negatedShift(
    slot: HeldSlot,
    tile: HeldTile,
    task: VisitTask,
    before: number,
    place: (shift: number | null) => void,
  ): Float32Array {
    if (task.shift?.from === 'mean') {
      place(null);
      const spare = this.#device.reshape(slot.spare, tile.width);
      const weights = new Float64Array(task.block).fill(-1 / task.block);
      this.#device.combine(weights, 1, tile.matrix, before, task.block, spare, 0);
      return this.#device.read(spare, 0, 1).slice();
    }
    if (task.shift?.from === 'base') {
      this.#device.widen(batchOf(slot.layout.slot, task.shift.staged, tile), [0], tile.matrix, [SHIFT], null);
      return this.#device.read(tile.matrix, SHIFT, 1).map((x) => -x);
    }
    return new Float32Array(tile.width);
  }
}

const batchOf = (slot: string, staged: StagedRows, tile: Tile): WeightRows => {
  const rows = staged.models.length;
  const size = bytesPerElement(staged.dtype);
  const bytes = new Uint8Array(staged.buffer, staged.offset + tile.start * rows * size, rows * tile.width * size);
  const { dtype, models } = staged;
  return weightRows(makeWeightBatch({ slot, dtype, start: tile.start, stop: tile.start + tile.width, models, bytes }));
};
