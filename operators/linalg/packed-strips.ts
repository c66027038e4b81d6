// A symmetric matrix in strips of consecutive rows, each from its first column to the strip's last: half the memory of the
// square, and strips that can be filled and multiplied apart. Widths depend on the side alone, so sums do not depend on
// who makes them.
import type { DoubleProduct } from './dense-products.ts';

/** Rows of a strip: enough for a fast product, few enough that threads get equal shares. */
export const STRIP_ROWS = 256;

/** Rows [from, to) and columns [0, to), row-major, from `offset` on. */
export interface Strip {
  readonly index: number;
  readonly from: number;
  readonly to: number;
  readonly offset: number;
}

export const stripsOf = (side: number): readonly Strip[] => {
  const count = Math.ceil(side / STRIP_ROWS);
  const strips: Strip[] = [];
  let offset = 0;
  for (let index = 0; index < count; index++) {
    const from = Math.floor((index * side) / count);
    const to = Math.floor(((index + 1) * side) / count);
    strips.push({ index, from, to, offset });
    offset += (to - from) * to;
  }
  return strips;
};

/** Numbers that all strips hold together. */
export const packedLength = (side: number): number => {
  const last = stripsOf(side).at(-1);
  return last === undefined ? 0 : last.offset + (last.to - last.from) * last.to;
};

export const stripValues = (packed: Float64Array, { from, to, offset }: Strip): Float64Array =>
  packed.subarray(offset, offset + (to - from) * to);

export const packedTrace = (packed: Float64Array, side: number): number => {
  let trace = 0;
  for (const strip of stripsOf(side)) {
    const { from, to, offset } = strip;
    for (let i = from; i < to; i++) trace += packed[offset + (i - from) * to + i]!;
  }
  return trace;
};

/** The whole matrix, side x side. */
export const unpacked = (packed: Float64Array, side: number): Float64Array => {
  const square = new Float64Array(side * side);
  for (const { from, to, offset } of stripsOf(side)) {
    for (let i = from; i < to; i++) {
      for (let j = 0; j <= i; j++) {
        square[i * side + j] = square[j * side + i] = packed[offset + (i - from) * to + j]!;
      }
    }
  }
  return square;
};

/** Y (p x side) += X (p x side) · the strip and its mirror image. */
export const multiplyStrip = (
  product: DoubleProduct,
  { from, to }: Strip,
  values: Float64Array,
  x: Float64Array,
  y: Float64Array,
  p: number,
  side: number,
): void => {
  const rows = to - from;
  product({ a: false, b: true }, { m: p, n: rows, k: to }, x, side, values, to, y.subarray(from), side);
  if (from === 0) return;
  product({ a: false, b: false }, { m: p, n: from, k: rows }, x.subarray(from), side, values, to, y, side);
};
