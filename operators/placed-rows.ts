// A tile's weights, and where their rows belong. Factors of LoRA modules serve all tiles: there a tile's rows
// are views of them. Rows that are still in their files are read.
import { bytesPerElement } from '../sources/dtype.ts';
import type { OpenRows } from '../sources/open-block.ts';
import type { SourceRows, StagedRows } from '../sources/staged-block.ts';
import { factorsIn } from '../sources/staged-factors.ts';
import type { Tile } from '../sources/tile.ts';
import { storedRows, type WeightRows } from '../sources/weight-rows.ts';
import type { PlacedRows, RowBytes } from './devices/device.ts';

/** Gives a tile's rows of one dtype that are in files. */
export type ReadRows = (rows: OpenRows, tile: Tile) => RowBytes;

/** A tile's part of a slot's rows, and the rows they go to: their positions, counted from `before` on. */
export const placeRows = (
  slot: string,
  tile: Tile,
  source: readonly SourceRows[],
  before: number,
  read: ReadRows,
): readonly PlacedRows[] =>
  source.map((part) => {
    const { models, positions } = part;
    const batch = 'fds' in part ? rowsOf(slot, tile, part, read(part, tile)) : stagedRows(slot, tile, part);
    const rows = [...models.keys()].filter((i) => positions[i]! >= 0);
    return { batch, rows, at: rows.map((i) => before + positions[i]!) };
  });

const stagedRows = (slot: string, tile: Tile, staged: StagedRows): WeightRows => {
  const { dtype, models, buffer, offset, start, factors } = staged;
  if (factors !== undefined) {
    const views = Array.from(models, (_, i) => factorsIn(buffer, factors, i));
    return { kind: 'factored', width: tile.width, models, start: tile.start, factors: views };
  }
  const size = bytesPerElement(dtype);
  const stride = tile.width * size;
  const at = offset + (tile.start - start) * size * models.length;
  return rowsOf(slot, tile, staged, { bytes: new Uint8Array(buffer, at, models.length * stride), stride });
};

const rowsOf = (
  slot: string,
  { start, width }: Tile,
  { dtype, models }: Pick<StagedRows, 'dtype' | 'models'>,
  { bytes, stride }: RowBytes,
): WeightRows => storedRows({ slot, dtype, start, stop: start + width, models, bytes }, stride);
