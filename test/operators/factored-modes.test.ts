// The modes rows and cols of adapters from their factors, on every device, against the scatter matrix of dense ΔW made in
// float64 by plain loops. Tolerance 1e-6 of the largest eigenvalue: float32 products reach about 1e-7 of it.
import { afterEach, describe, expect, it, vi } from 'vitest';
import { factoredModes, factoredModesBytes, stackedRuns } from '../../operators/factored-modes.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { SideMode } from '../../operators/scatter-tasks.ts';
import { deltaOf, meanOf, plantedAdapters, type Shape, shuffled, sourceOf } from './adapters.ts';
import { devices } from './devices.ts';

const BOTH: readonly SideMode[] = ['rows', 'cols'];

/** Σ of x xᵀ over a mode's samples of centred ΔW, float64. */
const scatterOf = (centred: readonly Float64Array[], [rows, cols]: Shape, mode: SideMode): Float64Array => {
  const [side, count, step, next] = mode === 'rows' ? [cols, rows, 1, cols] : [rows, cols, cols, 1];
  const matrix = new Float64Array(side * side);
  for (const delta of centred) {
    for (let s = 0; s < count; s++) {
      for (let a = 0; a < side; a++) {
        const x = delta[s * next + a * step]!;
        for (let b = 0; b < side; b++) matrix[a * side + b] = matrix[a * side + b]! + x * delta[s * next + b * step]!;
      }
    }
  }
  return matrix;
};

const squares = (x: Float64Array): number => x.reduce((sum, value) => sum + value * value, 0);

const cases: readonly (readonly [string, Shape, readonly number[], number])[] = [
  ['one rank', [24, 18], Array(12).fill(4), 0],
  ['ranks 0 to 9 in one run', [20, 33], [4, 8, 0, 1, 9, 4, 0, 2, 8, 3], 0],
  ['one adapter', [16, 8], [3], 0],
  ['nothing at all', [6, 7], [0, 0, 0], 0],
  ['more vectors than weights of a side', [12, 10], [3, 60, 5, 52, 0], 0],
  ['adapters that share some of what they are', [30, 20], Array(20).fill(4), 1],
  ['a side of several blocks', [9, 530], [2, 3, 4, 2], 0],
];

afterEach(() => void vi.unstubAllGlobals());

