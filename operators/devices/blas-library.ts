// The functions weightspan calls in a BLAS, bound by koffi. koffi checks nothing: every caller passes arrays of the
// right kind and length. A synchronous call costs 0.3 µs; asynchronous ones are never used (they do not keep their
// arguments alive).
import koffi from 'koffi';
import { DeviceUnavailable } from '../errors.ts';
import type { DoubleProduct } from '../linalg/dense-products.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';
import { type Bind, bindEigenSolver, routineOf, scalarOf } from './lapack-eigen.ts';

const ROW_MAJOR = 101;
const NO_TRANSPOSE = 111;
const TRANSPOSE = 112;
const UPPER = 121;

/** How a library names its symbols, and how wide its integers are. */
export interface BlasAbi {
  readonly path: string;
  readonly prefix: string;
  readonly suffix: string;
  readonly integer: 'int32' | 'int64';
}

export interface BlasLibrary {
  readonly abi: BlasAbi;
  readonly library: string;
  readonly version: string;
  readonly kernel: string;
  /** C (m x n, row stride ldc) = A (m x k, lda) · Bᵀ (n x k, ldb). */
  readonly multiplyTransposed: SgemmCall;
  /** C (m x n, ldc) = A (m x k, lda) · B (k x n, ldb). */
  readonly multiply: SgemmCall;
  /** C (m x n, ldc) = Aᵀ · B, A (k x m, lda), B (k x n, ldb). */
  readonly multiplyLeftTransposed: SgemmCall;
  /** C += A · B, likewise. */
  readonly multiplyOnto: SgemmCall;
  /** C = A · B or A · Bᵀ, plus `beta` C, of matrices that stand at addresses: for pieces, each of which would need three views. */
  readonly multiplyAt: SgemmAt;
  /** Upper triangle of C (n x n, ldc) = Aᵀ · A, A (k x n, lda). */
  readonly multiplyOwnTransposeBy: SsyrkCall;
  /** Upper triangle of C (n x n, ldc) = A (n x k, lda) · Aᵀ. */
  readonly multiplyByOwnTranspose: SsyrkCall;
  readonly multiplyDouble: DoubleProduct;
  /** y += x, length n. */
  readonly addDouble: (n: number, x: Float64Array, y: Float64Array) => void;
  /** Where the entry of largest magnitude stands, the first of equals; n > 0. */
  readonly indexOfLargest: (n: number, x: Float32Array) => number;
  /** x and y change places, length n. */
  readonly swap: (n: number, x: Float32Array, y: Float32Array) => void;
  /** Every row of A (m x n, row stride lda) += x. */
  readonly addToRows: (m: number, n: number, x: Float32Array, a: Float32Array, lda: number) => void;
  /** B (m x n, ldb) = A (m x n, lda). Null where the library has no LAPACK. */
  readonly copyRows: CopyRows | null;
  /** Null where the library has no LAPACK. */
  readonly solve: EigenSolver | null;
}

export type SsyrkCall = (n: number, k: number, a: Float32Array, lda: number, c: Float32Array, ldc: number) => void;

export type SgemmCall = (
  m: number,
  n: number,
  k: number,
  a: Float32Array,
  lda: number,
  b: Float32Array,
  ldb: number,
  c: Float32Array,
  ldc: number,
) => void;

/** Addresses are whole numbers of bytes (`addressOf`). */
export type SgemmAt = (
  transposed: boolean,
  m: number,
  n: number,
  k: number,
  a: number,
  lda: number,
  b: number,
  ldb: number,
  beta: number,
  c: number,
  ldc: number,
) => void;

export type CopyRows = (m: number, n: number, a: Float32Array, lda: number, b: Float32Array, ldb: number) => void;

/** The naming schemes in use: plain, and NumPy's private OpenBLAS with 64-bit integers. */
const schemes: readonly Omit<BlasAbi, 'path'>[] = [
  { prefix: '', suffix: '', integer: 'int32' },
  { prefix: 'scipy_', suffix: '64_', integer: 'int64' },
  { prefix: 'scipy_', suffix: '', integer: 'int32' },
  { prefix: '', suffix: '64_', integer: 'int64' },
];

/**
 * Loads a BLAS and binds what is needed.
 * @throws DeviceUnavailable when the file does not load or has no cblas_sgemm
 */
