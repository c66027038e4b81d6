// What the modes rows and cols must hold on every device, against the scatter matrix made in float64 by plain loops.
// Tolerances: 1e-6 of the largest eigenvalue on blas and 5e-6 on tfjs is the promise; float32 products of what is left when
// the running mean is gone reach about 1e-7.
import { describe, expect, it } from 'vitest';
import type { ModesOfSlot } from '../../operators/exact-modes.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { modelsAtOnce } from '../../operators/mode-scatter.ts';
import type { SideMode } from '../../operators/scatter-tasks.ts';
import { stateRowsFor } from '../../operators/subspace-state.ts';
import { devicesAndCard, withTilesOf } from './devices.ts';
import { foldModes, normals, scatterOf } from './planted.ts';

const BOTH: readonly SideMode[] = ['rows', 'cols'];

type Shape = readonly [number, number];

/** Fine-tunes of a large base whose rows and columns spread along a few directions of falling strength. */
const planted = (models: number, [rows, cols]: Shape, seed: number, noise = 1e-3): Float32Array[] => {
  const normal = normals(seed);
  const base = Float32Array.from({ length: rows * cols }, () => normal());
  const left = Array.from({ length: 3 }, () => Float64Array.from({ length: rows }, () => normal()));
  const right = Array.from({ length: 3 }, () => Float64Array.from({ length: cols }, () => normal()));
  return Array.from({ length: models }, () => {
    const strength = left.map((_, j) => (0.05 * normal()) / (1 + j));
    return base.map((x, i) => {
      const [r, c] = [Math.floor(i / cols), i % cols];
      return strength.reduce((sum, s, j) => sum + s * left[j]![r]! * right[j]![c]!, x + noise * normal());
    });
  });
};

