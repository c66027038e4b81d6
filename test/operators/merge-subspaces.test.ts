// Merging states against dense float64: streams with means and shifts of their own, whose exact states are made here by an
// eigendecomposition of their models, and held through a random map. The truth is the same for all models at once.
// Tolerance 1e-9 of the largest eigenvalue: all of it is float64, and the map's condition costs some digits.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import { jsEigenSolver as solve } from '../../operators/linalg/symmetric-eigen.ts';
import { type HeldState, mergeSubspaces } from '../../operators/merge-subspaces.ts';
import { type SubspaceSpec, type SubspaceState, stateRowsFor } from '../../operators/subspace-state.ts';
import { normals } from './planted.ts';

type Vector = Float64Array;

const D = 24;
const dot = (a: Vector, b: Vector): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
const minus = (a: Vector, b: Vector): Vector => a.map((value, i) => value - b[i]!);
const combine = (weights: ArrayLike<number>, rows: readonly Vector[]): Vector => {
  const out = new Float64Array(D);
  rows.forEach((row, j) => {
    for (let i = 0; i < D; i++) out[i] = out[i]! + weights[j]! * row[i]!;
  });
  return out;
};

/** The exact state of some models: rows relative to a shift, at most `cap`, as [m; S] and all that goes with it. */
const stateOf = (models: readonly Vector[], shift: Vector, center: boolean, cap: number) => {
  const n = models.length;
  const shifted = models.map((x) => minus(x, shift));
  const mean = center ? combine(new Float64Array(n).fill(1 / n), shifted) : new Float64Array(D);
  const centred = shifted.map((x) => minus(x, mean));
  const gram = Float64Array.from(centred.flatMap((x) => centred.map((y) => dot(x, y))));
  const { values, vectors } = solve(gram, n);
  const all = values.filter((value) => value > 1e-9 * values[0]!).length;
  const r = Math.min(all, cap);
  const rows = Array.from({ length: r }, (_, j) => combine(vectors.subarray(j * n, (j + 1) * n), centred));
  const eigenvalues = values.slice(0, r);
  const total = values.reduce((a, b) => a + b, 0);
  const state: SubspaceState = {
    models: n,
    eigenvalues,
    total,
    lost: total - eigenvalues.reduce((a, b) => a + b, 0),
    truncation: values[r] ?? 0,
    largestNorm2: shifted.reduce((most, x) => Math.max(most, dot(x, x)), 0),
    rowsDotMean: Float64Array.from(rows, (row) => dot(row, mean)),
    meanNorm2: dot(mean, mean),
    shiftDotMean: -dot(shift, mean),
    shiftNorm2: dot(shift, shift),
    totalUncentred: models.reduce((sum, x) => sum + dot(x, x), 0),
  };
  const directions = rows.map((row, j) => row.map((value) => value / Math.sqrt(eigenvalues[j]!)));
  const coordinates = centred.map((x) => Float64Array.from(directions, (direction) => dot(x, direction)));
  return { state, mean, rows, coordinates, distances: centred.map((x) => dot(x, x)) };
};

const merge = (
  spec: SubspaceSpec,
  streams: readonly (readonly Vector[])[],
  shifts: readonly Vector[],
  seed: number,
) => {
  const normal = normals(seed);
  const parts = streams.map((models, i) => stateOf(models, shifts[i]!, spec.center, stateRowsFor(spec)));
  const rows: Vector[] = [shifts[0]!.map((value) => -value)];
  const held: HeldState[] = parts.map(({ state, mean, rows: own }, i) => {
    const all = [mean, ...own];
    // Every second one through a map, as after rows were added: unit lower triangular, so its inverse is found in place.
    const size = all.length;
    const map = i % 2 === 0 ? null : new Float64Array(size * size);
    const kept: Vector[] = all.map((row) => row.slice());
    if (map !== null)
      for (let a = 0; a < size; a++) {
        map[a * size + a] = 1;
        for (let b = 0; b < a; b++) {
          map[a * size + b] = 0.3 * normal();
          kept[a] = minus(
            kept[a]!,
            kept[b]!.map((value) => map[a * size + b]! * value),
          );
        }
      }
    rows.push(...kept);
    if (i > 0) rows.push(minus(shifts[i]!, shifts[0]!));
    return { state, map };
  });
  const gram = Float64Array.from(rows.flatMap((x) => rows.map((y) => dot(x, y))));
  const merged = mergeSubspaces(spec, held, gram, solve, jsDoubleProduct);
  const width = rows.length - 1;
  const made = Array.from({ length: merged.mix.length / width }, (_, j) =>
    combine(merged.mix.subarray(j * width, (j + 1) * width), rows.slice(1)),
  );
  return { parts, merged, mean: made[0]!, rows: made.slice(1) };
};

