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
const MOST_CELLS = 1200;
/** Columns of a piece of a Gram: as square as the cells allow. */
const PIECE_COLUMNS = 34;
/**
 * Cells of a Gram that come in pieces, at most: of a larger one copying is the smaller part. Two machines disagree where that is. Where
 * both processors share a core, 131 x 64 made 109 GFLOP/s in pieces and 83 whole, 259 rows by themselves 92 and 71; on two cores
 * 160 and 177, 140 and 165. Beyond, on these, whole products win: 259 x 128 160 and 211, 387 rows by themselves 107 and 182.
 */
const MOST_PIECED = 8448;
const MOST_OWN_ROWS = 260;
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

/** Equal parts of at most `most`. */
const partOf = (length: number, most: number): number => Math.ceil(length / Math.ceil(length / most));

const linesIn = (products: number): number => Math.max(LINE, Math.floor(products / LINE) * LINE);

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

/** By shape. The last ones: shapes of a group are few. */
const tables = new Map<string, Int32Array>();
const MOST_TABLES = 256;

const tableFor = (kind: string, { m, n, k, lda, ldb, ldc }: Shape, make: () => number[]): Int32Array => {
  const key = `${kind} ${m} ${n} ${k} ${lda} ${ldb} ${ldc}`;
  let table = tables.get(key);
  if (table !== undefined) return table;
  if (tables.size === MOST_TABLES) tables.clear();
  table = Int32Array.from(make());
  tables.set(key, table);
  return table;
};

const piecesOf = ({ m, n, k, lda, ldb, ldc }: Shape): number[] => {
  const columns = partOf(n, PIECE_COLUMNS);
  const rows = partOf(m, Math.floor(MOST_CELLS / columns));
  const depth = linesIn(MOST_PRODUCTS / (rows * columns));
  const pieces: number[] = [];
  for (let from = 0; from < k; from += depth)
    for (let i = 0; i < m; i += rows)
      for (let j = 0; j < n; j += columns) {
        pieces.push(Math.min(rows, m - i), Math.min(columns, n - j), Math.min(depth, k - from));
        pieces.push((i * lda + from) * 4, (j * ldb + from) * 4, (i * ldc + j) * 4, from === 0 ? 0 : 1);
      }
  return pieces;
};

/** Those on and above the diagonal of rows by themselves. */
const ownPieces = (shape: Shape): number[] => {
  const { n, lda, ldc } = shape;
  const side = partOf(n, PIECE_COLUMNS);
  const pieces: number[] = [];
  for (let i = 0; i < n; i += side) {
    const strip = piecesOf({ ...shape, m: Math.min(side, n - i), n: n - i });
    const before = [0, 0, 0, i * lda * 4, i * lda * 4, (i * ldc + i) * 4, 0];
    pieces.push(...strip.map((value, at) => value + before[at % PIECE]!));
  }
  return pieces;
};

/** A loop and nothing else: with what makes the pieces around the call it is compiled for 7 ms in every thread, beside the first tiles. */
const multiplyPieces = (
  multiply: SgemmAt,
  pieces: Int32Array,
  a: number,
  lda: number,
  b: number,
  ldb: number,
  c: number,
  ldc: number,
): void => {
  for (let p = 0; p < pieces.length; p += PIECE) {
    const left = a + pieces[p + 3]!;
    const right = b + pieces[p + 4]!;
    const out = c + pieces[p + 5]!;
    multiply(true, pieces[p]!, pieces[p + 1]!, pieces[p + 2]!, left, lda, right, ldb, pieces[p + 6]!, out, ldc);
  }
};

/** C (m x n, ldc) = A (m x k, lda) · Bᵀ (n x k, ldb). */
export const multiplyRows = (
  multiply: SgemmAt,
  m: number,
  n: number,
  k: number,
  a: number,
  lda: number,
  b: number,
  ldb: number,
  c: number,
  ldc: number,
): void => {
  const shape = { m, n, k, lda, ldb, ldc };
  const pieces = tableFor('rows', shape, () => piecesOf(shape));
  multiplyPieces(multiply, pieces, a, lda, b, ldb, c, ldc);
};

/** Upper triangle of C (n x n, ldc) = A (n x k, lda) · Aᵀ, and some of the lower one. */
export const multiplyOwnRows = (
  multiply: SgemmAt,
  n: number,
  k: number,
  a: number,
  lda: number,
  c: number,
  ldc: number,
): void => {
  const shape = { m: n, n, k, lda, ldb: lda, ldc };
  const pieces = tableFor('own', shape, () => ownPieces(shape));
  multiplyPieces(multiply, pieces, a, lda, a, lda, c, ldc);
};
