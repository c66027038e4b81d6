// Staged weights as Arrow batches, tile by tile, and where their rows belong. Factors of LoRA modules serve all tiles: there a
// tile's rows are views of them.
import { bytesPerElement } from '../sources/dtype.ts';
import type { StagedRows } from '../sources/staged-block.ts';
import { factorsIn } from '../sources/staged-factors.ts';
import type { Tile } from '../sources/tile.ts';
import { makeWeightBatch, type WeightRows, weightRows } from '../sources/weight-batch.ts';
import type { PlacedRows } from './devices/device.ts';

/** A tile's part of a slot's staged rows, and the rows they go to: their positions, counted from `before` on. */
export const placeRows = (
  slot: string,
  tile: Tile,
  staged: readonly StagedRows[],
  before: number,
): readonly PlacedRows[] =>
  staged.map((part) => {
    const { models, positions } = part;
    const batch = batchOf(slot, tile, part);
    const rows = [...models.keys()].filter((i) => positions[i]! >= 0);
    return { batch, rows, at: rows.map((i) => before + positions[i]!) };
  });

const batchOf = (slot: string, tile: Tile, staged: StagedRows): WeightRows => {
  const { dtype, models, buffer, offset, start, factors } = staged;
  if (factors !== undefined) {
    const views = Array.from(models, (_, i) => factorsIn(buffer, factors, i));
    return { kind: 'factored', width: tile.width, models, start: tile.start, factors: views };
  }
  const size = bytesPerElement(dtype) * models.length;
  const bytes = new Uint8Array(buffer, offset + (tile.start - start) * size, tile.width * size);
  return weightRows(makeWeightBatch({ slot, dtype, start: tile.start, stop: tile.start + tile.width, models, bytes }));
};
