// Eigenpairs of large symmetric matrices by cuSOLVER, where it is there and the card has the room; small ones stay on the
// processor, whose LAPACK needs a millisecond for a hundred rows, no more than the way to the card and back.
import { NumericalFailure } from '../errors.ts';
import { type EigenSolver, lastRows, type SymmetricEigen } from '../linalg/symmetric-eigen.ts';
import type { CudaCard } from './cuda-card.ts';
import { CudaFailure, type CudaPointer, deviceFailed, pointerCell } from './cuda-library.ts';

/** Rows from which on the card is asked: LAPACK takes 0.9 s for 2,048 on one thread, and 20 ms for 512. */
export const CUDA_EIGEN_ROWS = 1024;
const VECTORS = 1;
const LOWER = 0;

/** @param open the card, which is asked for with the first large matrix */
export const cudaEigenSolver =
  (hasSolver: boolean, open: () => CudaCard, small: EigenSolver): EigenSolver =>
  (matrix, n, vectors = n) =>
    n < CUDA_EIGEN_ROWS || !hasSolver ? small(matrix, n, vectors) : solveOnCard(open(), matrix, n, vectors);

const solveOnCard = (card: CudaCard, matrix: Float64Array, n: number, wanted: number): SymmetricEigen => {
  const solver = card.library.solver!;
  const taken: CudaPointer[] = [];
  const take = (bytes: number): CudaPointer => {
    const at = card.allocate(bytes);
    taken.push(at);
    return at;
  };
  const cell = pointerCell();
  try {
    solver.cusolverDnCreate(cell);
    const handle = cell[0]!;
    try {
      solver.cusolverDnSetStream(handle, card.stream);
      const [a, w, info] = [take(n * n * 8), take(n * 8), take(4)];
      const length = new Int32Array(1);
      solver.cusolverDnDsyevd_bufferSize(handle, VECTORS, LOWER, n, a, n, w, length);
      const work = take(length[0]! * 8);
      card.copyUp(a, n * 8, matrix, n * 8, n * 8, n);
      solver.cusolverDnDsyevd(handle, VECTORS, LOWER, n, a, n, w, work, length[0]!, info);
      const [ascending, columns, status] = [new Float64Array(n), new Float64Array(n * n), new Int32Array(1)];
      card.copyDown(ascending, w);
      card.copyDown(columns, a, n * 8, n * 8);
      card.copyDown(status, info);
      if (status[0] !== 0)
        throw new NumericalFailure({
          slot: '-',
          detail: `cusolverDnDsyevd of ${n} x ${n} failed with info ${status[0]}`,
        });
      return { values: ascending.toReversed(), vectors: lastRows(columns, n, Math.min(wanted, n)) };
    } finally {
      solver.cusolverDnDestroy(handle);
    }
  } catch (error) {
    throw error instanceof CudaFailure ? deviceFailed(error) : error;
  } finally {
    for (const at of taken) card.free(at);
  }
};