const streamsOf = (counts: readonly number[], seed: number, spread = 1) => {
  const normal = normals(seed);
  const vector = (scale: number): Vector => Float64Array.from({ length: D }, () => scale * normal());
  const streams = counts.map((n) => {
    const middle = vector(spread);
    return Array.from({ length: n }, () => vector(1).map((value, i) => value + middle[i]!));
  });
  return { streams, shifts: counts.map(() => vector(2)) };
};

const counts = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 5 });

describe('mergeSubspaces', () => {
  it.each([true, false])('is the state of all models where nothing was dropped: centred %s', (center) => {
    fc.assert(
      fc.property(counts, fc.nat(), (some, seed) => {
        const { streams, shifts } = streamsOf(some, seed);
        const spec = { features: D, rank: 20, center, shiftIsOrigin: !center };
        // Uncentred streams share their origin.
        const origins = center ? shifts : shifts.map(() => new Float64Array(D));
        const all = streams.flat();
        const truth = stateOf(all, origins[0]!, center, 40);
        const { parts, merged, mean, rows } = merge(spec, streams, origins, seed);
        const { state, carries } = merged;
        const scale = Math.max(truth.state.eigenvalues[0] ?? 0, truth.state.largestNorm2);
        const near = (found: number, expected: number): void =>
          expect(Math.abs(found - expected) / scale).toBeLessThan(1e-9);
        expect(state.models).toBe(all.length);
        expect(state.eigenvalues).toHaveLength(truth.state.eigenvalues.length);
        state.eigenvalues.forEach((value, j) => void near(value, truth.state.eigenvalues[j]!));
        for (const key of ['total', 'lost', 'meanNorm2', 'shiftDotMean', 'shiftNorm2', 'totalUncentred'] as const)
          near(state[key], truth.state[key]);
        mean.forEach((value, i) => void near(value, truth.mean[i]!));
        rows.forEach((row, j) => {
          near(state.rowsDotMean[j]!, dot(row, mean));
          rows.forEach((other, l) => void near(dot(row, other), j === l ? state.eigenvalues[j]! : 0));
        });
        // Coordinates and distances of all models, moved along, are those about the mean of all.
        let at = 0;
        for (const [i, part] of parts.entries()) {
          const { rotation, offset, gradient, constant } = carries[i]!;
          const l = rows.length;
          for (const [m, c] of part.coordinates.entries()) {
            const x = minus(minus(all[at]!, origins[0]!), truth.mean);
            rows.forEach((row, j) => {
              let moved = offset[j]!;
              for (let k = 0; k < c.length; k++) moved += c[k]! * rotation[k * l + j]!;
              const s = Math.sqrt(state.eigenvalues[j]!);
              near(moved * s, dot(x, row));
            });
            near(part.distances[m]! + dot(gradient, c) + constant, dot(x, x));
            at++;
          }
        }
      }),
      { numRuns: 60, seed: 11 },
    );
  });

  it('stays below the truth by no more than it says where states were truncated', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 2, max: 12 }), { minLength: 2, maxLength: 5 }), fc.nat(), (some, seed) => {
        const { streams, shifts } = streamsOf(some, seed, 0.3);
        const spec = { features: D, rank: 2, center: true, shiftIsOrigin: false };
        const truth = stateOf(streams.flat(), shifts[0]!, true, 40).state;
        const { state } = merge(spec, streams, shifts, seed).merged;
        expect(state.eigenvalues.length).toBeLessThanOrEqual(stateRowsFor(spec));
        const slack = 1e-9 * truth.eigenvalues[0]!;
        state.eigenvalues.forEach((value, j) => {
          expect(value).toBeLessThanOrEqual(truth.eigenvalues[j]! + slack);
          expect(value + state.truncation).toBeGreaterThanOrEqual(truth.eigenvalues[j]! - slack);
        });
        expect(Math.abs(state.total - truth.total)).toBeLessThan(1e-9 * truth.total);
        const kept = state.eigenvalues.reduce((a, b) => a + b, 0);
        expect(Math.abs(kept + state.lost - state.total)).toBeLessThan(1e-9 * truth.total);
      }),
      { numRuns: 60, seed: 12 },
    );
  });

  it('of frequent directions stays below the scatter by no more than it says, in any direction', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 2, max: 12 }), { minLength: 2, maxLength: 5 }), fc.nat(), (some, seed) => {
        const { streams, shifts } = streamsOf(some, seed, 0.3);
        const spec = {
          features: D,
          rank: 2,
          center: true,
          shiftIsOrigin: false,
          engine: 'frequent-directions',
        } as const;
        const all = streams.flat();
        const truth = stateOf(all, shifts[0]!, true, 40);
        const { merged, rows, mean } = merge(spec, streams, shifts, seed);
        const { state } = merged;
        expect(state.eigenvalues.length).toBeLessThanOrEqual(stateRowsFor(spec));
        rows.forEach((row, j) => {
          expect(Math.abs(dot(row, row) - state.eigenvalues[j]!)).toBeLessThan(1e-9 * truth.state.eigenvalues[0]!);
        });
        // ‖AᵀA − SᵀS‖₂; and of B, which is less what is withheld, that it is nowhere too large.
        const centred = all.map((x) => minus(minus(x, shifts[0]!), mean));
        const difference = new Float64Array(D * D);
        for (const [sign, some] of [
          [1, centred],
          [-1, rows],
        ] as const)
          for (const x of some)
            for (let a = 0; a < D; a++)
              for (let b = 0; b < D; b++) difference[a * D + b] = difference[a * D + b]! + sign * x[a]! * x[b]!;
        const slack = 1e-9 * truth.state.eigenvalues[0]!;
        const ofRows = solve(difference, D).values;
        expect(ofRows[0]!).toBeLessThanOrEqual(state.truncation + slack);
        expect(-ofRows[D - 1]!).toBeLessThanOrEqual(state.truncation + slack);
        const { certain, withheld } = state.shrunk!;
        const r = rows.length;
        const units = rows.map((row, j) => row.map((value) => value / Math.sqrt(state.eigenvalues[j]!)));
        for (let j = 0; j < r; j++)
          for (let l = 0; l < r; l++)
            for (let a = 0; a < D; a++)
              for (let b = 0; b < D; b++)
                difference[a * D + b] = difference[a * D + b]! + withheld[j * r + l]! * units[j]![a]! * units[l]![b]!;
        const { values } = solve(difference, D);
        expect(values[0]!).toBeLessThanOrEqual(state.truncation + slack);
        expect(values[D - 1]!).toBeGreaterThanOrEqual(-slack);
        for (let j = 0; j < r; j++) {
          expect(certain[j]!).toBeLessThanOrEqual(state.eigenvalues[j]! + slack);
          expect(certain[j]! + state.truncation).toBeGreaterThanOrEqual(state.eigenvalues[j]! - slack);
        }
        const kept = state.eigenvalues.reduce((a, b) => a + b, 0);
        expect(Math.abs(kept + state.lost - state.total)).toBeLessThan(1e-9 * state.total);
      }),
      { numRuns: 60, seed: 13 },
    );
  });

  it('bounds a direction that every stream has forgotten, though it is the largest of all', () => {
    const along = (axis: number, length: number): Vector =>
      Float64Array.from({ length: D }, (_, i) => (i === axis ? length : 0));
    // Each stream has one direction more than its state keeps, the last one, which is none of the others'.
    const keeps = stateRowsFor({ rank: 1, features: D });
    const streams = [0, D - 1 - keeps].map((first) =>
      Array.from({ length: keeps + 1 }, (_, j) => {
        const length = Math.sqrt(j === keeps ? 0.3 : 0.5);
        return [along(j === keeps ? D - 1 : first + j, length), along(j === keeps ? D - 1 : first + j, -length)];
      }).flat(),
    );
    const spec = { features: D, rank: 1, center: true, shiftIsOrigin: false };
    const { state } = merge(spec, streams, Array(2).fill(new Float64Array(D)), 1).merged;
    // What both have is 2 long now; 1.2 along the last axis, of which the streams kept nothing.
    expect(state.eigenvalues[0]!).toBeCloseTo(2, 9);
    const last = state.eigenvalues.at(-1)!;
    expect(last).toBeCloseTo(1, 9);
    expect(state.total).toBeCloseTo(2 * keeps + 1.2, 9);
    expect(last + state.truncation).toBeGreaterThanOrEqual(1.2);
  });

  it('knows no direction where every model is the same', () => {
    const { streams, shifts } = streamsOf([1], 5);
    const one = streams[0]![0]!;
    const spec = { features: D, rank: 4, center: true, shiftIsOrigin: false };
    const { state } = merge(spec, [[one, one], [one], [one, one, one]], [shifts[0]!, shifts[0]!, shifts[0]!], 1).merged;
    expect(state.eigenvalues).toHaveLength(0);
    expect(state.total).toBeLessThan(1e-12 * dot(one, one));
  });
});
