// Tiles of slots, and what is done to them: one thread's share of the work. A tile is held in panels, as wide as the
// device likes them, each with rows [ones; −shift; mean; r state rows; b models]. A visit does all that a block owes a
// panel while it is in the cache: the mixing left over from the block before, widening and shifting the new rows into
// place, the Gram. Mixing writes into a spare matrix, which then takes the panel's place.

import { firstBadWeight } from '../sources/bad-weight.ts';
import { bytesPerElement, widen } from '../sources/dtype.ts';
import type { StagedRows } from '../sources/staged-block.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { makeWeightBatch, type WeightRows, weightRows } from '../sources/weight-batch.ts';
import type { Device, DeviceMatrix } from './devices/device.ts';
import type { BadValue, FetchTask, FinishTask, Mix, SlotLayout, TileTimings, VisitTask } from './tile-tasks.ts';
import { CONSTANT_ROWS, rowsBeforeBlock } from './update-subspace.ts';

const ONES = 0;
const SHIFT = 1;
const MEAN = 2;

/** Features [start, stop) of a tile. */
interface Panel {
  readonly start: number;
  readonly width: number;
  matrix: DeviceMatrix;
}

interface HeldTile extends Tile {
  readonly panels: readonly Panel[];
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
  #widenMs = 0;
  #gramMs = 0;
  #mixMs = 0;

  constructor(device: Device) {
    this.#device = device;
  }

  /** Takes the tiles of a group of slots for which `owns` says yes; what was held before is given up. */
  open(slots: readonly SlotLayout[], owns: (slot: number, tile: number) => boolean): void {
    this.clear();
    this.#slots = slots.map((layout, slot) => {
      const tiles = tilesOf(layout.features).filter((tile) => owns(slot, tile.index));
      if (tiles.length === 0) return null;
      const widest = Math.min(layout.features, this.#device.info.panel);
      const allocate = (width: number): DeviceMatrix =>
        this.#device.reshape(this.#device.allocate(layout.maxRows, widest), width);
      const panelsOf = ({ width }: Tile): readonly Panel[] =>
        range(Math.ceil(width / widest)).map((i) => {
          const start = i * widest;
          const columns = Math.min(widest, width - start);
          return { start, width: columns, matrix: allocate(columns) };
        });
      return {
        layout,
        tiles: tiles.map((tile) => ({ ...tile, panels: panelsOf(tile), shiftSum: 0 })),
        spare: allocate(widest),
      };
    });
  }

  clear(): void {
    for (const slot of this.#slots) {
      if (slot === null) continue;
      this.#device.free(slot.spare);
      for (const tile of slot.tiles) for (const panel of tile.panels) this.#device.free(panel.matrix);
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
      const gram = new Float64Array(all * columns);
      const staged = stagedIn(slot, tile, task.staged, before);
      const base = task.shift?.from === 'base' ? stagedIn(slot, tile, [task.shift.staged], SHIFT) : null;
      if (task.shift !== null) tile.shiftSum = 0;
      for (const panel of tile.panels) {
        if (task.mix !== null) this.#mix(slot, panel, task.mix);
        const start = performance.now();
        if (task.shift !== null) tile.shiftSum += this.#settleShift(panel, task.shift.from, staged, base);
        this.#place(panel, staged, SHIFT);
        const widened = performance.now();
        this.#device.gram(panel.matrix, 0, all, task.full ? 0 : before, columns, gram);
        this.#widenMs += widened - start;
        this.#gramMs += performance.now() - widened;
      }
      return { tile: tile.index, gram, shiftSum: tile.shiftSum };
    });
  }

  /** The first value of each model that is not finite, or too large to square. */
  scan(slotIndex: number, staged: readonly StagedRows[]): readonly BadValue[] {
    const slot = this.#slots[slotIndex];
    if (!slot) return [];
    const found: BadValue[] = [];
    for (const tile of slot.tiles) {
      const rows = stagedIn(slot, tile, staged, 0);
      for (const panel of tile.panels) {
        const spare = this.#device.reshape(slot.spare, panel.width);
        for (const { batch, kept } of rows) {
          for (const row of kept) {
            this.#device.widen(batch, [row], panel.start, spare, [0], null);
            const values = this.#device.read(spare, 0, 1);
            const index = firstBadWeight(values);
            if (index < 0) continue;
            const at = tile.start + panel.start + index;
            found.push({ model: batch.models[row]!, index: at, value: values[index]! });
          }
        }
      }
    }
    return found;
  }

  /** Turns the rows into the mean and unit directions, and tells each direction's largest entry. */
  finish(task: FinishTask): readonly TilePeaks[] {
    const slot = this.#slots[task.slot];
    if (!slot) return [];
    return slot.tiles.map((tile) => {
      const peaks = new Float64Array(task.mix.m - 1);
      for (const panel of tile.panels) {
        this.#mix(slot, panel, task.mix);
        const { width } = panel;
        const directions = this.#device.read(panel.matrix, MEAN + 1, peaks.length);
        for (let j = 0; j < peaks.length; j++) {
          peaks[j] = largerPeak(peaks[j]!, directions.subarray(j * width, (j + 1) * width));
        }
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
      for (const { start, width, matrix } of tile.panels) {
        // A read may be a view that the next one replaces: the shift is copied before the rows are looked at.
        const shift = this.#device.read(matrix, SHIFT, 1).slice();
        const values = this.#device.read(matrix, MEAN, rows);
        for (let i = 0; i < width; i++) out[start + i] = values[i]! - shift[i]!;
        for (let j = 1; j < rows; j++) {
          const row = values.subarray(j * width, (j + 1) * width);
          const target = out.subarray(j * tile.width + start, j * tile.width + start + width);
          if (task.signs[j - 1]! < 0) for (let i = 0; i < width; i++) target[i] = -row[i]!;
          else target.set(row);
        }
      }
    }
  }

  /** Seconds spent since the last call. */
  takeTimings(): TileTimings {
    const timings = { widen: this.#widenMs / 1e3, gram: this.#gramMs / 1e3, mix: this.#mixMs / 1e3 };
    this.#widenMs = this.#gramMs = this.#mixMs = 0;
    return timings;
  }

  #mix(slot: HeldSlot, panel: Panel, { values, m, n }: Mix): void {
    const start = performance.now();
    const spare = this.#device.reshape(slot.spare, panel.width);
    this.#device.combine(values, m, panel.matrix, MEAN, n, spare, CONSTANT_ROWS);
    slot.spare = panel.matrix;
    panel.matrix = spare;
    this.#mixMs += performance.now() - start;
  }

  #place({ start, matrix }: Panel, staged: readonly StagedTile[], shift: number | null): void {
    for (const { batch, kept, at } of staged) this.#device.widen(batch, kept, start, matrix, at, shift);
  }

  /** Sets the rows that stand still, and a mean of zero; returns the sum of the shift's entries. */
  #settleShift(
    panel: Panel,
    from: 'mean' | 'base' | 'zero',
    staged: readonly StagedTile[],
    base: readonly StagedTile[] | null,
  ): number {
    const { start, width, matrix } = panel;
    const constants = new Float32Array(CONSTANT_ROWS * width).fill(1, 0, width);
    const negated = constants.subarray(SHIFT * width);
    if (from !== 'zero') negated.set(meanOf(from === 'base' ? base! : staged, start, width).map((value) => -value));
    this.#device.write(matrix, ONES, constants);
    this.#device.write(matrix, MEAN, new Float32Array(width));
    let sum = 0;
    for (const value of negated) sum -= value;
    return sum;
  }
}