describe.each(devicesAndCard)('modes rows and cols on $name', ({ name, open }) => {
  const tolerance = name === 'tfjs' ? 5e-6 : 1e-6;

  const withTiles = withTilesOf(open);

  const expectTruth = (
    found: ModesOfSlot,
    weights: readonly Float32Array[],
    shape: Shape,
    center = true,
    origin?: Float32Array,
  ): void => {
    for (const { mode, side, eigenvalues, total, directions, rank } of found.spectra) {
      const { matrix, mean } = scatterOf(weights, shape, mode, center, origin);
      const truth = jsEigenSolver(matrix, side).values;
      const trace = truth.reduce((a, b) => a + b, 0);
      const largest = Math.max(truth[0]!, 1e-30);
      eigenvalues.forEach((value, j) => {
        expect(Math.abs(value - truth[j]!) / largest).toBeLessThan(tolerance);
      });
      expect(Math.abs(total - trace)).toBeLessThan(tolerance * Math.max(trace, 1e-12));
      // S v = λ v holds for what is reported, and energies are the squares that make up λ.
      const { norm2, modes } = found.energies!;
      const { energies } = modes.find((other) => other.mode === mode)!;
      for (let j = 0; j < rank; j++) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++) sum += energies[i * rank + j]!;
        expect(Math.abs(sum - eigenvalues[j]!) / largest).toBeLessThan(3 * tolerance);
        const v = directions.subarray(j * side, (j + 1) * side);
        expect(v.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0)).toBeGreaterThan(0);
        for (let a = 0; a < side; a++) {
          let inner = 0;
          for (let b = 0; b < side; b++) inner += matrix[a * side + b]! * v[b]!;
          expect(Math.abs(inner - eigenvalues[j]! * v[a]!) / largest).toBeLessThan(10 * tolerance);
        }
      }
      weights.forEach((w, i) => {
        let own = 0;
        for (let l = 0; l < w.length; l++) own += (w[l]! - mean[l]!) ** 2;
        expect(Math.abs(norm2[i]! - own)).toBeLessThan(1e-6 * Math.max(own, 1e-9));
      });
    }
  };

  it.each([
    ['square', 9, [24, 24], 4],
    ['tall', 7, [90, 8], 3],
    ['wide', 7, [8, 90], 3],
    ['rows over several tiles', 5, [70, 300], 2],
    ['more samples than a chunk takes', 30, [130, 20], 30],
    ['longer rows than a chunk takes', 4, [6, 2500], 2],
    ['a vector', 12, [1, 40], 5],
    ['one column', 12, [40, 1], 5],
    ['one model a block', 6, [12, 10], 1],
    ['rank above everything', 4, [5, 6], 3],
  ] as const)('equal the truth: %s', async (_name, models, shape, block) => {
    const weights = planted(models, shape, 3);
    await withTiles(async (tiles) => {
      const modes = Math.max(...shape) > 1000 ? (['cols'] as const) : BOTH;
      const found = (await foldModes(tiles, weights, { rank: 16, block, shape, modes }))!;
      expect(found.spectra.map(({ mode }) => mode)).toEqual(modes);
      expectTruth(found, weights, shape);
      expect(found.rawNorm2).toHaveLength(models);
      weights.forEach((w, i) => {
        expect(found.rawNorm2[i]).toBeCloseTo(
          w.reduce((sum, x) => sum + x * x, 0),
          6,
        );
        expect(found.meanEntry[i]).toBeCloseTo(w.reduce((sum, x) => sum + x, 0) / w.length, 8);
      });
      const { mean } = scatterOf(weights, shape, 'rows');
      found.mean!.forEach((x, i) => void expect(x).toBeCloseTo(mean[i]!, 6));
    });
  });

  it.each([
    ['tall', 7, [70, 28], 3],
    ['wide', 6, [28, 70], 2],
    ['more samples than an update takes', 5, [600, 20], 5],
    ['one model a block', 6, [12, 10], 1],
  ] as const)(
    'followed instead of kept whole, nothing forgotten: equal the truth: %s',
    async (_name, models, shape, block) => {
      const weights = planted(models, shape, 3, 1e-2);
      await withTiles(async (tiles) => {
        // Of the larger side not all directions are kept, but they hold all that rises above the noise of the products.
        const rank = Math.min(...shape);
        const modes = [shape[0] > shape[1] ? 'rows' : 'cols'] as const;
        const found = (await foldModes(tiles, weights, { rank, block, shape, modes, largestSide: 4 }))!;
        expect(found.spectra.map(({ engine }) => engine)).toEqual(['incremental']);
        expectTruth(found, weights, shape);
      });
    },
  );

  it.each(BOTH)(
    'followed at a low rank in mode %s: intervals enclose the truth, and totals are exact',
    async (mode) => {
      const shape = [60, 44] as const;
      const weights = planted(9, shape, 11, 3e-2);
      await withTiles(async (tiles) => {
        const found = (await foldModes(tiles, weights, { rank: 3, block: 3, shape, modes: [mode], largestSide: 4 }))!;
        const [{ eigenvalues, lowered, rounding, total, side }] = found.spectra as [ModesOfSlot['spectra'][number]];
        const truth = jsEigenSolver(scatterOf(weights, shape, mode).matrix, side).values;
        expect(eigenvalues).toHaveLength(3);
        expect(lowered).toBeGreaterThan(0);
        eigenvalues.forEach((value, j) => {
          expect(value).toBeLessThanOrEqual(truth[j]! + rounding);
          expect(value + lowered + rounding).toBeGreaterThanOrEqual(truth[j]!);
          expect(value / truth[j]!).toBeGreaterThan(0.9);
        });
        const trace = truth.reduce((a, b) => a + b, 0);
        expect(Math.abs(total / trace - 1)).toBeLessThan(tolerance);
      });
    },
  );

  it.each(BOTH)(
    'followed by frequent directions in mode %s: no direction is further off than it says',
    async (mode) => {
      const shape = [60, 44] as const;
      const weights = planted(9, shape, 11, 3e-2);
      await withTiles(async (tiles) => {
        const options = { block: 3, shape, modes: [mode], largestSide: 4, follower: 'frequent-directions' } as const;
        const found = (await foldModes(tiles, weights, { ...options, rank: 3 }))!;
        const [{ engine, eigenvalues, certain, lowered, rounding, total, side, directions, rank }] = found.spectra as [
          ModesOfSlot['spectra'][number],
        ];
        expect(engine).toBe('frequent-directions');
        const { matrix } = scatterOf(weights, shape, mode);
        const truth = jsEigenSolver(matrix, side).values;
        const trace = truth.reduce((a, b) => a + b, 0);
        expect(Math.abs(total / trace - 1)).toBeLessThan(tolerance);
        expect(lowered).toBeGreaterThan(0);
        // Σδ ≤ ‖A − A_j‖² / (ℓ + 1 − j).
        const most = stateRowsFor({ rank: 3, features: side });
        let rest = trace;
        for (let j = 0; j <= most; j++) {
          expect(lowered).toBeLessThanOrEqual((1 + 1e-4) * (rest / (most + 1 - j)));
          rest -= truth[j]!;
        }
        certain.forEach((value, j) => {
          expect(value).toBeLessThanOrEqual(Math.min(truth[j]!, eigenvalues[j]!) + rounding);
          expect(value + lowered + rounding).toBeGreaterThanOrEqual(Math.max(truth[j]!, eigenvalues[j]!));
        });
        // The scatter along what is reported is what is estimated, but for what is withheld at most.
        for (let j = 0; j < rank; j++) {
          const v = directions.subarray(j * side, (j + 1) * side);
          let along = 0;
          for (let a = 0; a < side; a++) for (let b = 0; b < side; b++) along += v[a]! * matrix[a * side + b]! * v[b]!;
          expect(Math.abs(along - eigenvalues[j]!)).toBeLessThanOrEqual(lowered + rounding);
        }
        // Shrinking shows: what is certain is lower than what the incremental engine finds. The estimates are as near as that.
        const plain = (await foldModes(tiles, weights, { ...options, follower: 'incremental', rank: 3 }))!;
        const own = plain.spectra[0]!.eigenvalues;
        for (let j = 0; j < rank; j++) {
          expect(certain[j]!).toBeLessThan(own[j]!);
          expect(Math.abs(eigenvalues[j]! / truth[j]! - 1)).toBeLessThan(0.02);
        }
      });
    },
  );

  it('finds the largest eigenpairs alone where the side is large, with residuals that enclose the truth', async () => {
    const shape = [4, 700] as const;
    const weights = planted(6, shape, 5, 1e-2);
    await withTiles(async (tiles) => {
      const found = (await foldModes(tiles, weights, { rank: 6, block: 3, shape, modes: ['rows'] }))!;
      const [{ eigenvalues, residuals, rank, rounding }] = found.spectra as [ModesOfSlot['spectra'][number]];
      expect(rank).toBe(6);
      expect(eigenvalues).toHaveLength(6);
      // The same eigenvalues from the other side: 24 samples of 700 numbers, centred, have a 24 x 24 Gram matrix.
      const { mean } = scatterOf(weights, shape, 'cols');
      const samples = weights.flatMap((w) =>
        [0, 1, 2, 3].map((r) => Float64Array.from({ length: 700 }, (_, c) => w[r * 700 + c]! - mean[r * 700 + c]!)),
      );
      const gram = Float64Array.from({ length: 24 * 24 }, (_, i) => {
        const [a, b] = [samples[Math.floor(i / 24)]!, samples[i % 24]!];
        return a.reduce((sum, x, l) => sum + x * b[l]!, 0);
      });
      const truth = jsEigenSolver(gram, 24).values;
      eigenvalues.forEach((value, j) => {
        expect(residuals![j]!).toBeLessThanOrEqual(2 ** -21 * truth[0]! * 1.01);
        expect(truth[j]!).toBeLessThanOrEqual(value + residuals![j]! + rounding);
        expect(truth[j]!).toBeGreaterThanOrEqual(value - rounding);
      });
    });
  });

  it('measure from a base, and uncentred from it or from zero', async () => {
    const shape = [10, 14] as const;
    const weights = planted(6, shape, 11);
    const base = planted(1, shape, 11)[0]!;
    await withTiles(async (tiles) => {
      const common = { rank: 8, block: 4, shape, modes: BOTH };
      const centred = (await foldModes(tiles, weights, { ...common, base }))!;
      expectTruth(centred, weights, shape);
      weights.forEach((w, i) => {
        const apart = w.reduce((sum, x, l) => sum + (x - base[l]!) ** 2, 0);
        expect(Math.abs(centred.rawNorm2[i]! - apart)).toBeLessThan(1e-9 * Math.max(1, apart));
      });
      expectTruth((await foldModes(tiles, weights, { ...common, base, center: false }))!, weights, shape, false, base);
      const plain = (await foldModes(tiles, weights, { ...common, center: false }))!;
      expectTruth(plain, weights, shape, false);
      expect(plain.mean).toBeNull();
    });
  });

  it('see nothing in one model, in identical models, and in constants', async () => {
    const shape = [6, 9] as const;
    const [one] = planted(1, shape, 2) as [Float32Array];
    await withTiles(async (tiles) => {
      for (const weights of [[one], [one, one, one, one], [one.map(() => 3), one.map(() => 3)]]) {
        const found = (await foldModes(tiles, weights, { rank: 4, block: 2, shape, modes: BOTH }))!;
        for (const { total, rank } of found.spectra) {
          expect(total).toBe(0);
          expect(rank).toBe(0);
        }
        expect(found.energies!.norm2.every((value) => value < 1e-10)).toBe(true);
      }
    });
  });

  it('keep the directions there are, not more', async () => {
    const shape = [30, 40] as const;
    const weights = planted(12, shape, 17, 0);
    await withTiles(async (tiles) => {
      const found = (await foldModes(tiles, weights, { rank: 16, block: 4, shape, modes: BOTH }))!;
      for (const { eigenvalues } of found.spectra) {
        expect(eigenvalues[2]! / eigenvalues[0]!).toBeGreaterThan(1e-3);
        expect(eigenvalues[3]! / eigenvalues[0]!).toBeLessThan(1e-6);
      }
    });
  });

  it('do not depend on the order or the block size but for rounding', async () => {
    const shape = [16, 20] as const;
    const weights = planted(12, shape, 19, 1e-2);
    await withTiles(async (tiles) => {
      const first = (await foldModes(tiles, weights, { rank: 8, block: 4, shape, modes: BOTH }))!;
      for (const [some, block] of [
        [weights, 1],
        [weights, 12],
        [[...weights].reverse(), 5],
      ] as const) {
        const other = (await foldModes(tiles, some, { rank: 8, block, shape, modes: BOTH }))!;
        other.spectra.forEach(({ eigenvalues }, m) => {
          const wanted = first.spectra[m]!.eigenvalues;
          eigenvalues.forEach((value, j) => {
            expect(Math.abs(value - wanted[j]!) / wanted[0]!).toBeLessThan(tolerance);
          });
        });
      }
    });
  });

  it('refuse NaN by name, or leave the model out of the slot', async () => {
    const shape = [8, 12] as const;
    const weights = planted(6, shape, 23);
    const bad = weights.map((w) => w.slice());
    bad[3]![50] = Number.NaN;
    bad[5]![7] = 1e18;
    await withTiles(async (tiles) => {
      const options = { rank: 4, block: 4, shape, modes: BOTH };
      await expect(foldModes(tiles, bad, options)).rejects.toThrow(/entry 50 is NaN/);
      const found = (await foldModes(tiles, bad, { ...options, onBadSource: 'skip' }))!;
      const kept = [0, 1, 2, 4].map((i) => weights[i]!);
      expect(found.models.map(({ id }) => id)).toEqual([0, 1, 2, 4]);
      expectTruth(found, kept, shape);
      const none = bad.map((w) => w.map(() => Number.NaN));
      expect(await foldModes(tiles, none, { ...options, onBadSource: 'skip' })).toBeUndefined();
    });
  });

  it('leave the weights as they are', async () => {
    const shape = [5, 7] as const;
    const weights = planted(4, shape, 29);
    const before = weights.map((w) => w.slice());
    await withTiles(async (tiles) => {
      await foldModes(tiles, weights, { rank: 4, block: 2, shape, modes: BOTH });
    });
    expect(weights).toEqual(before);
  });
});

describe('modelsAtOnce', () => {
  it('divides the block, so that blocks may be cut anywhere it says', () => {
    for (const block of [1, 7, 12, 32]) {
      for (const features of [10, 2 ** 20, 2 ** 22, 2 ** 25]) {
        const atOnce = modelsAtOnce(features, block);
        expect(block % atOnce).toBe(0);
        expect(atOnce === 1 || atOnce * features <= 2 ** 25).toBe(true);
      }
    }
  });
});
