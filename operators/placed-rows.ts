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
export type ReadRows = (rows: OpenRows, tile: Tile, places: Places) => RowBytes;

/** Which rows of a part of a block are taken, and the matrix rows they go to: the same in all tiles. */
export type Places = Pick<PlacedRows, 'rows' | 'at'>;

/** Of each part of a block the rows that have a position, which is counted from `before` on. */
export const placesOf = (source: readonly SourceRows[], before: number): readonly Places[] =>
  source.map(({ models, positions }) => {
    const rows = [...models.keys()].filter((i) => positions[i]! >= 0);
    return { rows, at: rows.map((i) => before + positions[i]!) };
  });

/** Those of the rows whose places come before `end`. */
export const firstPlaces = (places: readonly Places[], end: number): readonly Places[] =>
  places.map(({ rows, at }) => ({
    rows: rows.filter((_, i) => at[i]! < end),
    at: at.filter((place) => place < end),
  }));

/** A tile's part of a slot's rows, each part with its places. */
export const placeRows = (
  slot: string,
  tile: Tile,
  source: readonly SourceRows[],
  places: readonly Places[],
  read: ReadRows,
): readonly PlacedRows[] =>
  source.map((part, i) => {
    const at = places[i]!;
    const isOpen = 'fds' in part;
    return { batch: isOpen ? rowsOf(slot, tile, part, read(part, tile, at)) : stagedRows(slot, tile, part), ...at };
  });

/** Those of the rows that have other places, or none. */
export const placedAt = (rows: readonly PlacedRows[], places: readonly Places[]): readonly PlacedRows[] =>
  rows.map(({ batch }, i) => ({ batch, ...places[i]! }));

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