/** A tile's part of staged rows: which of the batch's rows are kept, and where they go. */
interface StagedTile {
  readonly batch: WeightRows;
  readonly kept: readonly number[];
  readonly at: readonly number[];
}

const stagedIn = (slot: HeldSlot, tile: Tile, staged: readonly StagedRows[], before: number): readonly StagedTile[] =>
  staged.map(({ dtype, models, positions, buffer, offset }) => {
    const size = bytesPerElement(dtype) * models.length;
    const bytes = new Uint8Array(buffer, offset + tile.start * size, tile.width * size);
    const extent = { slot: slot.layout.slot, dtype, start: tile.start, stop: tile.start + tile.width };
    const kept = range(models.length).filter((i) => positions[i]! >= 0);
    return {
      batch: weightRows(makeWeightBatch({ ...extent, models, bytes })),
      kept,
      at: kept.map((i) => before + positions[i]!),
    };
  });

/** The mean of the kept rows over features [start, start + width), in float64. */
const meanOf = (staged: readonly StagedTile[], start: number, width: number): Float64Array => {
  const mean = new Float64Array(width);
  const row = new Float32Array(width);
  const count = staged.reduce((sum, { kept }) => sum + kept.length, 0);
  for (const { batch, kept } of staged) {
    const size = bytesPerElement(batch.dtype);
    for (const i of kept) {
      widen(batch.dtype, batch.row(i).subarray(start * size, (start + width) * size), row);
      for (let f = 0; f < width; f++) mean[f] = mean[f]! + row[f]!;
    }
  }
  for (let f = 0; f < width; f++) mean[f] = mean[f]! / count;
  return mean;
};

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Whichever is larger in magnitude: the peak so far, or the first largest of a row's entries. */
const largerPeak = (peak: number, row: Float32Array): number => {
  let largest = peak;
  let magnitude = Math.abs(peak);
  for (let i = 0; i < row.length; i++) {
    const value = Math.abs(row[i]!);
    if (value > magnitude) {
      magnitude = value;
      largest = row[i]!;
    }
  }
  return largest;
};
