// Eigenpairs of symmetric matrices by LAPACK: all vectors by dsyevd (divide and conquer), or few of a large matrix from its tridiagonal
// form, of which dsterf finds all values and dstemr (MRRR) the last vectors. Source: LAPACK Users' Guide, 3rd ed., 2.4.4.
import { NumericalFailure } from '../errors.ts';
import { type EigenSolver, lastRows, type SymmetricEigen } from '../linalg/symmetric-eigen.ts';
import type { BlasAbi } from './blas-library.ts';

type Routine = (...args: unknown[]) => unknown;

/** Binds a function of the library by its C declaration; null where there is none. */
export type Bind = (signature: string) => Routine | null;

/** How Fortran takes integers: by reference. */
export const scalarOf =
  (integer: BlasAbi['integer']) =>
  (value: number): Int32Array | BigInt64Array =>
    integer === 'int32' ? Int32Array.of(value) : BigInt64Array.of(BigInt(value));

/** Side of the largest matrix whose workspace is kept, 6 MB. */
const LARGEST_KEPT = 512;

/**
 * Where few vectors are wanted: of as many rows, and no more than this share of them. Tried with OpenBLAS 0.3.21: 32 of 384 take 5.5 ms
 * and all of them 7.5, 32 of 1,024 48 and 103; 64 of 384 take longer than all.
 */
const FEW_FROM = 384;
const FEW_SHARE = 1 / 12;

/** Null where the library has no LAPACK. */
export const bindEigenSolver = (bind: Bind, abi: Omit<BlasAbi, 'path'>): EigenSolver | null => {
  const all = bindAllPairs(bind, abi);
  if (all === null) return null;
  const few = bindFewPairs(bind, abi);
  return (matrix, n, vectors = n) => {
    const isFew = n >= FEW_FROM && vectors > 0 && vectors <= n * FEW_SHARE;
    const solved = (isFew ? few?.(matrix, n, vectors) : null) ?? all(matrix, n, Math.min(vectors, n));
    // Of a matrix that is not finite most routines say nothing.
    if (!solved.values.every(Number.isFinite))
      throw new NumericalFailure({ slot: '-', detail: `eigenvalues of ${n} x ${n} that are not finite` });
    return solved;
  };
};

/** LAPACK's Fortran names end in an underscore; NumPy's build adds its suffix after it. */
export const routineOf =
  (bind: Bind, { prefix, suffix, integer }: Omit<BlasAbi, 'path'>) =>
  (name: string, takes: string): Routine | null =>
    bind(`void ${prefix}${name}_${suffix}(${takes.replaceAll('int', integer).replaceAll('char', 'const char')})`);

const integersOf =
  (integer: BlasAbi['integer']) =>
  (length: number): Int32Array | BigInt64Array =>
    integer === 'int32' ? new Int32Array(length) : new BigInt64Array(length);

const bindAllPairs = (
  bind: Bind,
  abi: Omit<BlasAbi, 'path'>,
): ((matrix: Float64Array, n: number, vectors: number) => SymmetricEigen) | null => {
  const dsyevd = routineOf(bind, abi)(
    'dsyevd',
    'char *jobz, char *uplo, int *n, double *a, int *lda, double *w, double *work, int *lwork, int *iwork, int *liwork, int *info',
  );
  if (dsyevd === null) return null;
  const [scalar, integers] = [scalarOf(abi.integer), integersOf(abi.integer)];
  const workFor = (n: number): number => 1 + 6 * n + 2 * n * n;
  const integersFor = (n: number): number => 3 + 5 * n;
  const roomsFor = (n: number) => ({
    a: new Float64Array(n * n),
    work: new Float64Array(workFor(n)),
    iwork: integers(integersFor(n)),
  });
  // Small ones are taken again at every call: a quarter of what updates allocate would be LAPACK's.
  let kept = { size: 0, ...roomsFor(0) };
  return (matrix, n, vectors) => {
    if (n <= LARGEST_KEPT && kept.size < n) kept = { size: n, ...roomsFor(n) };
    const { a, work, iwork } = n <= kept.size ? kept : roomsFor(n);
    a.set(matrix);
    const ascending = new Float64Array(n);
    const info = scalar(0);
    const order = scalar(n);
    // As much as a matrix of this size needs, however much there is: how it goes about it depends on that.
    const [lwork, liwork] = [scalar(workFor(n)), scalar(integersFor(n))];
    dsyevd('V', 'L', order, a, order, ascending, work, lwork, iwork, liwork, info);
    if (Number(info[0]) !== 0) {
      throw new NumericalFailure({ slot: '-', detail: `dsyevd of ${n} x ${n} failed with info ${info[0]}` });
    }
    return { values: ascending.reverse(), vectors: lastRows(a.subarray(0, n * n), n, vectors) };
  };
};

