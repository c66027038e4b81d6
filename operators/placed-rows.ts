// Staged weights as Arrow batches, tile by tile, and where their rows belong.
import { bytesPerElement } from '../sources/dtype.ts';
import type { StagedRows } from '../sources/staged-block.ts';
import type { Tile } from '../sources/tile.ts';
import { makeWeightBatch, weightRows } from '../sources/weight-batch.ts';
import type { PlacedRows } from './devices/device.ts';

/** A tile's part of a slot's staged rows, and the rows they go to: their positions, counted from `before` on. */
export const placeRows = (
  slot: string,
  tile: Tile,
  staged: readonly StagedRows[],
  before: number,
): readonly PlacedRows[] =>
  staged.map(({ dtype, models, positions, buffer, offset, start }) => {
    const size = bytesPerElement(dtype) * models.length;
    const bytes = new Uint8Array(buffer, offset + (tile.start - start) * size, tile.width * size);
    const batch = weightRows(
      makeWeightBatch({ slot, dtype, start: tile.start, stop: tile.start + tile.width, models, bytes }),
    );
    const rows = [...models.keys()].filter((i) => positions[i]! >= 0);
    return { batch, rows, at: rows.map((i) => before + positions[i]!) };
  });
