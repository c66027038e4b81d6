// The Gram matrix of adapters from their factors, on every device, against dense ΔW in float64. Tolerance 1e-6 of the largest
// eigenvalue (and diagonal entry): float32 products reach about 1e-7 of it.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exactSpectrum } from '../../operators/exact-spectrum.ts';
import { adapterRuns, bytesAVector } from '../../operators/factor-stack.ts';
import { factoredGram, factoredGramBytes } from '../../operators/factored-gram.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { deltaOf, gramOf, meanOf, plantedAdapters, type Shape, shuffled, sourceOf } from './adapters.ts';
import { devices } from './devices.ts';

const AMPLE = 2 ** 30;

const cases: readonly (readonly [string, Shape, readonly number[], number])[] = [
  ['one rank', [24, 18], Array(12).fill(4), 0],
  ['ranks 0 to 9 in one run', [20, 33], [4, 8, 0, 1, 9, 4, 0, 2, 8, 3], 0],
  ['one adapter', [16, 8], [3], 0],
  ['nothing at all', [6, 7], [0, 0, 0], 0],
  ['ranks that fill several blocks', [40, 30], Array.from({ length: 70 }, (_, i) => 4 + (i % 17)), 0],
  ['an adapter of more vectors than a block', [12, 10], [3, 600, 5, 520, 0], 0],
  ['adapters that share most of what they are', [30, 20], Array(20).fill(4), 3],
  ['longer vectors than a chunk', [9000, 6], [2, 3, 4, 2], 0],
];

describe.each(devices)('the factored Gram on $name', ({ open }) => {
  it.each(cases)('equals the dense one: %s', async (_, shape, ranks, common) => {
    const adapters = plantedAdapters(shape, ranks, 5, common);
    const tiles = await open();
    const { values, models, shiftSum } = await factoredGram(sourceOf(adapters), { tiles, memory: AMPLE });
    const deltas = adapters.map(deltaOf);
    const truth = gramOf(deltas);
    const n = adapters.length;
    const size = 3 + n;
    const largest = Math.max(...truth, 1e-30);
    expect([models, shiftSum, values.length]).toEqual([n, 0, size * size]);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        expect(Math.abs(values[(3 + i) * size + 3 + j]! - truth[i * n + j]!) / largest).toBeLessThan(1e-6);
      }
      const entries = deltas[i]!.reduce((a, b) => a + b, 0);
      const magnitude = deltas[i]!.reduce((a, b) => a + Math.abs(b), 1e-30);
      expect(Math.abs(values[3 + i]! - entries) / magnitude).toBeLessThan(1e-12);
      expect(values[(3 + i) * size]).toBe(values[3 + i]);
      // Neither the shift nor the mean is anything.
      expect([values[(3 + i) * size + 1], values[(3 + i) * size + 2]]).toEqual([0, 0]);
    }
    expect(values[0]).toBe(shape[0] * shape[1]);
    if (largest < 1e-20) return;
    const spec = { features: shape[0] * shape[1], rank: 4, center: true, shiftIsOrigin: true };
    const { state, norm2 } = await exactSpectrum(spec, { values, models, shiftSum }, 4, tiles);
    const mean = meanOf(deltas);
    const centred = deltas.map((delta) => delta.map((value, l) => value - mean[l]!));
    const exact = gramOf(centred);
    const eigenvalues = jsEigenSolver(exact, n).values;
    // Of a shared ΔW the centring takes most away: what is left is that much less exact, as the noise floor says.
    const scale = common === 0 ? Math.max(eigenvalues[0]!, 1e-30) : Math.max(largest, eigenvalues[0]!);
    state.eigenvalues.forEach((value, j) => {
      expect(Math.abs(value - Math.max(eigenvalues[j]!, 0)) / (n === 1 ? 1 : scale)).toBeLessThan(1e-6);
    });
    norm2.forEach((value, i) => {
      expect(Math.abs(value - exact[i * n + i]!) / largest).toBeLessThan(2e-6);
    });
    await tiles.close();
  });

  it('is the same to the last bit whatever the memory, and takes what it says', async () => {
    const ranks = Array.from({ length: 260 }, (_, i) => 5 + (i % 9));
    const adapters = plantedAdapters([31, 26], ranks, 9);
    const tiles = await open();
    const whole = sourceOf(adapters);
    const { values } = await factoredGram(whole, { tiles, memory: AMPLE });
    // All are read once, in order.
    expect(whole.asked[0]![0]).toBe(0);
    expect(whole.asked.at(-1)![1]).toBe(260);
    for (let i = 1; i < whole.asked.length; i++) expect(whole.asked[i]![0]).toBe(whole.asked[i - 1]![1]);
    const a = bytesAVector(whole);
    for (const memory of [0, 2 * 520 * a, 2 * 1100 * a]) {
      const source = sourceOf(adapters);
      const some = await factoredGram(source, { tiles, memory });
      expect(some.values).toEqual(values);
      expect(source.asked.length).toBeGreaterThan(whole.asked.length);
      expect(factoredGramBytes(source, { memory })).toBeLessThanOrEqual(Math.max(memory, 2 * 512 * a));
    }
    await tiles.close();
  });

  it('is the same to the last bit whatever the order in which threads take the work', async () => {
    const adapters = plantedAdapters(
      [64, 50],
      Array.from({ length: 150 }, (_, i) => 6 + (i % 5)),
      4,
    );
    const tiles = await open();
    const plain = await factoredGram(sourceOf(adapters), { tiles, memory: AMPLE });
    const other = await factoredGram(sourceOf(adapters), { tiles: shuffled(tiles, 3), memory: AMPLE });
    expect(other.values).toEqual(plain.values);
    await tiles.close();
  });

  it('names the adapter whose factors are not as announced', async () => {
    const adapters = plantedAdapters([8, 8], [2, 3], 1);
    const source = { ...sourceOf(adapters), ranks: [2, 4] };
    const tiles = await open();
    await expect(factoredGram(source, { tiles, memory: AMPLE })).rejects.toThrow(
      /layer\.0\.q_proj: adapter 1 has factors of 8 x 3 x 8 .* expected 8 x 4 x 8/,
    );
    await tiles.close();
  });

  it('does not let what is no number through', async () => {
    const adapters = plantedAdapters([8, 8], [2, 3], 1);
    adapters[1]!.left[5] = Number.NaN;
    const tiles = await open();
    await expect(factoredGram(sourceOf(adapters), { tiles, memory: AMPLE })).rejects.toThrow(/q_proj.*not finite/);
    await tiles.close();
  });
});

it('runs of adapters hold at most so many vectors, or one adapter, and all of them in order', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(40)), fc.integer({ min: 1, max: 60 }), (ranks, most) => {
      const runs = adapterRuns(ranks, most);
      expect(runs.flatMap(({ from, to }) => ranks.slice(from, to))).toEqual(ranks);
      for (const { from, to } of runs) {
        const sum = ranks.slice(from, to).reduce((a, b) => a + b, 0);
        expect(to - from === 1 || sum <= most).toBe(true);
        expect(to).toBeGreaterThan(from);
      }
    }),
  );
});
