// Eigendecomposition of small symmetric float64 matrices (a few hundred rows): the only solver an engine needs.
// LAPACK where a BLAS was found (n = 97: about 1 ms), ml-matrix otherwise (about 8 ms). Both are
// deterministic for a given library; which one worked is part of the device's description.
import { smallMatrices } from '../../sources/small-matrices.ts';

/** Eigenpairs of a symmetric n x n matrix, largest eigenvalue first. */
export interface SymmetricEigen {
  /** n eigenvalues, descending. */
  readonly values: Float64Array;
  /** n x n, or the first rows of that: row j is the unit eigenvector of `values[j]`. */
  readonly vectors: Float64Array;
}

/**
 * Solves a symmetric n x n row-major matrix; must not change its input.
 * @param vectors how many are wanted, the first of them; by default all
 */
export type EigenSolver = (matrix: Float64Array, n: number, vectors?: number) => SymmetricEigen;

/** The solver for machines without LAPACK: Householder tridiagonalisation and implicit QL. */
export const jsEigenSolver: EigenSolver = (matrix, n, wanted = n) => {
  const { EigenvalueDecomposition, Matrix } = smallMatrices();
  const rows = Array.from({ length: n }, (_, i) => matrix.subarray(i * n, i * n + n));
  const solved = new EigenvalueDecomposition(new Matrix(rows as unknown as number[][]), { assumeSymmetric: true });
  const ascending = solved.realEigenvalues;
  const columns = solved.eigenvectorMatrix;
  const values = Float64Array.from(ascending).reverse();
  const count = Math.min(wanted, n);
  const vectors = new Float64Array(count * n);
  for (let j = 0; j < count; j++) for (let i = 0; i < n; i++) vectors[j * n + i] = columns.get(i, n - 1 - j);
  return { values, vectors };
};

/** The last `wanted` of some rows of n, the very last first: a solver's vectors come in ascending order. */
export const lastRows = (rows: Float64Array, n: number, wanted: number): Float64Array => {
  const out = new Float64Array(wanted * n);
  for (let j = 0; j < wanted; j++) {
    const end = rows.length - j * n;
    out.set(rows.subarray(end - n, end), j * n);
  }
  return out;
};
