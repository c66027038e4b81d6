// Angles known by construction: b_j = cos θ_j a_j + sin θ_j n_j, both bases then turned at random. Tolerance 1e-7 rad, what
// is left of the rounding of float64 inner products (√ε is 1.5e-8), also for angles that arccos alone could not see.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { basisSkew, chanceOverlap, compareBases } from '../../operators/linalg/compare-bases.ts';
import { jsEigenSolver as solve } from '../../operators/linalg/symmetric-eigen.ts';
import { normals } from './planted.ts';

type Rows = Float64Array[];

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

/** k orthonormal rows of length d (Gram-Schmidt, twice). */
const orthonormal = (k: number, d: number, normal: () => number): Rows => {
  const rows: Rows = [];
  while (rows.length < k) {
    let row = Float64Array.from({ length: d }, normal);
    for (let again = 0; again < 2; again++)
      for (const other of rows) {
        const inner = dot(row, other);
        row = row.map((value, i) => value - inner * other[i]!);
      }
    const norm = Math.sqrt(dot(row, row));
    rows.push(row.map((value) => value / norm));
  }
  return rows;
};

/** Another basis of the same span. */
const turned = (rows: Rows, normal: () => number): Rows =>
  orthonormal(rows.length, rows.length, normal).map((weights) =>
    rows[0]!.map((_, i) => weights.reduce((sum, weight, j) => sum + weight * rows[j]![i]!, 0)),
  );

const gram = (a: Rows, b: Rows): Float64Array => Float64Array.from(a.flatMap((x) => b.map((y) => dot(x, y))));

const compare = (a: Rows, b: Rows) => compareBases({ aa: gram(a, a), bb: gram(b, b), ab: gram(a, b) }, solve);

const angle = fc.oneof(
  fc.constantFrom(0, Math.PI / 2, Math.PI / 4),
  fc.double({ min: -7, max: 0.19, noNaN: true }).map((exponent) => Math.min(10 ** exponent, Math.PI / 2)),
);

describe('compareBases', () => {
  it('finds the angles that were planted, in any basis and of unequal dimensions', () => {
    fc.assert(
      fc.property(fc.array(angle, { minLength: 1, maxLength: 6 }), fc.nat(2), fc.nat(), (angles, more, seed) => {
        const normal = normals(seed);
        const q = angles.length;
        const all = orthonormal(2 * q + more, 40, normal);
        const [a, aside] = [all.slice(0, q), all.slice(q, 2 * q)];
        const b = angles.map((theta, j) =>
          a[j]!.map((value, i) => Math.cos(theta) * value + Math.sin(theta) * aside[j]![i]!),
        );
        const wider = [...b, ...all.slice(2 * q)];
        const expected = [...angles].sort((x, y) => x - y);
        for (const [left, right] of [
          [a, wider],
          [wider, a],
        ] as const) {
          const found = compare(turned(left, normal), turned(right, normal));
          expect(found.angles).toHaveLength(q);
          for (const [j, theta] of expected.entries()) expect(Math.abs(found.angles[j]! - theta)).toBeLessThan(1e-7);
          const sum = (of: (theta: number) => number): number => angles.reduce((total, theta) => total + of(theta), 0);
          expect(found.overlap).toBeCloseTo(sum((theta) => Math.cos(theta) ** 2) / q, 12);
          expect(found.grassmann).toBeCloseTo(Math.sqrt(sum((theta) => theta ** 2)), 6);
          expect(found.chordal).toBeCloseTo(Math.sqrt(sum((theta) => Math.sin(theta) ** 2)), 6);
        }
      }),
      { numRuns: 60, seed: 7 },
    );
  });

  it('sees the spans, not the bases: skewed and scaled ones give the same', () => {
    const normal = normals(3);
    const a = orthonormal(4, 30, normal);
    const skewed = a.map((row, j) => row.map((value, i) => value * (1 + j) + 0.1 * a[(j + 1) % 4]![i]!));
    expect(Math.max(...compare(a, skewed).angles)).toBeLessThan(1e-7);
  });

  it('tells what is no basis', () => {
    const a = orthonormal(3, 20, normals(1));
    expect(basisSkew(gram(a, a)).isBasis).toBe(true);
    const rounded = a.map((row) => Float64Array.from(row, Math.fround));
    expect(basisSkew(gram(rounded, rounded)).isBasis).toBe(true);
    expect(basisSkew(gram([a[0]!, a[0]!], [a[0]!, a[0]!]))).toEqual({ skew: expect.closeTo(1), isBasis: false });
    const broken = [a[0]!, a[1]!.map((value, i) => (i === 4 ? Number.NaN : value))];
    expect(basisSkew(gram(broken, broken)).isBasis).toBe(false);
  });
});

describe('chanceOverlap', () => {
  it('is that of a beta distribution in one dimension each', () => {
    // cos² of two random lines: Beta(1/2, (D − 1)/2).
    for (const d of [2, 3, 10, 1000]) {
      const [p, q] = [1 / 2, (d - 1) / 2];
      const { mean, deviation } = chanceOverlap(1, 1, d);
      expect(mean).toBeCloseTo(p / (p + q), 14);
      expect(deviation ** 2).toBeCloseTo((p * q) / ((p + q) ** 2 * (p + q + 1)), 14);
    }
  });

  it('is 1 without doubt where one of them is everything', () => {
    expect(chanceOverlap(4, 9, 9)).toEqual({ mean: 1, deviation: 0, low: 1, high: 1 });
    expect(chanceOverlap(1, 1, 1)).toEqual({ mean: 1, deviation: 0, low: 1, high: 1 });
  });

  it.each([
    [1, 1, 12],
    [2, 5, 30],
    [4, 4, 60],
    [6, 3, 20],
  ])('holds what random subspaces of %i and %i in %i dimensions show', (ka, kb, d) => {
    const normal = normals(ka * 100 + d);
    const draws = 400;
    const overlaps = Array.from(
      { length: draws },
      () => compare(orthonormal(ka, d, normal), orthonormal(kb, d, normal)).overlap,
    );
    const { mean, deviation, low, high } = chanceOverlap(ka, kb, d);
    const average = overlaps.reduce((a, b) => a + b, 0) / draws;
    const spread = Math.sqrt(overlaps.reduce((sum, value) => sum + (value - mean) ** 2, 0) / draws);
    // Four standard errors of a mean; the deviation of 400 draws is good to about 5%, 25% is five of those.
    expect(Math.abs(average - mean)).toBeLessThan((4 * deviation) / Math.sqrt(draws));
    expect(Math.abs(spread / deviation - 1)).toBeLessThan(0.25);
    const inside = overlaps.filter((value) => value >= low && value <= high).length;
    expect(inside / draws).toBeGreaterThanOrEqual(0.95);
  });
});
