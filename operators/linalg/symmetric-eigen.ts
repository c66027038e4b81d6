// Eigendecomposition of small symmetric float64 matrices (a few hundred rows): the only solver an engine needs.
// LAPACK's dsyevd where a BLAS was found (n = 97: about 1 ms), ml-matrix otherwise (about 8 ms). Both are
// deterministic for a given library; which one worked is part of the device's description.
import { smallMatrices } from '../../sources/small-matrices.ts';

/** Eigenpairs of a symmetric n x n matrix, largest eigenvalue first. */
export interface SymmetricEigen {
  /** n eigenvalues, descending. */
  readonly values: Float64Array;
  /** n x n, or the first rows of that: row j is the unit eigenvector of `values[j]`. */
  readonly vectors: Float64Array;
}

/** Solves a symmetric n x n row-major matrix; must not change its input. */
export type EigenSolver = (matrix: Float64Array, n: number) => SymmetricEigen;

/** All values, and no more vectors than the first `count`. */
export const withVectors = ({ values, vectors }: SymmetricEigen, n: number, count: number): SymmetricEigen => ({
  values,
  vectors: vectors.length > count * n ? vectors.slice(0, count * n) : vectors,
});

/** The solver for machines without LAPACK: Householder tridiagonalisation and implicit QL. */
export const jsEigenSolver: EigenSolver = (matrix, n) => {
  const { EigenvalueDecomposition, Matrix } = smallMatrices();
  const rows = Array.from({ length: n }, (_, i) => matrix.subarray(i * n, i * n + n));
  const solved = new EigenvalueDecomposition(new Matrix(rows as unknown as number[][]), { assumeSymmetric: true });
  const ascending = solved.realEigenvalues;
  const columns = solved.eigenvectorMatrix;
  const values = new Float64Array(n);
  const vectors = new Float64Array(n * n);
  for (let j = 0; j < n; j++) {
    values[j] = ascending[n - 1 - j]!;
    for (let i = 0; i < n; i++) vectors[j * n + i] = columns.get(i, n - 1 - j);
  }
  return { values, vectors };
};