describe.each(devices)('factored modes on $name', ({ open }) => {
  describe.each([true, false])('centred: %s', (center) => {
    it.each(cases)('equal the truth: %s', async (_, shape, ranks, common) => {
      const adapters = plantedAdapters(shape, ranks, 5, common);
      const tiles = await open();
      const rank = 6;
      const found = await factoredModes(sourceOf(adapters), { modes: BOTH, rank, tiles, center });
      const deltas = adapters.map(deltaOf);
      const mean = center ? meanOf(deltas) : new Float64Array(shape[0] * shape[1]);
      const centred = deltas.map((delta) => delta.map((value, l) => value - mean[l]!));
      const n = adapters.length;
      const raw = deltas.reduce((sum, delta) => sum + squares(delta), 0);
      for (const { mode, side, samples, eigenvalues, total, directions, rank: kept } of found.spectra) {
        const matrix = scatterOf(centred, shape, mode);
        const truth = jsEigenSolver(matrix, side).values;
        const trace = truth.reduce((a, b) => a + b, 0);
        // One adapter is its own mean: what is left is what rounding leaves of it.
        const largest = n === 1 && center ? raw : Math.max(truth[0]!, 1e-30);
        expect(samples).toBe(n * (mode === 'rows' ? shape[0] : shape[1]));
        eigenvalues.forEach((value, j) => {
          expect(Math.abs(value - truth[j]!) / largest).toBeLessThan(1e-6);
        });
        expect(Math.abs(total - trace) / Math.max(raw, 1e-30)).toBeLessThan(1e-6);
        const there = truth.slice(0, rank).filter((value) => value > 1e-5 * largest).length;
        expect(kept).toBe(n === 1 && center ? 0 : there);
        const { energies } = found.energies!.modes.find((other) => other.mode === mode)!;
        const { stepAt, nextAt, count } =
          mode === 'rows'
            ? { stepAt: 1, nextAt: shape[1], count: shape[0] }
            : { stepAt: shape[1], nextAt: 1, count: shape[1] };
        for (let j = 0; j < kept; j++) {
          const v = directions.subarray(j * side, (j + 1) * side);
          expect(v.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0)).toBeGreaterThan(0);
          for (let a = 0; a < side; a++) {
            let inner = 0;
            for (let b = 0; b < side; b++) inner += matrix[a * side + b]! * v[b]!;
            expect(Math.abs(inner - eigenvalues[j]! * v[a]!) / largest).toBeLessThan(1e-5);
          }
          centred.forEach((delta, i) => {
            let energy = 0;
            for (let s = 0; s < count; s++) {
              let inner = 0;
              for (let a = 0; a < side; a++) inner += delta[s * nextAt + a * stepAt]! * v[a]!;
              energy += inner ** 2;
            }
            expect(Math.abs(energies[i * kept + j]! - energy) / largest).toBeLessThan(1e-6);
          });
        }
      }
      deltas.forEach((delta, i) => {
        const own = squares(delta);
        expect(Math.abs(found.rawNorm2[i]! - own)).toBeLessThanOrEqual(1e-12 * own);
        const scale = own + squares(mean);
        expect(Math.abs(found.energies!.norm2[i]! - squares(centred[i]!))).toBeLessThanOrEqual(1e-6 * scale);
        const entry = delta.reduce((a, b) => a + b, 0) / delta.length;
        expect(Math.abs(found.meanEntry[i]! - entry)).toBeLessThanOrEqual(1e-12 * Math.sqrt(own));
      });
      expect(found.mean === null).toBe(!center);
      found.mean?.forEach((value, l) => {
        expect(Math.abs(value - mean[l]!)).toBeLessThanOrEqual(1e-6 * Math.max(...mean.map(Math.abs)));
      });
      await tiles.close();
    });
  });

  it('says how much less exact a spectrum is when the mean is most of every adapter', async () => {
    const adapters = plantedAdapters([30, 20], Array(20).fill(4), 5, 60);
    const tiles = await open();
    const { spectra } = await factoredModes(sourceOf(adapters), { modes: ['rows'], rank: 4, tiles, energies: false });
    const deltas = adapters.map(deltaOf);
    const mean = meanOf(deltas);
    const matrix = scatterOf(
      deltas.map((delta) => delta.map((value, l) => value - mean[l]!)),
      [30, 20],
      'rows',
    );
    const truth = jsEigenSolver(matrix, 20).values;
    const { eigenvalues, rounding } = spectra[0]!;
    expect(rounding).toBeGreaterThan(2e-6 * truth[0]!);
    eigenvalues.forEach((value, j) => {
      expect(Math.abs(value - truth[j]!)).toBeLessThan(rounding);
    });
    await tiles.close();
  });

  it('takes the distances that a Gram matrix has told', async () => {
    const adapters = plantedAdapters([12, 10], [3, 4, 2], 5);
    const tiles = await open();
    const norm2 = Float64Array.of(7, 8, 9);
    const { energies } = await factoredModes(sourceOf(adapters), { modes: ['cols'], rank: 2, tiles, norm2 });
    expect(energies!.norm2).toEqual(norm2);
    expect(energies!.norm2).not.toBe(norm2);
    await tiles.close();
  });

  it('takes the memory that it says', async () => {
    let bytes = 0;
    class Counted extends SharedArrayBuffer {
      constructor(length: number) {
        super(length);
        bytes += length;
      }
    }
    const tiles = await open();
    const source = sourceOf(plantedAdapters([60, 40], Array(30).fill(5), 3));
    const options = { modes: BOTH, rank: 4 };
    vi.stubGlobal('SharedArrayBuffer', Counted);
    await factoredModes(source, { ...options, tiles });
    expect(bytes).toBe(factoredModesBytes(source, options));
    bytes = 0;
    await factoredModes(source, { ...options, tiles, center: false, energies: false });
    expect(bytes).toBeLessThanOrEqual(factoredModesBytes(source, { ...options, center: false }));
    await tiles.close();
  });

  it('is the same to the last bit whatever the order in which threads take the work', async () => {
    const ranks = Array.from({ length: 520 }, (_, i) => 14 + (i % 6));
    const adapters = plantedAdapters([20, 14], ranks, 4);
    const source = sourceOf(adapters);
    expect(stackedRuns(source).length).toBeGreaterThan(1);
    const tiles = await open();
    const options = { modes: BOTH, rank: 3 } as const;
    const plain = await factoredModes(sourceOf(adapters), { ...options, tiles });
    const other = await factoredModes(sourceOf(adapters), { ...options, tiles: shuffled(tiles, 3) });
    expect(other).toEqual(plain);
    await tiles.close();
  });

  it('does not let what is no number through, nor no adapters at all', async () => {
    const adapters = plantedAdapters([8, 8], [2, 3], 1);
    adapters[1]!.left[5] = Number.NaN;
    const tiles = await open();
    const options = { modes: BOTH, rank: 2, tiles };
    await expect(factoredModes(sourceOf(adapters), options)).rejects.toThrow(/q_proj.*not finite/);
    const none = { ...sourceOf(adapters), ranks: [] };
    await expect(factoredModes(none, options)).rejects.toThrow(/at least one adapter/);
    await tiles.close();
  });
});
