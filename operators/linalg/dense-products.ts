// Products of float64 matrices, for solvers whose matrices are too large for plain loops alone: dgemm where a BLAS was found,
// loops otherwise. Row-major, with a stride from row to row.

/** C (m x n, ldc) += op(A) (m x k) · op(B) (k x n); a transposed operand is stored the other way round. */
export type DoubleProduct = (
  transpose: { readonly a: boolean; readonly b: boolean },
  size: { readonly m: number; readonly n: number; readonly k: number },
  a: Float64Array,
  lda: number,
  b: Float64Array,
  ldb: number,
  c: Float64Array,
  ldc: number,
) => void;

/** Loops, in an order that reads B and C along their rows wherever B is not transposed. */
export const jsDoubleProduct: DoubleProduct = (transpose, { m, n, k }, a, lda, b, ldb, c, ldc) => {
  const at = (i: number, l: number): number => (transpose.a ? a[l * lda + i]! : a[i * lda + l]!);
  for (let i = 0; i < m; i++) {
    if (transpose.b) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let l = 0; l < k; l++) sum += at(i, l) * b[j * ldb + l]!;
        c[i * ldc + j] = c[i * ldc + j]! + sum;
      }
      continue;
    }
    for (let l = 0; l < k; l++) {
      const factor = at(i, l);
      for (let j = 0; j < n; j++) c[i * ldc + j] = c[i * ldc + j]! + factor * b[l * ldb + j]!;
    }
  }
};

/** Neither operand is transposed. */
export const PLAIN = { a: false, b: false } as const;

const ONE = Float64Array.of(1);

/** y += x, rounded once a number as plain addition is. */
export const addTo = (y: Float64Array, x: Float64Array, product: DoubleProduct): void => {
  const n = y.length;
  if (n > 0) product(PLAIN, { m: 1, n, k: 1 }, ONE, 1, x, n, y, n);
};

/**
 * A (m x k) · B (k x n), or A · Bᵀ (B is then n x k), as a new matrix.
 * @param product loops, unless another is given
 */
export const productOf = (
  a: Float64Array,
  b: Float64Array,
  m: number,
  k: number,
  n: number,
  { transposed = false, product = jsDoubleProduct }: { transposed?: boolean; product?: DoubleProduct } = {},
): Float64Array => {
  const out = new Float64Array(m * n);
  if (m * n > 0) product({ a: false, b: transposed }, { m, n, k }, a, k, b, transposed ? k : n, out, n);
  return out;
};
