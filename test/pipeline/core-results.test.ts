// The interval that three spectra imply for what their directions keep together, held against tensors whose core is known,
// and what of it is told. All of it is float64: 1e-9 of the total.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CoreModes, CoreResults, coreBatch, coreBounds } from '../../pipeline/core-results.ts';
import { normals } from '../operators/planted.ts';

/** A tensor is its own core where its slices are at right angles; any tensor of one entry a slice is. */
const diagonal = (entries: readonly number[]): CoreModes => {
  const eigenvalues = entries.map((x) => x * x).sort((a, b) => b - a);
  const mode = {
    rank: eigenvalues.length,
    total: eigenvalues.reduce((a, b) => a + b, 0),
    bounds: eigenvalues.map((value) => ({ low: value, high: value })),
  };
  return { models: mode, rows: mode, cols: mode };
};

describe('coreBounds', () => {
  it('are met by a diagonal tensor from above', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.nat(), (n, seed) => {
        const normal = normals(seed);
        const modes = diagonal(Array.from({ length: n }, () => normal()));
        const { total, bounds } = modes.models;
        for (let a = 1; a <= n; a++)
          for (let b = 1; b <= n; b++) {
            // Corner (a, b, n) of a diagonal tensor has its first min(a, b) entries.
            const energy = bounds.slice(0, Math.min(a, b)).reduce((sum, { low }) => sum + low, 0);
            const { low, high } = coreBounds(modes, { models: a, rows: b, cols: n });
            expect(Math.abs(high - energy)).toBeLessThan(1e-9 * total);
            expect(low).toBeLessThanOrEqual(energy + 1e-9 * total);
            expect(low).toBeGreaterThanOrEqual(0);
          }
        const { low, high } = coreBounds(modes, { models: n, rows: n, cols: n });
        expect(Math.abs(low - total)).toBeLessThan(1e-9 * total);
        expect(Math.abs(high - total)).toBeLessThan(1e-9 * total);
      }),
      { numRuns: 60, seed: 2 },
    );
  });

  it('take each mode by what it loses for certain, and by what it keeps at most', () => {
    const mode = (low: number, high: number) => ({ rank: 1, total: 10, bounds: [{ low, high }] });
    const modes = { models: mode(8, 9), rows: mode(7, 9.5), cols: mode(9, 12) };
    // 10 − 2 − 3 − 1, and the least of 9, 9.5 and 12.
    expect(coreBounds(modes, { models: 1, rows: 1, cols: 1 })).toEqual({ low: 4, high: 9 });
  });
});

describe('CoreResults', () => {
  const modes = diagonal([3, 2, 1]);
  const seen = (core: Parameters<typeof coreBatch>[2], frozen = false) => {
    const results = new CoreResults();
    results.see({ table: 'core', batch: coreBatch(5, modes, core, frozen) as Record<string, unknown> });
    return results.summaryOf(5);
  };

  it('names the smallest ranks of those listed, by entries of the core', () => {
    // 9 + 4 of 14 is 0.93; the spectra promise 90% only where all three modes are whole.
    const energies = coreBatch(5, modes, null, false).rank_models as number[];
    const grid = energies.map((_, i) => {
      const batch = coreBatch(5, modes, null, false) as unknown as Record<string, number[]>;
      const [a, b, c] = ['rank_models', 'rank_rows', 'rank_cols'].map((name) => batch[name]![i]!) as [
        number,
        number,
        number,
      ];
      return { models: a, rows: b, cols: c, energy: [9, 13, 14][Math.min(a, b, c) - 1]! };
    });
    expect(seen(grid)).toEqual({ ranks: [2, 2, 2], isMeasured: true });
    expect(seen(null)).toEqual({ ranks: [2, 3, 3], isMeasured: false });
    expect(seen(grid, true)).toEqual({ ranks: null, isMeasured: false });
  });

  it('knows mode models from the rows of its tables', () => {
    const results = new CoreResults();
    expect(results.modelsOf(1)).toBeUndefined();
    results.see({ table: 'subspaces', batch: { slot_id: 1, mode: 'models', rank: 2, total: 5 } });
    results.see({ table: 'spectrum', batch: { slot_id: 1, mode: 'models', bound_low: 3, bound_high: 4 } });
    results.see({ table: 'spectrum', batch: { slot_id: 1, mode: 'rows', bound_low: 7, bound_high: 8 } });
    expect(results.modelsOf(1)).toEqual({ rank: 2, total: 5, bounds: [{ low: 3, high: 4 }] });
  });
});
