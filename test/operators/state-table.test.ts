// A state comes back from its Arrow file with the same bits, also one with more numbers than a call takes arguments.
import { expect, it } from 'vitest';
import { decodeStates, encodeStates, type SavedSlot } from '../../operators/state-table.ts';
import { emptySubspace, sketchRows } from '../../operators/subspace-state.ts';
import { normals } from './planted.ts';

it.each([4, 400])('states of %i rows, plain, of a sketch, and shrunk', (rank) => {
  const normal = normals(rank);
  const values = (length: number): Float64Array => Float64Array.from({ length }, normal);
  const rows = sketchRows({ rank, features: 10_000 });
  const sketch = {
    turn: values(rows * rows),
    sumDots: values(1 + rows),
    rowDots: values(rows * rows),
    core: values(rows * rows),
    tests: values(rows),
    directions: values(rank * (1 + rows)),
  };
  const shrunk = { certain: values(rank), withheld: values(rank * rank) };
  const state = { ...emptySubspace, models: 3, total: 0.1, eigenvalues: values(rank), rowsDotMean: values(rank) };
  const slots: readonly SavedSlot[] = [
    { slotId: 2, state: { ...state, sketch }, map: null, norms2: values(2 * rank), rowsAt: 2 ** 40 },
    { slotId: 3, state: { ...state, shrunk }, map: null, norms2: null, rowsAt: 0 },
    { slotId: 5, state, map: values(rank * rank), norms2: null, rowsAt: 0 },
  ];
  expect(decodeStates(encodeStates(slots))).toEqual(slots);
});
