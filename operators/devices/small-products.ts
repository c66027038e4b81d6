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
  const columns = partOf(n, PIECE_COLUMNS);
  const rows = partOf(m, Math.floor(MOST_CELLS / columns));
  const depth = linesIn(MOST_PRODUCTS / (rows * columns));
  for (let from = 0; from < k; from += depth) {
    const some = Math.min(depth, k - from);
    for (let i = 0; i < m; i += rows) {
      const high = Math.min(rows, m - i);
      const [left, out] = [a + (i * lda + from) * 4, c + i * ldc * 4];
      for (let j = 0; j < n; j += columns) {
        const wide = Math.min(columns, n - j);
        multiply(
          true,
          high,
          wide,
          some,
          left,
          lda,
          b + (j * ldb + from) * 4,
          ldb,
          from === 0 ? 0 : 1,
          out + j * 4,
          ldc,
        );
      }
    }
  }
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
  const side = partOf(n, PIECE_COLUMNS);
  for (let i = 0; i < n; i += side) {
    const own = a + i * lda * 4;
    multiplyRows(multiply, Math.min(side, n - i), n - i, k, own, lda, own, lda, c + (i * ldc + i) * 4, ldc);
  }
};
