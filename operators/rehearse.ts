// What is done after every block, done once on made-up numbers while the threads that multiply are still starting. The
// first updates of a process spend most of their time on loading: functions are compiled when they are first called, and a
// LAPACK's pages come from the disk. Threads would wait for that with weights at hand.
import { exactSpectrum, type SolveApart } from './exact-spectrum.ts';
import type { DoubleProduct } from './linalg/dense-products.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { gramOfState, newRows, rowsAfter, settleRows } from './stored-rows.ts';
import { emptySubspace, heldRows, type SubspaceSpec } from './subspace-state.ts';
import { blockNorms2, rowsBeforeBlock, updateSubspace } from './update-subspace.ts';

/** Models a block, directions, and as many blocks as drop rows in the last two: some milliseconds of work. */
const BLOCK = 32;
const RANK = 32;
const BLOCKS = 4;
/** Prefixes of the exact engine: what takes longest is compiled only when it has been done some times. */
const PREFIXES = 8;

/** Blocks of engines that fold block by block. */
export const rehearseUpdate = (
  slot: Pick<SubspaceSpec, 'features' | 'center' | 'engine'>,
  { solve, multiplyDouble }: { readonly solve: EigenSolver; readonly multiplyDouble: DoubleProduct },
): void => {
  const spec = { ...slot, rank: RANK, shiftIsOrigin: false };
  let state = emptySubspace;
  let stored = newRows;
  for (let index = 0; index < BLOCKS; index++) {
    const held = heldRows(spec, state);
    const rows = rowsBeforeBlock(held) + BLOCK;
    const columns = index === 0 ? rows : BLOCK;
    const measured = new Float64Array(rows * columns);
    // Models at right angles to each other and to all that came before, of falling lengths.
    for (let i = 0; i < BLOCK; i++) measured[(rows - BLOCK + i) * columns + columns - BLOCK + i] = 1 / (1 + i);
    const values = gramOfState(measured, columns, held, stored, multiplyDouble);
    const gram = { values, columns, block: BLOCK, shiftSum: 0 };
    const update = updateSubspace(spec, state, gram, solve, multiplyDouble);
    stored = settleRows(
      rowsAfter(spec, stored, state, update, blockNorms2(gram), { renew: false, swaps: true }, multiplyDouble),
    );
    state = update.state;
  }
};

/** The spectra of a stream's prefixes, of the engine exact. */
export const rehearseSpectrum = async (
  slot: Pick<SubspaceSpec, 'features' | 'center'>,
  { solve, multiplyDouble }: { readonly solve: EigenSolver; readonly multiplyDouble: DoubleProduct },
): Promise<void> => {
  const models = BLOCK * PREFIXES;
  const before = rowsBeforeBlock(0);
  const size = before + models;
  const values = new Float64Array(size * size);
  for (let i = 0; i < models; i++) values[(before + i) * (size + 1)] = 1 / (1 + i);
  const spec = { ...slot, rank: RANK, shiftIsOrigin: false };
  const solveApart: SolveApart = async (matrix, n, vectors) => solve(matrix, n, vectors);
  await exactSpectrum(spec, { values, models, shiftSum: 0 }, BLOCK, { solve, solveApart, multiplyDouble });
};
