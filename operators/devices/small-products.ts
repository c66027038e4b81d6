// Products of few rows in pieces that OpenBLAS multiplies where they stand. It copies larger operands together first, which for a
// Gram of 67 x 32 takes as long as a third of the product. Its kernels for small matrices do not, and there are some for processors
// with AVX-512: 110 against 81 GFLOP/s for that Gram (OpenBLAS 0.3.21, an EPYC). By trying sizes, they are taken up to a million
// products, and up to 1,200 cells where rows are multiplied by rows.
import type { BlasLibrary, SgemmAt } from './blas-library.ts';

/** Kernels that have them. */
const KERNELS = ['SkylakeX', 'Cooperlake', 'SapphireRapids'];
/** The first version that was looked at. */
const SINCE = [0, 3, 21] as const;
const MOST_PRODUCTS = 1e6;
/**
 * Rows and columns of a piece, 1,152 cells. Of 2,048 products along a row 36 x 32 makes 205 to 220 GFLOP/s whatever the Gram, 8 x 64
 * and others as much where it has 64 columns and 170 to 190 where it has 32. The pieces of a cell come one after the other: all cells
 * for some products, then for the next, made 180 of 67 x 32 where this makes 217.
 */
const ROWS = 36;
const COLUMNS = 32;
/** Of rows by themselves: strips that waste little on the diagonal, 145 to 186 GFLOP/s of what is wanted from 67 to 320 rows. */
const OWN_ROWS = 24;
const OWN_COLUMNS = 48;
/**
 * Cells of a Gram that come in pieces, at most: of a larger one copying is the smaller part, on two cores that share nothing. There
 * 131 x 128 makes 209 GFLOP/s in pieces and 190 whole, 259 x 128 207 and 215; 387 rows by themselves 183 and 181, 515 184 and 189.
 */
const MOST_PIECED = 17_000;
const MOST_OWN_ROWS = 400;
/** Products along a row come in whole cache lines. */
const LINE = 64;

/** Whether pieces are faster: never asked of a clock, for the bits depend on it. */
export const multipliesSmall = ({ library, kernel, version }: BlasLibrary): boolean => {
  if (library !== 'OpenBLAS' || !KERNELS.includes(kernel)) return false;
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return [major - SINCE[0], minor - SINCE[1], patch - SINCE[2]].reduce((order, part) => order || part, 0) >= 0;
};

/** Whether a product of so many rows by so many is small enough. */
export const isPieced = (m: number, n: number): boolean => m * n <= MOST_PIECED;

/** Whether one of so many rows by themselves is. */
export const isOwnPieced = (n: number): boolean => n <= MOST_OWN_ROWS;

/** Products along a row that a piece of so many cells takes at a time: equal parts, as nearly as lines allow. */
const depthOf = (k: number, cells: number): number => {
  const most = Math.max(LINE, Math.floor(MOST_PRODUCTS / cells / LINE) * LINE);
  return Math.min(most, Math.ceil(k / Math.ceil(k / most) / LINE) * LINE);
};

/** Numbers that describe a piece: its rows, columns and products, where it begins in A, B and C, in bytes, and whether it adds to C. */
const PIECE = 7;

/** Rows of float32 and the products along them: C (m x n, ldc) = A (m x k, lda) · Bᵀ (n x k, ldb). */
interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly lda: number;
  readonly ldb: number;
  readonly ldc: number;
}

/** By shape: the last that were made. */
const tables = new Map<string, Int32Array>();
const MOST_TABLES = 256;

const tableFor = (kind: string, shape: Shape, make: (shape: Shape) => number[]): Int32Array => {
  const { m, n, k, lda, ldb, ldc } = shape;
  const key = `${kind} ${m} ${n} ${k} ${lda} ${ldb} ${ldc}`;
  let table = tables.get(key);
  if (table !== undefined) return table;
  if (tables.size === MOST_TABLES) tables.delete(tables.keys().next().value!);
  table = Int32Array.from(make(shape));
  tables.set(key, table);
  return table;
};

/** Those of rows [from, to) of C, from column `first` on. */
const stripOf = (
  { n, k, lda, ldb, ldc }: Shape,
  from: number,
  to: number,
  first: number,
  columns: number,
): number[] => {
  const pieces: number[] = [];
  const rows = to - from;
  for (let j = first; j < n; j += columns) {
    const wide = Math.min(columns, n - j);
    const depth = depthOf(k, rows * wide);
    for (let l = 0; l < k; l += depth) {
      pieces.push(rows, wide, Math.min(depth, k - l));
      pieces.push((from * lda + l) * 4, (j * ldb + l) * 4, (from * ldc + j) * 4, l === 0 ? 0 : 1);
    }
  }
  return pieces;
};

const piecesOf = (shape: Shape): number[] => {
  const pieces: number[] = [];
  for (let i = 0; i < shape.m; i += ROWS) pieces.push(...stripOf(shape, i, Math.min(i + ROWS, shape.m), 0, COLUMNS));
  return pieces;
};

/** Those on and above the diagonal of rows by themselves. */
const ownPieces = (shape: Shape): number[] => {
  const pieces: number[] = [];
  for (let i = 0; i < shape.n; i += OWN_ROWS)
    pieces.push(...stripOf(shape, i, Math.min(i + OWN_ROWS, shape.n), i, OWN_COLUMNS));
  return pieces;
};

/** A loop and nothing else: with what makes the pieces around the call it is compiled for 7 ms in every thread, beside the first tiles. */
const multiplyPieces = (
  multiply: SgemmAt,
  pieces: Int32Array,
  { lda, ldb, ldc }: Shape,
  a: number,
  b: number,
  c: number,
): void => {
  for (let p = 0; p < pieces.length; p += PIECE) {
    const left = a + pieces[p + 3]!;
    const right = b + pieces[p + 4]!;
    const out = c + pieces[p + 5]!;
    multiply(true, pieces[p]!, pieces[p + 1]!, pieces[p + 2]!, left, lda, right, ldb, pieces[p + 6]!, out, ldc);
  }
};

/** C = A · Bᵀ, at these addresses. */
export const multiplyRows = (multiply: SgemmAt, shape: Shape, a: number, b: number, c: number): void =>
  multiplyPieces(multiply, tableFor('rows', shape, piecesOf), shape, a, b, c);

/** Upper triangle of C (n x n, ldc) = A (n x k, lda) · Aᵀ, and some of the lower one. */
export const multiplyOwnRows = (
  multiply: SgemmAt,
  { n, k, lda, ldc }: Pick<Shape, 'n' | 'k' | 'lda' | 'ldc'>,
  a: number,
  c: number,
): void => {
  const shape = { m: n, n, k, lda, ldb: lda, ldc };
  multiplyPieces(multiply, tableFor('own', shape, ownPieces), shape, a, a, c);
};
