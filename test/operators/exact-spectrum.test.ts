// The spectrum of all models takes long where they are many: others have their turn meanwhile, and several threads their part.
import { expect, it } from 'vitest';
import { type ExactGram, exactSpectrum, prefixesOf, type SpectrumAlgebra } from '../../operators/exact-spectrum.ts';
import { jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { rowsBeforeBlock } from '../../operators/update-subspace.ts';

const algebra: SpectrumAlgebra = {
  solve: jsEigenSolver,
  solveApart: async (matrix, n) => jsEigenSolver(matrix, n),
  multiplyDouble: jsDoubleProduct,
};

/** Squares of made-up models' inner products, falling along the diagonal. */
const gramOf = (models: number): ExactGram => {
  const size = rowsBeforeBlock(0) + models;
  const values = new Float64Array(size ** 2);
  for (let i = 0; i < size; i++)
    for (let j = 0; j < size; j++) values[i * size + j] = (i === j ? 10 + i : 0) + 1 / (1 + i + j);
  return { values, models, shiftSum: 0 };
};

it('prefixes are solved some at once, the largest first, and told in order', async () => {
  const spec = { features: 100, rank: 3, center: true, shiftIsOrigin: true };
  const gram = gramOf(24);
  const truth = await exactSpectrum(spec, gram, 4, algebra);
  const begun: number[] = [];
  let running = 0;
  let most = 0;
  const solveApart: SpectrumAlgebra['solveApart'] = async (matrix, n, vectors) => {
    begun.push(n);
    most = Math.max(most, ++running);
    // Later ones are done sooner.
    await new Promise((resolve) => setTimeout(resolve, n));
    running--;
    return jsEigenSolver(matrix, n, vectors);
  };
  const found = await exactSpectrum(spec, gram, 4, { ...algebra, solveApart }, 3);
  expect(found).toEqual(truth);
  expect(found.prefixes.map(({ prefix }) => prefix.models)).toEqual([4, 8, 12, 16, 20, 24]);
  expect(begun).toEqual([24, 20, 16, 12, 8, 4]);
  expect(most).toBe(3);
});

it('one that cannot be solved is told when no thread is at work any more, and no other is begun', async () => {
  const spec = { features: 100, rank: 3, center: true, shiftIsOrigin: true };
  const begun: number[] = [];
  let running = 0;
  const solveApart: SpectrumAlgebra['solveApart'] = async (matrix, n) => {
    begun.push(n);
    running++;
    await new Promise((resolve) => setTimeout(resolve, n === 24 ? 1 : 20));
    running--;
    if (n === 24) throw new Error('no convergence');
    return jsEigenSolver(matrix, n);
  };
  await expect(exactSpectrum(spec, gramOf(24), 4, { ...algebra, solveApart }, 2)).rejects.toThrow('no convergence');
  expect(running).toBe(0);
  expect(begun).toEqual([24, 20]);
});

it('the event loop turns after every prefix', async () => {
  const models = 24;
  const spec = { features: 100, rank: 3, center: true, shiftIsOrigin: true };
  let turns = 0;
  let running = true;
  const count = (): void => {
    turns++;
    if (running) setImmediate(count);
  };
  setImmediate(count);
  const { prefixes } = await exactSpectrum(spec, gramOf(models), 2, algebra);
  running = false;
  expect(prefixes).toHaveLength(prefixesOf(models, 2).length);
  expect(turns).toBeGreaterThanOrEqual(12);
});
