// The functions weightspan calls in a BLAS, bound by koffi. koffi checks nothing: every caller passes arrays of the
// right kind and length. A synchronous call costs 0.3 µs; asynchronous ones are never used (they do not keep their
// arguments alive).
import koffi from 'koffi';
import { DeviceUnavailable, NumericalFailure } from '../errors.ts';
import type { DoubleProduct } from '../linalg/dense-products.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';

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
  /** Upper triangle of C (n x n, ldc) = Aᵀ · A, A (k x n, lda). */
  readonly multiplyOwnTransposeBy: SsyrkCall;
  /** Upper triangle of C (n x n, ldc) = A (n x k, lda) · Aᵀ. */
  readonly multiplyByOwnTranspose: SsyrkCall;
  readonly multiplyDouble: DoubleProduct;
  /** y += x, length n. */
  readonly add: (n: number, x: Float32Array, y: Float32Array) => void;
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
  const bind = (signature: string): ((...args: unknown[]) => unknown) | null => {
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
    const saxpy = bind(
      `void ${name('cblas_saxpy')}(${int} n, float a, const float *x, ${int} ix, float *y, ${int} iy)`,
    );
    const ssyrk = bind(
      `void ${name('cblas_ssyrk')}(int order, int uplo, int trans, ${int} n, ${int} k, float alpha, ` +
        `const float *a, ${int} lda, float beta, float *c, ${int} ldc)`,
    );
    const dgemm = bind(
      `void ${name('cblas_dgemm')}(int order, int ta, int tb, ${int} m, ${int} n, ${int} k, double alpha, ` +
        `const double *a, ${int} lda, const double *b, ${int} ldb, double beta, double *c, ${int} ldc)`,
    );
    if (sgemm === null || saxpy === null || ssyrk === null || dgemm === null) continue;
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
      multiplyOwnTransposeBy: (n, k, a, lda, c, ldc) =>
        void ssyrk(ROW_MAJOR, UPPER, TRANSPOSE, n, k, 1, a, lda, 0, c, ldc),
      multiplyByOwnTranspose: (n, k, a, lda, c, ldc) =>
        void ssyrk(ROW_MAJOR, UPPER, NO_TRANSPOSE, n, k, 1, a, lda, 0, c, ldc),
      multiplyDouble: (transpose, { m, n, k }, a, lda, b, ldb, c, ldc) => {
        const [ta, tb] = [transpose.a, transpose.b].map((yes) => (yes ? TRANSPOSE : NO_TRANSPOSE));
        dgemm(ROW_MAJOR, ta, tb, m, n, k, 1, a, lda, b, ldb, 1, c, ldc);
      },
      add: (n, x, y) => void saxpy(n, 1, x, 1, y, 1),
      solve: bindEigenSolver(bind, scheme),
    };
  }
  throw new DeviceUnavailable({ device: 'blas', detail: `${path} has no cblas_sgemm under any known name` });
};

const bindEigenSolver = (
  bind: (signature: string) => ((...args: unknown[]) => unknown) | null,
  { prefix, suffix, integer }: Omit<BlasAbi, 'path'>,
): EigenSolver | null => {
  // LAPACK's Fortran names end in an underscore; NumPy's build adds its suffix after it.
  const dsyevd = bind(
    `void ${prefix}dsyevd_${suffix}(const char *jobz, const char *uplo, ${integer} *n, double *a, ${integer} *lda, ` +
      `double *w, double *work, ${integer} *lwork, ${integer} *iwork, ${integer} *liwork, ${integer} *info)`,
  );
  if (dsyevd === null) return null;
  const integers = (length: number): Int32Array | BigInt64Array =>
    integer === 'int32' ? new Int32Array(length) : new BigInt64Array(length);
  const scalar = (value: number): Int32Array | BigInt64Array =>
    integer === 'int32' ? Int32Array.of(value) : BigInt64Array.of(BigInt(value));
  return (matrix, n) => {
    const a = Float64Array.from(matrix);
    const ascending = new Float64Array(n);
    const info = scalar(0);
    const lwork = 1 + 6 * n + 2 * n * n;
    const liwork = 3 + 5 * n;
    const order = scalar(n);
    dsyevd(
      'V',
      'L',
      order,
      a,
      order,
      ascending,
      new Float64Array(lwork),
      scalar(lwork),
      integers(liwork),
      scalar(liwork),
      info,
    );
    if (Number(info[0]) !== 0) {
      throw new NumericalFailure({ slot: '-', detail: `dsyevd of ${n} x ${n} failed with info ${info[0]}` });
    }
    const values = new Float64Array(n);
    const vectors = new Float64Array(n * n);
    for (let j = 0; j < n; j++) {
      values[j] = ascending[n - 1 - j]!;
      vectors.set(a.subarray((n - 1 - j) * n, (n - j) * n), j * n);
    }
    return { values, vectors };
  };
};
