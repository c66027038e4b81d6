// What the main thread does while its threads start: every step of an update, whatever the device's algebra.
import { describe, expect, it, vi } from 'vitest';
import { jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { rehearseSpectrum, rehearseUpdate } from '../../operators/rehearse.ts';

describe.each([true, false])('rehearsals, centred: %s', (center) => {
  it.each([2, 100, 1e6])(
    'of a slot of %d weights they go through, and solve what a run will solve',
    async (features) => {
      const solve = vi.fn(jsEigenSolver);
      rehearseUpdate({ features, center, engine: 'incremental' }, { solve, multiplyDouble: jsDoubleProduct });
      // Rows are dropped: state and block, twice.
      const largest = Math.max(...solve.mock.calls.map(([, n]) => n));
      expect(largest).toBeGreaterThan(32);
      solve.mockClear();
      await rehearseSpectrum({ features, center }, { solve, multiplyDouble: jsDoubleProduct });
      expect(solve.mock.calls.map(([, n]) => n)).toEqual(expect.arrayContaining([32, 64, 96, 128]));
    },
  );
});
