// A symmetric matrix in square blocks on and below the diagonal: half the memory of the whole, and parts that can be
// filled and multiplied apart. Widths depend on the side alone, so sums do not depend on who makes them.
// Blocks on the diagonal are filled in their upper triangle; `mirrorDiagonal` does the rest before they are multiplied.
import type { DoubleProduct } from './dense-products.ts';

/** Large enough for the full rate of a product, small enough that threads get equal shares. */
export const BLOCK_SIDE = 512;

/** Indices [from, to). */
export interface Extent {
  readonly from: number;
  readonly to: number;
}

/** Rows times columns, row-major, from `offset` on. */
export interface PackedBlock {
  readonly index: number;
  readonly rows: Extent;
  readonly columns: Extent;
  readonly offset: number;
}

export const isDiagonal = ({ rows, columns }: PackedBlock): boolean => rows.from === columns.from;

export const widthOf = ({ from, to }: Extent): number => to - from;

/** A side in equal parts of at most `BLOCK_SIDE`. */
export const extentsOf = (side: number): readonly Extent[] => {
  const count = Math.ceil(side / BLOCK_SIDE);
  return Array.from({ length: count }, (_, i) => ({
    from: Math.floor((i * side) / count),
    to: Math.floor(((i + 1) * side) / count),
  }));
};

export const blocksOf = (side: number): readonly PackedBlock[] => {
  const extents = extentsOf(side);
  const blocks: PackedBlock[] = [];
  let offset = 0;
  extents.forEach((rows, i) => {
    for (const columns of extents.slice(0, i + 1)) {
      blocks.push({ index: blocks.length, rows, columns, offset });
      offset += widthOf(rows) * widthOf(columns);
    }
  });
  return blocks;
};

/** Numbers that all blocks hold together. */
export const packedLength = (side: number): number =>
  blocksOf(side).reduce((sum, { rows, columns }) => sum + widthOf(rows) * widthOf(columns), 0);

export const blockValues = (packed: Float64Array, { rows, columns, offset }: PackedBlock): Float64Array =>
  packed.subarray(offset, offset + widthOf(rows) * widthOf(columns));

/** Fills the lower triangles of the blocks on the diagonal from their upper ones. */
export const mirrorDiagonal = (packed: Float64Array, side: number): void => {
  for (const block of blocksOf(side).filter(isDiagonal)) {
    const values = blockValues(packed, block);
    const n = widthOf(block.rows);
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) values[i * n + j] = values[j * n + i]!;
  }
};

export const packedTrace = (packed: Float64Array, side: number): number => {
  let trace = 0;
  for (const block of blocksOf(side).filter(isDiagonal)) {
    const values = blockValues(packed, block);
    const n = widthOf(block.rows);
    for (let i = 0; i < n; i++) trace += values[i * n + i]!;
  }
  return trace;
};

/** The whole matrix, side x side, of mirrored blocks. */
export const unpacked = (packed: Float64Array, side: number): Float64Array => {
  const square = new Float64Array(side * side);
  for (const block of blocksOf(side)) {
    const { rows, columns } = block;
    const values = blockValues(packed, block);
    const width = widthOf(columns);
    for (let i = rows.from; i < rows.to; i++) {
      for (let j = columns.from; j < columns.to; j++) {
        const value = values[(i - rows.from) * width + j - columns.from]!;
        square[i * side + j] = value;
        square[j * side + i] = value;
      }
    }
  }
  return square;
};

/** Y (p x side) += X (p x side) · a mirrored block and its mirror image. */
export const multiplyBlock = (
  product: DoubleProduct,
  block: PackedBlock,
  values: Float64Array,
  x: Float64Array,
  y: Float64Array,
  p: number,
  side: number,
): void => {
  const { rows, columns } = block;
  const [m, n] = [widthOf(rows), widthOf(columns)];
  product(
    { a: false, b: true },
    { m: p, n: m, k: n },
    x.subarray(columns.from),
    side,
    values,
    n,
    y.subarray(rows.from),
    side,
  );
  if (isDiagonal(block)) return;
  product(
    { a: false, b: false },
    { m: p, n, k: m },
    x.subarray(rows.from),
    side,
    values,
    n,
    y.subarray(columns.from),
    side,
  );
};