export const loadBlas = (path: string): BlasLibrary => {
  let handle: ReturnType<typeof koffi.load>;
  try {
    handle = koffi.load(path);
  } catch (cause) {
    throw new DeviceUnavailable({ device: 'blas', detail: `${path} does not load: ${(cause as Error).message}` });
  }
  const bind: Bind = (signature) => {
    try {
      return handle.func(signature) as unknown as (...args: unknown[]) => unknown;
    } catch {
      return null;
    }
  };
  for (const scheme of schemes) {
    const { prefix, suffix, integer: int } = scheme;
    const name = (symbol: string): string => `${prefix}${symbol}${suffix}`;
    const sgemm = bind(
      `void ${name('cblas_sgemm')}(int order, int ta, int tb, ${int} m, ${int} n, ${int} k, float alpha, ` +
        `const float *a, ${int} lda, const float *b, ${int} ldb, float beta, float *c, ${int} ldc)`,
    );
    const sgemmAt = bind(
      `void ${name('cblas_sgemm')}(int order, int ta, int tb, ${int} m, ${int} n, ${int} k, float alpha, ` +
        `uint64_t a, ${int} lda, uint64_t b, ${int} ldb, float beta, uint64_t c, ${int} ldc)`,
    );
    const sger = bind(
      `void ${name('cblas_sger')}(int order, ${int} m, ${int} n, float alpha, const float *x, ${int} ix, ` +
        `const float *y, ${int} iy, float *a, ${int} lda)`,
    );
    const ssyrk = bind(
      `void ${name('cblas_ssyrk')}(int order, int uplo, int trans, ${int} n, ${int} k, float alpha, ` +
        `const float *a, ${int} lda, float beta, float *c, ${int} ldc)`,
    );
    const dgemm = bind(
      `void ${name('cblas_dgemm')}(int order, int ta, int tb, ${int} m, ${int} n, ${int} k, double alpha, ` +
        `const double *a, ${int} lda, const double *b, ${int} ldb, double beta, double *c, ${int} ldc)`,
    );
    const daxpy = bind(
      `void ${name('cblas_daxpy')}(${int} n, double a, const double *x, ${int} ix, double *y, ${int} iy)`,
    );
    const sswap = bind(`void ${name('cblas_sswap')}(${int} n, float *x, ${int} ix, float *y, ${int} iy)`);
    const isamax = bind(`size_t ${name('cblas_isamax')}(${int} n, const float *x, ${int} ix)`);
    if (
      isamax === null ||
      sswap === null ||
      daxpy === null ||
      sgemm === null ||
      sgemmAt === null ||
      sger === null ||
      ssyrk === null ||
      dgemm === null
    )
      continue;
    const text = (symbol: string): string | null => bind(`const char *${name(symbol)}()`)?.() as string | null;
    const config = text('openblas_get_config');
    return {
      abi: { path, ...scheme },
      library: config ? 'OpenBLAS' : (path.split('/').pop() ?? path),
      version: config?.match(/\d+\.\d+\.\d+/)?.[0] ?? 'unknown',
      kernel: text('openblas_get_corename') ?? 'unknown',
      multiplyTransposed: (m, n, k, a, lda, b, ldb, c, ldc) =>
        void sgemm(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, m, n, k, 1, a, lda, b, ldb, 0, c, ldc),
      multiply: (m, n, k, a, lda, b, ldb, c, ldc) =>
        void sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, m, n, k, 1, a, lda, b, ldb, 0, c, ldc),
      multiplyLeftTransposed: (m, n, k, a, lda, b, ldb, c, ldc) =>
        void sgemm(ROW_MAJOR, TRANSPOSE, NO_TRANSPOSE, m, n, k, 1, a, lda, b, ldb, 0, c, ldc),
      multiplyOnto: (m, n, k, a, lda, b, ldb, c, ldc) =>
        void sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, m, n, k, 1, a, lda, b, ldb, 1, c, ldc),
      multiplyAt: (transposed, m, n, k, a, lda, b, ldb, beta, c, ldc) =>
        void sgemmAt(
          ROW_MAJOR,
          NO_TRANSPOSE,
          transposed ? TRANSPOSE : NO_TRANSPOSE,
          m,
          n,
          k,
          1,
          a,
          lda,
          b,
          ldb,
          beta,
          c,
          ldc,
        ),
      multiplyOwnTransposeBy: (n, k, a, lda, c, ldc) =>
        void ssyrk(ROW_MAJOR, UPPER, TRANSPOSE, n, k, 1, a, lda, 0, c, ldc),
      multiplyByOwnTranspose: (n, k, a, lda, c, ldc) =>
        void ssyrk(ROW_MAJOR, UPPER, NO_TRANSPOSE, n, k, 1, a, lda, 0, c, ldc),
      multiplyDouble: (transpose, { m, n, k }, a, lda, b, ldb, c, ldc) => {
        const [ta, tb] = [transpose.a, transpose.b].map((yes) => (yes ? TRANSPOSE : NO_TRANSPOSE));
        dgemm(ROW_MAJOR, ta, tb, m, n, k, 1, a, lda, b, ldb, 1, c, ldc);
      },
      addDouble: (n, x, y) => void daxpy(n, 1, x, 1, y, 1),
      indexOfLargest: (n, x) => Number(isamax(n, x, 1)),
      swap: (n, x, y) => void sswap(n, x, 1, y, 1),
      addToRows: (m, n, x, a, lda) => void sger(ROW_MAJOR, m, n, 1, onesOf(m), 1, x, 1, a, lda),
      copyRows: bindCopyRows(bind, scheme),
      solve: bindEigenSolver(bind, scheme),
    };
  }
  throw new DeviceUnavailable({ device: 'blas', detail: `${path} has no cblas_sgemm under any known name` });
};

let ones = new Float32Array(0);

const onesOf = (length: number): Float32Array => {
  if (ones.length < length) ones = new Float32Array(length).fill(1);
  return ones;
};

/** Whole rows at a time: a call a row costs more than the row, as long as its code is young. */
const bindCopyRows = (bind: Bind, abi: Omit<BlasAbi, 'path'>): CopyRows | null => {
  const takes = 'char *uplo, int *m, int *n, float *a, int *lda, float *b, int *ldb';
  const slacpy = routineOf(bind, abi)('slacpy', takes);
  if (slacpy === null) return null;
  const scalar = scalarOf(abi.integer);
  // Fortran's columns are our rows.
  return (m, n, a, lda, b, ldb) => void slacpy('A', scalar(n), scalar(m), a, scalar(lda), b, scalar(ldb));
};
