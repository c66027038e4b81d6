// Near-duplicates and effective counts, over Gram matrices that a device made of adapters' factors.
import { describe, expect, it } from 'vitest';
import { effectiveModels } from '../../operators/effective-models.ts';
import { factoredGram } from '../../operators/factored-gram.ts';
import { nearDuplicates } from '../../operators/near-duplicates.ts';
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import { plantedAdapters, sourceOf } from './adapters.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

/** Rounded to bfloat16, to the nearest, ties to even. */
const bfloat16 = (values: Float32Array): Float32Array => {
  const bits = new Uint32Array(values.slice().buffer);
  for (let i = 0; i < bits.length; i++) bits[i] = ((bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) >>> 16) << 16;
  return new Float32Array(bits.buffer);
};

const moved = (factors: AdapterFactors, by: number, seed: number): AdapterFactors => {
  const normal = normals(seed);
  return { ...factors, left: factors.left.map((value) => value * (1 + by * normal())) };
};

/** The same ΔW by other factors: the first vector of one side doubled, of the other halved. */
const regauged = (factors: AdapterFactors): AdapterFactors => ({
  ...factors,
  left: factors.left.map((value, i) => (i % factors.rank === 0 ? value * 2 : value)),
  right: factors.right.map((value, i) => (i < factors.cols ? value / 2 : value)),
});

const rounded = (factors: AdapterFactors): AdapterFactors => ({
  ...factors,
  left: bfloat16(factors.left),
  right: bfloat16(factors.right),
});

describe.each(devices)('near-duplicates on $name', ({ open }) => {
  const found = async (adapters: readonly AdapterFactors[]) => {
    const tiles = await open();
    const gram = await factoredGram(sourceOf(adapters), { tiles, memory: 2 ** 30 });
    await tiles.close();
    return nearDuplicates(gram);
  };

  it('are exact copies, copies in bfloat16 and in another gauge, and nothing else', async () => {
    const own = plantedAdapters([48, 40], Array(30).fill(4), 8);
    const planted = [
      ...own,
      own[3]!,
      rounded(own[7]!),
      regauged(own[7]!),
      moved(own[9]!, 0.02, 1),
      moved(own[11]!, 0.2, 2),
    ];
    const { duplicateOf, unresolved } = await found(planted);
    const truth = new Int32Array(35).fill(-1);
    truth.set([3, 7, 7, 9], 30);
    expect(duplicateOf).toEqual(truth);
    expect(unresolved).toBe(0);
  });

  it('are measured from the mean: what all share does not make them alike', async () => {
    // Half of every ΔW and more is the same; relative to their norms models are close, relative to their spread they are not.
    const adapters = plantedAdapters([30, 20], Array(20).fill(4), 5, 60);
    expect((await found(adapters)).duplicateOf.every((original) => original === -1)).toBe(true);
  });

  it('are not named where rounding hides the distances', async () => {
    const [one] = plantedAdapters([30, 20], [4], 5);
    const adapters = Array.from({ length: 6 }, (_, i) => moved(one!, 1e-4, i + 1));
    const { duplicateOf, unresolved } = await found(adapters);
    expect(unresolved).toBe(15);
    expect(duplicateOf.every((original) => original === -1)).toBe(true);
  });

  it('are none of one model', async () => {
    expect(await found(plantedAdapters([6, 5], [2], 1))).toEqual({ duplicateOf: Int32Array.of(-1), unresolved: 0 });
  });
});

describe('effective models', () => {
  const none = (models: number) => ({ duplicateOf: new Int32Array(models).fill(-1) });
  const all = (models: number): number[] => [...Array(models).keys()];

  it.each([
    ['all apart', 12, [], 12, 12],
    ['all of one start', 12, [all(12)], 1, 1],
    ['two halves', 12, [all(12).slice(0, 6), all(12).slice(6)], 2, 2],
    // 500² / (195² + 305).
    ['39% of 500', 500, [all(195)], 306, 250_000 / 38_330],
    ['nothing', 0, [], 0, 0],
  ] as const)('%s', (_, models, groups, starts, effective) => {
    expect(effectiveModels(all(models), { groups }, none(models))).toEqual({ starts, effective });
  });

  it('counts copies with what they are copies of, in whatever group, and only models of the slot', () => {
    const duplicateOf = Int32Array.of(-1, -1, -1, 1, 1, -1, -1);
    const groups = [
      [0, 1],
      [5, 6],
    ];
    expect(effectiveModels(all(7), { groups }, { duplicateOf })).toEqual({ starts: 3, effective: 49 / (16 + 1 + 4) });
    // Two copies of a model that is not in the slot are still copies of each other.
    expect(effectiveModels([2, 3, 4], { groups }, { duplicateOf })).toEqual({ starts: 2, effective: 9 / 5 });
  });
});
