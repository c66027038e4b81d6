// The core tensor against one made in float64 by plain loops, out of the same directions: centred, uncentred, about a base,
// over several tiles and pieces, and with models that are out.
// Tolerance: 1e-6 of the total on blas and 5e-6 on tfjs, what products of float32 samples and directions are good for.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CoreTensor, coreCuts, coreGrid, type ModelVectors } from '../../operators/core-tensor.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { PlannedModel } from '../../sources/reading-plan.ts';
import { devicesAndCard, withTilesOf } from './devices.ts';
import { foldModes, normals } from './planted.ts';

type Shape = readonly [number, number];

const planted = (models: number, [rows, cols]: Shape, seed: number): Float32Array[] => {
  const normal = normals(seed);
  const base = Float32Array.from({ length: rows * cols }, () => normal());
  return Array.from({ length: models }, () => base.map((x) => x + 0.1 * normal()));
};

/** What is left of the mean, or of an origin. */
const samplesOf = (weights: readonly Float32Array[], center: boolean, origin?: Float32Array) => {
  const mean = Float64Array.from(weights[0]!, (_, i) =>
    center ? weights.reduce((sum, w) => sum + w[i]! / weights.length, 0) : (origin?.[i] ?? 0),
  );
  return weights.map((w) => Float64Array.from(w, (x, i) => x - mean[i]!));
};

/** The first k eigenvectors of the samples' Gram matrix. */
const vectorsOf = (samples: readonly Float64Array[], ids: readonly number[], k: number): ModelVectors => {
  const n = samples.length;
  const gram = Float64Array.from(
    samples.flatMap((x) => samples.map((y) => x.reduce((sum, value, i) => sum + value * y[i]!, 0))),
  );
  const { vectors } = jsEigenSolver(gram, n);
  const values = Float64Array.from({ length: n * k }, (_, at) => vectors[(at % k) * n + Math.floor(at / k)]!);
  return { ids: Int32Array.from(ids), rank: k, values };
};

describe('coreGrid', () => {
  it('has the powers of two below each rank, and the rank', () => {
    expect([0, 1, 2, 3, 8, 14].map(coreCuts)).toEqual([[], [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 14]]);
    expect(coreGrid({ models: 2, rows: 1, cols: 3 })).toHaveLength(6);
    expect(coreGrid({ models: 2, rows: 0, cols: 3 })).toEqual([]);
  });
});

describe('CoreTensor', () => {
  const ranks = fc.integer({ min: 1, max: 9 });
  it('sums the squares of every corner of its grid', () => {
    fc.assert(
      fc.property(ranks, ranks, ranks, fc.nat(), (k, r, c, seed) => {
        const normal = normals(seed);
        const models = 4;
        const values = Float64Array.from({ length: models * k }, () => normal());
        const vectors = { ids: Int32Array.of(7, 3, 5, 9), rank: k, values };
        const core = new CoreTensor(vectors, { rows: r, cols: c });
        const projected = Array.from({ length: models }, () => Float64Array.from({ length: r * c }, () => normal()));
        for (const [i, one] of projected.entries()) core.add({ id: vectors.ids[i]! } as PlannedModel, one);
        const entry = (a: number, at: number): number =>
          projected.reduce((sum, one, i) => sum + values[i * k + a]! * one[at]!, 0);
        for (const { models: p, rows, cols, energy } of core.energies()!) {
          let sum = 0;
          for (let a = 0; a < p; a++)
            for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) sum += entry(a, i * c + j) ** 2;
          expect(Math.abs(energy - sum)).toBeLessThan(1e-9 * (1 + sum));
        }
      }),
      { numRuns: 50, seed: 3 },
    );
  });

  it('is none where a model is missing in either of the modes', () => {
    const vectors = { ids: Int32Array.of(0, 1), rank: 1, values: Float64Array.of(1, 1) };
    const model = (id: number): PlannedModel => ({ id }) as PlannedModel;
    const one = Float64Array.of(1);
    const short = new CoreTensor(vectors, { rows: 1, cols: 1 });
    short.add(model(0), one);
    expect(short.energies()).toBeNull();
    short.add(model(1), one);
    expect(short.energies()).toEqual([{ models: 1, rows: 1, cols: 1, energy: 4 }]);
    short.add(model(2), one);
    expect(short.energies()).toBeNull();
  });

  it('takes a mean off that was in all models', () => {
    const vectors = { ids: Int32Array.of(0, 1), rank: 1, values: Float64Array.of(3, 2) };
    const core = new CoreTensor(vectors, { rows: 1, cols: 1 });
    for (const [id, value] of [5, 9].entries()) core.add({ id } as PlannedModel, Float64Array.of(value));
    core.takeOff(Float64Array.of(7));
    expect(core.energies()![0]!.energy).toBe((3 * -2 + 2 * 2) ** 2);
  });
});

