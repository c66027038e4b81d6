// The canonical form against ΔW = scale · B A in float64, entry by entry, and against other factors of the same ΔW.
// Tolerance: left and right are float32 with norms √s₁, so their product is within a few 2⁻²⁴ s₁ of ΔW.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import { canonicalAdapter } from '../../sources/canonical-adapter.ts';
import { decodeDelta } from '../../sources/decode-delta.ts';
import { normals } from '../operators/planted.ts';

/** m x n. */
interface Matrix {
  readonly m: number;
  readonly n: number;
  readonly values: Float64Array;
}

const random = (m: number, n: number, seed: number): Matrix => {
  const normal = normals(seed);
  return { m, n, values: Float64Array.from({ length: m * n }, () => normal()) };
};

const times = (a: Matrix, b: Matrix, factor = 1): Matrix => {
  const values = new Float64Array(a.m * b.n);
  for (let i = 0; i < a.m; i++)
    for (let j = 0; j < b.n; j++) {
      let sum = 0;
      for (let l = 0; l < a.n; l++) sum += a.values[i * a.n + l]! * b.values[l * b.n + j]!;
      values[i * b.n + j] = factor * sum;
    }
  return { m: a.m, n: b.n, values };
};

const transposed = ({ m, n, values }: Matrix): Matrix => ({
  m: n,
  n: m,
  values: Float64Array.from({ length: m * n }, (_, i) => values[(i % m) * n + Math.floor(i / m)]!),
});

const diagonal = (values: readonly number[]): Matrix => ({
  m: values.length,
  n: values.length,
  values: Float64Array.from({ length: values.length ** 2 }, (_, i) =>
    i % (values.length + 1) === 0 ? values[i / (values.length + 1)]! : 0,
  ),
});

/** An orthogonal matrix: reflections, one after the other. */
const orthogonal = (n: number, seed: number): Matrix => {
  let q = diagonal(new Array(n).fill(1));
  for (let i = 0; i < n; i++) {
    const { values: v } = random(n, 1, seed + i);
    const norm2 = v.reduce((sum, x) => sum + x * x, 0);
    const reflection = Float64Array.from(
      { length: n * n },
      (_, at) => (at % (n + 1) === 0 ? 1 : 0) - (2 * v[Math.floor(at / n)]! * v[at % n]!) / norm2,
    );
    q = times(q, { m: n, n, values: reflection });
  }
  return q;
};

const productOf = ({ rows, cols, rank, left, right }: AdapterFactors): Float64Array =>
  times({ m: rows, n: rank, values: Float64Array.from(left) }, { m: rank, n: cols, values: Float64Array.from(right) })
    .values;

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, x) => sum + x * x, 0));
const distance = (x: ArrayLike<number>, y: ArrayLike<number>): number =>
  norm(Array.from(x).map((value, i) => value - y[i]!));

const ROUNDING = 4 * 2 ** -24;

