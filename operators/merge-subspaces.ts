// The states of several streams as the state of all their models, in coefficient space: from the Gram matrix of all rows
// that the states hold to the mixing matrix that makes the merged state. Float64 algebra, as in update-subspace.ts: the
// scatter of all models is that of each stream about its own mean, and that of the means about theirs. For two streams the
// latter is one row, c (m_a − m_b) with c² = n_a n_b / n; for p streams p − 1 rows, c_t (mean of the first t − m_{t+1}).
// Streams have shifts of their own: a row more each, by which its shift lies from the first one's.
// Source: Ross, Lim, Lin & Yang 2008, sec. 2.1.1, with a block that is known by its own mean and scatter; sketches of frequent
// directions are merged by shrinking what they hold together (Ghashami, Liberty, Phillips & Woodruff 2016, sec. 3).
// Cost O(R³) for R rows in all.
import { type KeptRows, keepRows } from './keep-rows.ts';
import { type DoubleProduct, productOf } from './linalg/dense-products.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { symmetrise } from './linalg/symmetrise.ts';
import { maxStateRows, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
import type { CoordinateCarry } from './update-subspace.ts';

/** A state and how its rows are held: [m; S] = R Y, R null for the identity (stored-rows.ts). */
export interface HeldState {
  readonly state: SubspaceState;
  readonly map: Float64Array | null;
}

/** Rows of a part among those that are multiplied: what it holds for [m; S], and behind all but the first its shift's row. */
export const rowsOfPart = ({ state }: HeldState, index: number): number =>
  1 + state.eigenvalues.length + (index > 0 ? 1 : 0);

export interface MergedSubspace {
  readonly state: SubspaceState;
  /** (1 + ℓ) x R, row-major: the merged [m; S], relative to the first part's shift, out of all rows but the first. */
  readonly mix: Float64Array;
  /** How what is known of each part's models moves (update-subspace.ts). */
  readonly carries: readonly CoordinateCarry[];
}

/**
 * @param parts each of one model at least
 * @param gram (1 + R) x (1 + R), symmetric, over the rows [−shift of the first; Y of the first; Y and shift row of others]
 */
export const mergeSubspaces = (
  spec: SubspaceSpec,
  parts: readonly HeldState[],
  gram: Float64Array,
  solve: EigenSolver,
  product: DoubleProduct,
): MergedSubspace => {
  const held = parts.reduce((sum, part, i) => sum + rowsOfPart(part, i), 0);
  const counts = parts.map(({ state }) => state.models);
  const models = counts.reduce((a, b) => a + b, 0);
  const { means, rows } = stateRows(parts, held);
  const contrasts = spec.center ? meanContrasts(counts) : [];
  // Z = [S of all parts; the contrasts of their means], each as weights of the rows held.
  const size = rows.length + contrasts.length;
  const z = new Float64Array(size * held);
  rows.forEach((row, j) => void z.set(row, j * held));
  contrasts.forEach((weights, t) => {
    const out = z.subarray((rows.length + t) * held);
    means.forEach((mean, i) => {
      for (let l = 0; l < held; l++) out[l] = out[l]! + weights[i]! * mean[l]!;
    });
  });
  const inner = new Float64Array(held * held);
  for (let i = 0; i < held; i++) inner.set(gram.subarray((i + 1) * (held + 1) + 1, (i + 2) * (held + 1)), i * held);
  const times = (a: Float64Array, m: number, b: Float64Array, n: number, transposed: boolean): Float64Array =>
    productOf(a, b, m, held, n, { transposed, product });
  const K = symmetrise(times(times(z, size, inner, held, false), size, z, size, true), size);

  // --- the mean of all, and the largest squared norm that a Gram diagonal shows
  const mean = new Float64Array(held);
  if (spec.center)
    means.forEach((row, i) => {
      for (let l = 0; l < held; l++) mean[l] = mean[l]! + (counts[i]! / models) * row[l]!;
    });
  const norm2 = (row: Float64Array): number => times(times(row, 1, inner, held, false), 1, row, 1, true)[0]!;
  const meansNorm2 = means.reduce((most, row) => Math.max(most, norm2(row)), 0);

  // --- the directions worth keeping
  const limits = { most: Math.min(maxStateRows(spec, models), size), norm2: meansNorm2 };
  const states = parts.map(({ state }) => state);
  const { eigenvalues, weights, projections, dropped, shrunk } =
    size === 0 ? nothing : keepRows(spec.engine, K, size, states, limits, solve, product);
  const kept = eigenvalues.length;
  const mix = new Float64Array((1 + kept) * held);
  mix.set(mean);
  const rest = mix.subarray(held);
  if (kept > 0) product({ a: false, b: false }, { m: kept, n: held, k: size }, weights, size, z, held, rest, held);

  // --- what the next update needs to know of the new rows
  const withMean = times(mix, 1 + kept, times(mean, 1, inner, held, false), 1, true);
  let shiftDotMean = 0;
  for (let l = 0; l < held; l++) shiftDotMean += mean[l]! * gram[1 + l]!;
  const sum = (of: (state: SubspaceState) => number): number => parts.reduce((all, { state }) => all + of(state), 0);
  const known = sum(({ eigenvalues: own }) => own.reduce((a, b) => a + b, 0));
  let measured = 0;
  for (let j = 0; j < rows.length; j++) measured += K[j * size + j]!;
  let trace = 0;
  for (let j = 0; j < size; j++) trace += K[j * size + j]!;
  const explained = eigenvalues.reduce((a, b) => a + b, 0);
  const state: SubspaceState = {
    models,
    eigenvalues,
    total: sum(({ total }) => total) + trace - measured,
    lost: Math.max(sum(({ lost }) => lost) + trace - explained - (measured - known), 0),
    // Each part's truth lies above its state by its own term at most, and so does their sum.
    truncation: sum(({ truncation }) => truncation) + dropped,
    largestNorm2: parts.reduce((most, part) => Math.max(most, part.state.largestNorm2), meansNorm2),
    rowsDotMean: withMean.slice(1),
    meanNorm2: withMean[0]!,
    shiftDotMean,
    shiftNorm2: gram[0]!,
    totalUncentred: sum(({ totalUncentred }) => totalUncentred),
    ...(shrunk === undefined ? {} : { shrunk }),
  };
  return { state, mix, carries: carriesOf(parts, contrasts, K, size, kept, projections) };
};

const none = new Float64Array(0);
/** Of models that are all the same. */
const nothing: KeptRows = { eigenvalues: none, weights: none, projections: none, dropped: 0 };

/** Each part's mean about the first shift, and all state rows, as weights of the rows held. */
const stateRows = (
  parts: readonly HeldState[],
  held: number,
): { readonly means: readonly Float64Array[]; readonly rows: readonly Float64Array[] } => {
  const means: Float64Array[] = [];
  const rows: Float64Array[] = [];
  let at = 0;
  for (const [i, part] of parts.entries()) {
    const own = 1 + part.state.eigenvalues.length;
    for (let j = 0; j < own; j++) {
      const row = new Float64Array(held);
      if (part.map === null) row[at + j] = 1;
      else row.set(part.map.subarray(j * own, (j + 1) * own), at);
      if (j === 0 && i > 0) row[at + own] = 1;
      (j === 0 ? means : rows).push(row);
    }
    at += rowsOfPart(part, i);
  }
  return { means, rows };
};

/** p − 1 rows of weights of the means, whose outer products add up to Σ n_i (m_i − m)(m_i − m)ᵀ. */
const meanContrasts = (counts: readonly number[]): readonly Float64Array[] => {
  let before = counts[0]!;
  return counts.slice(1).map((next, t) => {
    const c = Math.sqrt((before * next) / (before + next));
    const weights = Float64Array.from(counts, (n, i) => (i <= t ? (c * n) / before : i === t + 1 ? -c : 0));
    before += next;
    return weights;
  });
};

/**
 * m_i − m = Σ_t a_it H_t with H the contrasts: their weights, each divided by √n_i, are orthonormal, so a_it is the weight of
 * m_i in H_t over n_i.
 */
const carriesOf = (
  parts: readonly HeldState[],
  contrasts: readonly Float64Array[],
  K: Float64Array,
  size: number,
  kept: number,
  projections: Float64Array,
): readonly CoordinateCarry[] => {
  const first = size - contrasts.length;
  let at = 0;
  return parts.map(({ state }, i) => {
    const r = state.eigenvalues.length;
    const a = contrasts.map((weights) => weights[i]! / state.models);
    const rotation = new Float64Array(r * kept);
    const offset = new Float64Array(kept);
    for (let j = 0; j < kept; j++) {
      const along = projections.subarray(j * size, (j + 1) * size);
      for (let l = 0; l < r; l++) rotation[l * kept + j] = along[at + l]! / Math.sqrt(state.eigenvalues[l]!);
      for (const [t, weight] of a.entries()) offset[j] = offset[j]! + weight * along[first + t]!;
    }
    const gradient = Float64Array.from({ length: r }, (_, l) => {
      const along = a.reduce((sum, weight, t) => sum + weight * K[(at + l) * size + first + t]!, 0);
      return (2 * along) / Math.sqrt(state.eigenvalues[l]!);
    });
    let constant = 0;
    for (const [t, x] of a.entries())
      for (const [u, y] of a.entries()) constant += x * y * K[(first + t) * size + first + u]!;
    at += r;
    return { rotation, offset, gradient, constant };
  });
};
