// Tiles: the unit of reading and scheduling. Their widths depend on the slot's size alone, never on memory or threads,
// because sums are taken tile by tile and results must not depend on the machine.

/** Features [start, start + width) of a flattened slot. */
export interface Tile {
  readonly index: number;
  readonly start: number;
  readonly width: number;
}

/** Tiles [from, to) of a slot. */
export interface TileRange {
  readonly from: number;
  readonly to: number;
}

/** Enough to keep a BLAS busy, few enough that a tile's rows stay in the last cache level. */
export const TILE_WIDTH = 16_384;

export const tilesOf = (features: number): readonly Tile[] =>
  Array.from({ length: Math.ceil(features / TILE_WIDTH) }, (_, index) => ({
    index,
    start: index * TILE_WIDTH,
    width: Math.min(TILE_WIDTH, features - index * TILE_WIDTH),
  }));

/** How many panels tiles are cut into. @param widest features of the widest panel */
export const panelsIn = (tiles: readonly Tile[], widest: number): number =>
  tiles.reduce((sum, { width }) => sum + Math.ceil(width / widest), 0);

/** Weights that are read at once where rows go straight to where they are multiplied: 4 MiB, of which more is still in the cache. */
const STRETCH = 2 ** 20;

/**
 * Features of so many models that are read at once to where they are multiplied: half a tile, which with as much for what is not read
 * there takes no more memory than a tile; or a quarter. Not less: a read costs as much as 8 KiB do.
 */
export const stretchWidth = (models: number): number =>
  models * (TILE_WIDTH / 2) <= STRETCH ? TILE_WIDTH / 2 : TILE_WIDTH / 4;

/** The features of some tiles of a slot, or of all. */
export const featuresIn = (features: number, range?: TileRange): { readonly start: number; readonly width: number } => {
  const start = (range?.from ?? 0) * TILE_WIDTH;
  return { start, width: Math.min(features, (range?.to ?? Infinity) * TILE_WIDTH) - start };
};