describe('left · right is ΔW', () => {
  it.each([
    [40, 30, 4, 2],
    [7, 50, 6, 0.5],
    [50, 7, 6, 16],
    [64, 64, 1, -3],
    [3, 5, 8, 1],
    [200, 100, 33, 1e-3],
  ])('%i x %i, rank %i, scale %d', (rows, cols, rank, scale) => {
    const [a, b] = [random(rank, cols, 1), random(rows, rank, 2)];
    const delta = times(b, a, scale);
    const factors = canonicalAdapter(a.values, b.values, scale, rank);
    expect(factors).toMatchObject({ rows, cols, rank: Math.min(rank, rows, cols) });
    expect(distance(productOf(factors), delta.values)).toBeLessThan(ROUNDING * norm(delta.values));
    // A transposed B, as a wrong reader would take it, is another matrix.
    const turned = canonicalAdapter(a.values, transposed(b).values, scale, rank);
    if (rank > 1) expect(distance(productOf(turned), delta.values)).toBeGreaterThan(0.1 * norm(delta.values));
  });

  it('and (B A)ᵀ where the layer stores its weight so', () => {
    const [a, b] = [random(3, 20, 3), random(12, 3, 4)];
    const factors = canonicalAdapter(a.values, b.values, 2, 3, true);
    const delta = transposed(times(b, a, 2)).values;
    expect(factors).toMatchObject({ rows: 20, cols: 12, rank: 3 });
    expect(distance(productOf(factors), delta)).toBeLessThan(ROUNDING * norm(delta));
  });

  it('with factors split evenly: leftᵀ left and right rightᵀ are diag(s)', () => {
    const [a, b] = [random(5, 40, 5), random(60, 5, 6)];
    const { rows, cols, rank, left, right } = canonicalAdapter(a.values, b.values, 3, 5);
    const l: Matrix = { m: rows, n: rank, values: Float64Array.from(left) };
    const r: Matrix = { m: rank, n: cols, values: Float64Array.from(right) };
    const [first, second] = [times(transposed(l), l).values, times(r, transposed(r)).values];
    for (let i = 0; i < 25; i++) {
      const scale = first[0]!;
      expect(Math.abs(first[i]! - second[i]!)).toBeLessThan(1e-6 * scale);
      if (i % 6 !== 0) expect(Math.abs(first[i]!)).toBeLessThan(1e-6 * scale);
    }
    for (let i = 1; i < 5; i++) expect(first[i * 6]!).toBeLessThanOrEqual(first[(i - 1) * 6]!);
  });

  it('of any factors, decoded from any place on', () => {
    const cases = fc.record({
      rows: fc.integer({ min: 1, max: 30 }),
      cols: fc.integer({ min: 1, max: 30 }),
      rank: fc.integer({ min: 1, max: 9 }),
      seed: fc.nat(1000),
      from: fc.double({ min: 0, max: 1, noNaN: true }),
      to: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    fc.assert(
      fc.property(cases, ({ rows, cols, rank, seed, from, to }) => {
        const [a, b] = [random(rank, cols, seed), random(rows, rank, seed + 1)];
        const delta = times(b, a).values;
        const [start, end] = [from, to].map((x) => Math.round(x * rows * cols)).sort((x, y) => x - y) as [
          number,
          number,
        ];
        const out = new Float32Array(end - start).fill(Number.NaN);
        decodeDelta(canonicalAdapter(a.values, b.values, 1, rank), start, out);
        expect(distance(out, delta.subarray(start, end))).toBeLessThan(8 * 2 ** -24 * norm(delta) * Math.sqrt(rank));
      }),
    );
  });
});

describe('the gauge', () => {
  it.each([1, 1e3, 1e5])('M A and B M⁻¹ give the same, M of condition %d', (condition) => {
    const rank = 6;
    const [a, b] = [random(rank, 50, 7), random(40, rank, 8)];
    const sizes = Array.from({ length: rank }, (_, i) => condition ** (i / (rank - 1)));
    const [u, v] = [orthogonal(rank, 20), orthogonal(rank, 40)];
    const gauge = times(times(u, diagonal(sizes)), v);
    const inverse = times(times(transposed(v), diagonal(sizes.map((size) => 1 / size))), transposed(u));
    const plain = canonicalAdapter(a.values, b.values, 1, rank);
    const gauged = canonicalAdapter(times(gauge, a).values, times(b, inverse).values, 1, rank);
    const delta = times(b, a).values;
    expect(distance(productOf(gauged), productOf(plain))).toBeLessThan(ROUNDING * norm(delta));
    // Float32 factors as they come, without the canonical form, would be off by the condition.
    const raw = times(
      { ...b, values: Float64Array.from(Float32Array.from(times(b, inverse).values)) },
      { ...a, values: Float64Array.from(Float32Array.from(times(gauge, a).values)) },
    );
    if (condition > 1) expect(distance(raw.values, delta)).toBeGreaterThan(ROUNDING * norm(delta));
  });
});

describe('factors of less than their rank', () => {
  it('B = 0, as before training, and A = 0: nothing is left', () => {
    const [a, b] = [random(4, 10, 9).values, random(8, 4, 10).values];
    const nothing = { rows: 8, cols: 10, rank: 0, left: new Float32Array(0), right: new Float32Array(0) };
    expect(canonicalAdapter(a, new Float64Array(32), 1, 4)).toEqual(nothing);
    expect(canonicalAdapter(new Float64Array(40), b, 1, 4)).toEqual(nothing);
    expect(canonicalAdapter(a, b, 0, 4)).toEqual(nothing);
    const out = new Float32Array(80).fill(1);
    decodeDelta(nothing, 0, out);
    expect(out).toEqual(new Float32Array(80));
  });

  it('rows of A that repeat each other', () => {
    const row = random(1, 12, 11).values;
    const a = Float64Array.from({ length: 36 }, (_, i) => row[i % 12]! * (1 + Math.floor(i / 12)));
    const b = random(9, 3, 12);
    const factors = canonicalAdapter(a, b.values, 1, 3);
    const delta = times(b, { m: 3, n: 12, values: a }).values;
    expect(factors.rank).toBe(1);
    expect(distance(productOf(factors), delta)).toBeLessThan(ROUNDING * norm(delta));
  });

  it('numbers whose squares are not there', () => {
    const a = random(2, 5, 13).values.map((value) => value * 1e-160);
    const b = random(4, 2, 14);
    const factors = canonicalAdapter(a, b.values, 1e160, 2);
    const delta = times(b, { m: 2, n: 5, values: a }, 1e160).values;
    expect(distance(productOf(factors), delta)).toBeLessThan(ROUNDING * norm(delta));
  });
});