/** Columns that dsytrd and dormtr take at a time. */
const COLUMNS = 64;

/** Gives null where a routine does not succeed: then the other way shows what is wrong. */
const bindFewPairs = (
  bind: Bind,
  abi: Omit<BlasAbi, 'path'>,
): ((matrix: Float64Array, n: number, vectors: number) => SymmetricEigen | null) | null => {
  const routine = routineOf(bind, abi);
  const dsytrd = routine(
    'dsytrd',
    'char *uplo, int *n, double *a, int *lda, double *d, double *e, double *tau, double *work, int *lwork, int *info',
  );
  const dsterf = routine('dsterf', 'int *n, double *d, double *e, int *info');
  const dstemr = routine(
    'dstemr',
    'char *jobz, char *range, int *n, double *d, double *e, double *vl, double *vu, int *il, int *iu, int *m, double *w, ' +
      'double *z, int *ldz, int *nzc, int *isuppz, int *tryrac, double *work, int *lwork, int *iwork, int *liwork, int *info',
  );
  const dormtr = routine(
    'dormtr',
    'char *side, char *uplo, char *trans, int *m, int *n, double *a, int *lda, double *tau, double *c, int *ldc, ' +
      'double *work, int *lwork, int *info',
  );
  if (dsytrd === null || dsterf === null || dstemr === null || dormtr === null) return null;
  const [scalar, integers] = [scalarOf(abi.integer), integersOf(abi.integer)];
  return (matrix, n, vectors) => {
    const order = scalar(n);
    const statuses = Array.from({ length: 4 }, () => scalar(0));
    const [a, tau] = [matrix.slice(), new Float64Array(n)];
    const [d, e] = [new Float64Array(n), new Float64Array(n)];
    const work = new Float64Array(Math.max(COLUMNS, 18) * n);
    const lwork = scalar(work.length);
    dsytrd('L', order, a, order, d, e, tau, work, lwork, statuses[0]);
    const values = d.slice();
    dsterf(order, values, e.slice(), statuses[1]);
    // Of a matrix that is not finite none complains, and who knows what comes of it.
    if (!values.every(Number.isFinite)) return null;
    const z = new Float64Array(n * vectors);
    const iwork = integers(10 * n);
    const [found, none] = [scalar(0), new Float64Array(1)];
    const [from, to, room] = [scalar(n - vectors + 1), order, scalar(vectors)];
    const [support, accurate] = [integers(2 * n), scalar(1)];
    const [some, liwork] = [new Float64Array(n), scalar(iwork.length)];
    const tridiagonal = [order, d, e, none, none, from, to, found, some, z, order, room, support, accurate] as const;
    dstemr('V', 'I', ...tridiagonal, work, lwork, iwork, liwork, statuses[2]);
    dormtr('L', 'L', 'N', order, room, a, order, tau, z, order, work, lwork, statuses[3]);
    if (statuses.some((info) => Number(info[0]) !== 0) || Number(found[0]) !== vectors) return null;
    return { values: values.reverse(), vectors: lastRows(z, n, vectors) };
  };
};
