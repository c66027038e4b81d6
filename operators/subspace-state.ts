// What an engine of mode `models` keeps of a slot between blocks, apart from its rows (which stay on the device):
// a few hundred float64 numbers. Plain and immutable; an update makes a new one.

import type { Shrunk } from './keep-rows.ts';
import type { Sketch } from './nystrom.ts';

/** Engines that fold a stream block by block. */
export type StreamingEngine = 'incremental' | 'frequent-directions' | 'randomized';

/** How a slot's samples are treated. Fixed for a run. */
export interface SubspaceSpec {
  /** Weights in the slot: D = rows * cols. */
  readonly features: number;
  /** Directions reported, k. A cap: a slot never has more than n - 1 (n uncentred) or D. */
  readonly rank: number;
  /** Subtract the running mean (PCA), or measure scatter about the origin. */
  readonly center: boolean;
  /** True when the shift is the origin itself: a base was given, or nothing is subtracted at all. */
  readonly shiftIsOrigin: boolean;
  /** How the state is updated. Default: `incremental`. */
  readonly engine?: StreamingEngine;
}

export interface SubspaceState {
  /** Models folded, n. */
  readonly models: number;
  /** r kept eigenvalues, descending: scatter along each state row. At most `stateRowsFor`, and n − 1 (n uncentred). */
  readonly eigenvalues: Float64Array;
  /** Exact total scatter T = Σ ‖x − m‖². */
  readonly total: number;
  /** Scatter that truncation and the rank threshold removed, so that Σ eigenvalues + lost = total. */
  readonly lost: number;
  /**
   * Σ over blocks of the largest eigenvalue dropped: bounds how far an eigenvalue can have sunk. Of frequent directions
   * what was taken off all of them, Σδ: bounds ‖AᵀA − B‖₂ and ‖AᵀA − SᵀS‖₂ too.
   */
  readonly truncation: number;
  /** Largest squared norm of a model or the mean: what float32 rounding scales with. */
  readonly largestNorm2: number;
  /** ⟨S_j, m⟩, r numbers, and ⟨m, m⟩. */
  readonly rowsDotMean: Float64Array;
  readonly meanNorm2: number;
  /** ⟨−shift, m⟩ and ⟨shift, shift⟩: turn shifted inner products into distances from the origin. */
  readonly shiftDotMean: number;
  readonly shiftNorm2: number;
  /** Σ ‖x − origin‖² over all folded models. */
  readonly totalUncentred: number;
  /** Of the engine `randomized`, once it has folded anything. `truncation` is then its error estimate. */
  readonly sketch?: Sketch;
  /** Of the engine `frequent-directions`, once it has folded anything; `eigenvalues` are then estimates. */
  readonly shrunk?: Shrunk;
}

export const emptySubspace: SubspaceState = {
  models: 0,
  eigenvalues: new Float64Array(0),
  total: 0,
  lost: 0,
  truncation: 0,
  largestNorm2: 0,
  rowsDotMean: new Float64Array(0),
  meanNorm2: 0,
  shiftDotMean: 0,
  shiftNorm2: 0,
  totalUncentred: 0,
};

/** Rows beyond the rank that a sketch has, as is usual, and rows that only test it. */
const OVERSAMPLING = 10;
export const TEST_ROWS = 5;

/** Fewest rows that are worth keeping: below, truncation shows in the first eigenvalue already, and they cost little. */
const LEAST_ROWS = 16;

/** Most rows that a state of an engine but `randomized` keeps, ℓ = max(2k, 16): spare ones keep what is truncated small. */
export const stateRowsFor = ({ rank, features }: Pick<SubspaceSpec, 'rank' | 'features'>): number =>
  Math.min(Math.max(2 * rank, LEAST_ROWS), features);

/** Rows of signs that the engine `randomized` tests a slot with, L; as many sums of models go with them. */
export const sketchRows = ({ rank, features }: Pick<SubspaceSpec, 'rank' | 'features'>): number =>
  Math.min(rank, features) + OVERSAMPLING + TEST_ROWS;

/** Most rows a state can ever keep for a stream of `models` models. */
export const maxStateRows = (
  spec: Omit<SubspaceSpec, 'engine'> & { readonly engine?: StreamingEngine | 'exact' },
  models: number,
): number =>
  spec.engine === 'randomized'
    ? 2 * sketchRows(spec)
    : Math.min(stateRowsFor(spec), spec.center ? Math.max(models - 1, 0) : models);

/** Rows behind the mean's that tiles hold of a slot. */
export const heldRows = (spec: SubspaceSpec, state: SubspaceState): number =>
  spec.engine === 'randomized' ? 2 * sketchRows(spec) : state.eigenvalues.length;

/** ‖mean‖² about 0: with the shift added back. */
export const unshiftedMeanNorm2 = (state: SubspaceState): number =>
  state.meanNorm2 - 2 * state.shiftDotMean + state.shiftNorm2;

/** Directions reported of a state: the first k of those kept. */
export const reportedRank = (spec: SubspaceSpec, state: SubspaceState): number =>
  Math.min(spec.rank, state.eigenvalues.length);

/** 2^-20: a direction below this share of the largest is noise of a float32 Gram, and is not kept. */
export const RANK_THRESHOLD = 2 ** -20;

/** 2^-19 of the largest eigenvalue or squared norm: what float32 rounding can move an eigenvalue by. */
export const ROUNDING = 2 ** -19;

/** How far rounding can have moved any eigenvalue. */
export const roundingTerm = (state: SubspaceState): number =>
  ROUNDING * Math.max(state.eigenvalues[0] ?? 0, state.largestNorm2);

/** Eigenvalues that lie below the true ones whatever came, but for rounding: the state's own, or those of what was shrunk. */
export const certainEigenvalues = ({ eigenvalues, shrunk }: SubspaceState): Float64Array =>
  shrunk?.certain ?? eigenvalues;

/** How far above `certainEigenvalues` the true ones can lie: min(Σ λ_{ℓ+1}, T − Σλ) + rounding. */
export const eigenvalueSlack = (state: SubspaceState): number => {
  let kept = 0;
  for (const value of certainEigenvalues(state)) kept += value;
  return Math.min(state.truncation, Math.max(state.total - kept, 0)) + roundingTerm(state);
};
