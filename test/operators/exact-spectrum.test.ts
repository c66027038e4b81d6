// The spectrum of all models takes long where they are many: others have their turn meanwhile.
import { expect, it } from 'vitest';
import { exactSpectrum, prefixesOf } from '../../operators/exact-spectrum.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { rowsBeforeBlock } from '../../operators/update-subspace.ts';

it('the event loop turns after every prefix', async () => {
  const models = 24;
  const size = rowsBeforeBlock(0) + models;
  const values = new Float64Array(size ** 2);
  for (let i = 0; i < size; i++) values[i * size + i] = 1 + i;
  const spec = { features: 100, rank: 3, center: true, shiftIsOrigin: true };
  let turns = 0;
  let running = true;
  const count = (): void => {
    turns++;
    if (running) setImmediate(count);
  };
  setImmediate(count);
  const { prefixes } = await exactSpectrum(spec, { values, models, shiftSum: 0 }, 2, jsEigenSolver);
  running = false;
  expect(prefixes).toHaveLength(prefixesOf(models, 2).length);
  expect(turns).toBeGreaterThanOrEqual(12);
});