describe.each(devicesAndCard)('the core tensor on $name', ({ name, open }) => {
  const tolerance = name === 'tfjs' ? 5e-6 : 1e-6;

  const withTiles = withTilesOf(open);

  it.each([
    ['centred', 9, [24, 20], 4, true, false],
    ['uncentred', 7, [12, 30], 3, false, false],
    ['about a base', 6, [30, 12], 2, false, true],
    ['over several tiles', 5, [70, 300], 5, true, false],
    ['longer rows than a chunk takes', 4, [6, 2500], 2, true, false],
    // Sides of a thousand, whose eigenpairs take long without a BLAS.
    ...(name === 'blas' ? [['rows in several pieces', 3, [1100, 1024], 1, true, false] as const] : []),
    ['a vector', 8, [1, 40], 5, true, false],
    ['models that are out', 9, [24, 20], 4, true, false],
  ] as const)('equals the truth: %s', async (what, count, shape, block, center, hasBase) => {
    const weights = planted(count, shape, 5);
    const out = what === 'models that are out' ? [2, 3] : [];
    for (const i of out) weights[i]![17] = Number.NaN;
    const kept = weights.flatMap((w, i) => (out.includes(i as never) ? [] : [{ w, id: i }]));
    const base = hasBase ? planted(1, shape, 6)[0]! : undefined;
    const samples = samplesOf(
      kept.map(({ w }) => w),
      center,
      base,
    );
    const vectors = vectorsOf(
      samples,
      kept.map(({ id }) => id),
      Math.min(3, kept.length - 1),
    );
    await withTiles(async (tiles) => {
      const modes = ['rows', 'cols'] as const;
      const found = (await foldModes(tiles, weights, {
        ...{ rank: 4, block, shape, modes, center, onBadSource: 'skip', energies: false },
        ...(base === undefined ? {} : { base }),
        vectorsOf: () => vectors,
      }))!;
      expect(found.energies).toBeNull();
      const [inputs, outputs] = found.spectra;
      const [rows, cols] = shape;
      const total = samples.reduce((sum, x) => sum + x.reduce((a, b) => a + b * b, 0), 0);
      const entries = Array.from({ length: vectors.rank }, (_, a) =>
        Array.from({ length: inputs!.rank }, (_, i) => {
          const along = new Float64Array(rows);
          samples.forEach((x, m) => {
            const v = vectors.values[m * vectors.rank + a]!;
            for (let r = 0; r < rows; r++)
              for (let c = 0; c < cols; c++)
                along[r] = along[r]! + v * x[r * cols + c]! * inputs!.directions[i * cols + c]!;
          });
          return Array.from({ length: outputs!.rank }, (_, j) =>
            along.reduce((sum, value, r) => sum + value * outputs!.directions[j * rows + r]!, 0),
          );
        }),
      );
      const core = found.core!;
      expect(core.length).toBe(coreGrid({ models: vectors.rank, rows: inputs!.rank, cols: outputs!.rank }).length);
      for (const { models: p, rows: q, cols: s, energy } of core) {
        let truth = 0;
        for (let a = 0; a < p; a++)
          for (let i = 0; i < q; i++) for (let j = 0; j < s; j++) truth += entries[a]![i]![j]! ** 2;
        expect(Math.abs(energy - truth) / total).toBeLessThan(tolerance);
      }
    });
  });
});
