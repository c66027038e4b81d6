// The rules behind warnings, as pure functions: the rounding floor against what rounding really does, giants, dtypes.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { emptySubspace } from '../../operators/subspace-state.ts';
import { countDtypes, giants, roundingFloor, scatterOverFloor } from '../../pipeline/find-warnings.ts';
import { widen } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import { normals } from '../operators/planted.ts';
import { safetensorsBytes } from '../sources/write-safetensors.ts';

/** Float32 weights as they read back when stored in a dtype. */
const stored = (dtype: 'BF16' | 'F16' | 'F32', data: Float32Array): Float32Array => {
  const bytes = safetensorsBytes([{ name: 'w', dtype, shape: [data.length], data }]);
  const out = new Float32Array(data.length);
  widen(dtype, bytes.slice(bytes.length - data.length * (dtype === 'F32' ? 4 : 2)), out);
  return out;
};

/** Centred scatter of rows. */
const scatterOf = (rows: readonly Float32Array[]): number => {
  let total = 0;
  for (let i = 0; i < rows[0]!.length; i++) {
    const mean = rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length;
    for (const row of rows) total += (row[i]! - mean) ** 2;
  }
  return total;
};

const norm2 = (row: Float32Array): number => row.reduce((sum, x) => sum + x * x, 0);

describe('the rounding floor', () => {
  const MODELS = 12;
  const FEATURES = 8192;

  it.each([
    ['BF16', 1, 0.05],
    ['BF16', 0.02, 0.05],
    ['BF16', 0.027, 0.05],
    ['F16', 0.02, 0.05],
    ['F16', 1.4, 0.05],
    // Below 6e-5 a float16 is subnormal: its gap stays as it is.
    ['F16', 1e-6, 0.1],
  ] as const)('%s, normal weights of scale %d: the scatter of the errors, within 20%', (dtype, scale, tolerance) => {
    const normal = normals(7);
    const rows = Array.from({ length: MODELS }, () => Float32Array.from({ length: FEATURES }, () => scale * normal()));
    const errors = rows.map((row) => stored(dtype, row).map((x, i) => x - row[i]!));
    const mean = rows.reduce((sum, row) => sum + norm2(row), 0) / MODELS;
    const floor = (1 - 1 / MODELS) * roundingFloor([[dtype, MODELS]], FEATURES, mean);
    expect(Math.abs(scatterOf(errors) / floor - 1)).toBeLessThan(tolerance);
  });

  it('weights of one binade, uniform: within 21%, as the constant says', () => {
    const rows = [1, 1.3, 1.6].map((scale) =>
      Float32Array.from({ length: FEATURES }, (_, i) => (scale * i) / FEATURES),
    );
    for (const row of rows) {
      const error = norm2(stored('BF16', row).map((x, i) => x - row[i]!));
      expect(Math.abs(error / roundingFloor([['BF16', 1]], FEATURES, norm2(row)) - 1)).toBeLessThan(0.21);
    }
  });

  it('each dtype counts for the models that have it', () => {
    const floor = (counts: Parameters<typeof roundingFloor>[0]) => roundingFloor(counts, 100, 1);
    expect(
      floor([
        ['BF16', 1],
        ['F32', 999],
      ]),
    ).toBeCloseTo(floor([['BF16', 1]]), 8);
    const order: Dtype[] = ['F8_E5M2', 'F8_E4M3', 'BF16', 'F16', 'F32'];
    const floors = order.map((dtype) => floor([[dtype, 1]]));
    expect(floors).toEqual([...floors].sort((a, b) => b - a));
    expect(new Set(floors).size).toBe(5);
  });

  it('is about the weights themselves, with a base or without', () => {
    const spec = { features: 100, rank: 4, center: true, shiftIsOrigin: true };
    // ‖mean‖² = 9 about 0; about a base of norm² 4 that is 1 away in its own direction, 1.
    const about0 = { ...emptySubspace, models: 2, total: 1, totalUncentred: 19, meanNorm2: 9 };
    const aboutBase = { ...about0, totalUncentred: 3, meanNorm2: 1, shiftDotMean: -2, shiftNorm2: 4 };
    const [a, b] = [about0, aboutBase].map((state) => scatterOverFloor(spec, state, [['BF16', 2]]));
    expect(a).toBeCloseTo(b!, 10);
    expect(a).toBeCloseTo(1 / (0.5 * 2 * (2 ** -16 / (8 * Math.LN2)) * 9.5), 10);
    expect(scatterOverFloor(spec, { ...about0, models: 1 }, [['BF16', 1]])).toBeNull();
  });
});

it('dtypes are counted, the coarsest first', () => {
  expect(countDtypes(['F32', 'BF16', 'F32', 'F8_E4M3', 'F64'])).toEqual([
    ['F8_E4M3', 1],
    ['BF16', 1],
    ['F32', 2],
    ['F64', 1],
  ]);
  expect(countDtypes([])).toEqual([]);
});

describe('giants', () => {
  it.each([
    ['none', [1, 1, 1, 1], []],
    ['at ten times the median', [1, 1, 100], []],
    ['beyond it', [1, 1, 101, 1], [[2, Math.sqrt(101)]]],
    ['an even number: the median lies between', [1, 9, 401, 1], [[2, Math.sqrt(401) / 2]]],
    ['most are at the mean itself: no median to measure by', [0, 0, 0, 5], []],
    ['nothing at all', [], []],
  ] as const)('%s', (_, values, expected) => {
    const found = giants(Float64Array.from(values)).map(({ at, ratio }) => [at, ratio]);
    expect(found).toEqual(expected);
  });

  it('are beyond ten times the median, all of them, and never half of the models', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 40 }), (values) => {
        const norms = Float64Array.from(values);
        const found = giants(norms);
        const sorted = values.map(Math.sqrt).sort((a, b) => a - b);
        const median = (sorted[(values.length - 1) >> 1]! + sorted[values.length >> 1]!) / 2;
        expect(found.length * 2).toBeLessThanOrEqual(values.length);
        const far = values.filter((value) => median > 0 && Math.sqrt(value) / median > 10).length;
        expect(found).toHaveLength(far);
      }),
    );
  });
});
