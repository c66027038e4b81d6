// What frequent directions promises, measured: ‖AᵀA − SᵀS‖₂ (A the models about their mean, S the state's rows) never exceeds
// the stored bound, whatever the stream, and the bound never exceeds ‖A − A_j‖²_F / (ℓ + 1 − j). Both hold but for float32
// (`roundingTerm`). The axis-aligned streams are those on which a truncated SVD fails: Desai, Ghashami & Phillips 2015
// (arXiv 1501.06561), sec. 2.
import { expect, it } from 'vitest';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { eigenvalueSlack, roundingTerm, type StreamingEngine } from '../../operators/subspace-state.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { devices } from './devices.ts';
import { exactSpectrum, foldRows, normals } from './planted.ts';

interface Stream {
  readonly rank: number;
  readonly block: number;
  readonly center: boolean;
  readonly rows: readonly Float32Array[];
}

interface Measured {
  /** ‖AᵀA − SᵀS‖₂ */
  readonly error: number;
  readonly truncation: number;
  /** Of every eigenvalue in its interval: how far outside it the true one lies; 0 inside. */
  readonly outside: number;
  readonly rounding: number;
  /** min over j of ‖A − A_j‖²_F / (ℓ + 1 − j). */
  readonly promise: number;
  readonly largest: number;
}

const measure = async (tiles: Tiles, engine: StreamingEngine, stream: Stream): Promise<Measured> => {
  const { rows, rank, block, center } = stream;
  const { state, rows: held } = await foldRows(tiles, rows, { engine, rank, block, center });
  const truth = exactSpectrum(rows, center);
  const features = rows[0]!.length;
  const difference = new Float64Array(features * features);
  const add = (at: (i: number) => number, sign: number): void => {
    for (let i = 0; i < features; i++) {
      const x = sign * at(i);
      for (let j = 0; j < features; j++) difference[i * features + j] = difference[i * features + j]! + x * at(j);
    }
  };
  for (const row of rows) add((i) => row[i]! - truth.mean[i]!, 1);
  for (const row of held) add((i) => row[i]!, -1);
  const { values } = jsEigenSolver(difference, features);
  const most = Math.min(2 * rank, features);
  let promise = Infinity;
  let rest = truth.total;
  for (let j = 0; j <= most; j++) {
    promise = Math.min(promise, rest / (most + 1 - j));
    rest -= Math.max(truth.eigenvalues[j] ?? 0, 0);
  }
  const rounding = roundingTerm(state);
  let outside = 0;
  state.eigenvalues.forEach((value, j) => {
    const exact = truth.eigenvalues[j]!;
    outside = Math.max(outside, value - rounding - exact, exact - value - eigenvalueSlack(state));
  });
  return {
    error: Math.max(values[0]!, -values.at(-1)!),
    truncation: state.truncation,
    outside,
    rounding,
    promise,
    largest: truth.eigenvalues[0]!,
  };
};

/** Drawn anew for every seed: sizes, rank, block, centred or not, and a spectrum between flat and steep. */
const randomStream = (seed: number): Stream => {
  const normal = normals(seed);
  const whole = (least: number, most: number): number =>
    least + Math.floor((Math.abs(normal()) * 7919) % (most - least + 1));
  const features = whole(6, 36);
  const decay = whole(0, 3) / 2;
  const drift = whole(0, 2) / 20;
  const rows = Array.from({ length: whole(12, 70) }, (_, i) =>
    // Entries fall off as 1/j^decay, and which of them is the largest moves along with the stream.
    Float32Array.from(
      { length: features },
      (_, j) => normal() / (1 + ((j + Math.floor(drift * i)) % features)) ** decay,
    ),
  );
  return { rank: whole(1, 8), block: whole(1, 16), center: whole(0, 1) === 1, rows };
};

/**
 * Axis-aligned: 2k strong directions come first, then for a long time models along one more (or two), each too weak to
 * displace any of those. Every model stands beside its negative, so that the mean is zero.
 */
const adversarialStream = (seed: number): Stream => {
  const rank = 2 + (seed % 4);
  const strong = 2 * rank;
  const late = 1 + (seed % 2);
  const features = strong + late + 2;
  const along = (axis: number, length: number): Float32Array[] =>
    [1, -1].map((sign) => Float32Array.from({ length: features }, (_, i) => (i === axis ? sign * length : 0)));
  const rows = [
    ...Array.from({ length: strong }, (_, axis) => along(axis, 4 + 0.1 * ((axis + seed) % 5))),
    ...Array.from({ length: late * (45 + 2 * seed) }, (_, i) => along(strong + (i % late), 1)),
  ].flat();
  return { rank, block: 4 + 2 * (seed % 3), center: seed % 3 !== 0, rows };
};

const seeds = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

it.each(devices)('on $name, 200 random streams stay within the stored bound', async ({ open }) => {
  const tiles = await open();
  try {
    let truncated = 0;
    let closest = 0;
    for (const seed of seeds(200)) {
      const { error, truncation, outside, rounding, promise } = await measure(
        tiles,
        'frequent-directions',
        randomStream(1 + 97 * seed),
      );
      expect(error, `stream ${seed}`).toBeLessThanOrEqual(truncation + rounding);
      expect(truncation, `stream ${seed}`).toBeLessThanOrEqual(promise + rounding);
      expect(outside, `stream ${seed}`).toBe(0);
      if (truncation > rounding) {
        truncated++;
        closest = Math.max(closest, error / truncation);
      }
    }
    // They are streams that say something: most of them are truncated, and some come near the bound.
    expect(truncated).toBeGreaterThan(100);
    expect(closest).toBeGreaterThan(0.9);
  } finally {
    await tiles.close();
  }
});

it.each(devices)('on $name, holds on 20 adversarial streams, on which incremental fails', async ({ open }) => {
  const tiles = await open();
  try {
    for (const seed of seeds(20)) {
      const stream = adversarialStream(seed);
      const directions = await measure(tiles, 'frequent-directions', stream);
      expect(directions.error).toBeLessThanOrEqual(directions.truncation + directions.rounding);
      expect(directions.truncation).toBeLessThanOrEqual(directions.promise + directions.rounding);
      expect(directions.outside).toBe(0);
      // A truncated SVD never sees the late direction, however long it lasts, though it is by far the largest in the end.
      const incremental = await measure(tiles, 'incremental', stream);
      expect(incremental.error).toBeGreaterThan(2 * incremental.promise);
      expect(incremental.error).toBeGreaterThan(2 * directions.error);
    }
  } finally {
    await tiles.close();
  }
});
