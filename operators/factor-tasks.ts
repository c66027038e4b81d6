// What threads do with the stacked factors of adapters, as plain data that can be posted: as in scatter-tasks.ts, no two
// tasks of a step write the same place, and answers are added in a fixed order.
import type { StackedFactors } from './factor-stack.ts';
import type { Extent } from './linalg/packed-blocks.ts';
import type { SideDirections, SideMode } from './scatter-tasks.ts';

/** Adapters whose vectors are neighbours in a stack. */
export interface StackedRun {
  /** The first vector in the stack. */
  readonly at: number;
  /** Of each adapter. */
  readonly ranks: readonly number[];
}

/** ⟨ΔW_i, ΔW_j⟩ = Σ_ab (L_iᵀ L_j)_ab (R_i R_jᵀ)_ab of two runs of adapters. */
export interface PairsTask {
  readonly kind: 'pairs';
  readonly a: StackedFactors;
  readonly b: StackedFactors;
  readonly rows: StackedRun;
  readonly columns: StackedRun;
  /** Both runs are the same: adapters j < i of i may be left out. */
  readonly same: boolean;
}

/** Adds Σ l rᵀ over a stack to a block of a rows x cols matrix. */
export interface OuterTask {
  readonly kind: 'outer';
  readonly stack: StackedFactors;
  readonly rows: Extent;
  readonly columns: Extent;
  readonly sum: SharedArrayBuffer;
  /** Where the block begins in `sum`, which is float64. */
  readonly offset: number;
}

/**
 * Replaces vectors of adapters in place by those whose products are the adapter's share of a scatter matrix. rows: right
 * vectors become (LᵀL)^½ R, up to a rotation; cols: left ones (R Rᵀ)^½ Lᵀ. Answers ‖ΔW‖² of each adapter.
 */
export interface RootsTask {
  readonly kind: 'roots';
  readonly stack: StackedFactors;
  readonly run: StackedRun;
  readonly modes: readonly SideMode[];
}

/** Entries of L_iᵀ (M R_iᵀ) on the diagonal, over some rows of M: ⟨ΔW_i, M⟩ is their sum. Answers one a vector. */
export interface MeanInnerTask {
  readonly kind: 'mean-inner';
  readonly stack: StackedFactors;
  readonly vectors: Extent;
  readonly mean: SharedArrayBuffer;
  readonly rows: Extent;
}

/** Σ over a mode's samples of ⟨x, v_j⟩², x of ΔW − M, for each adapter of a run. Answers adapters x k. */
export interface FactorEnergyTask {
  readonly kind: 'factor-energy';
  readonly stack: StackedFactors;
  readonly run: StackedRun;
  readonly mode: SideMode;
  readonly rank: number;
  /** k x side float32. */
  readonly directions: SharedArrayBuffer;
  /** k x samples of one model, float64: what the mean has along them; null uncentred. */
  readonly meanAlong: SharedArrayBuffer | null;
}

/** What the mean has along directions: V Mᵀ (rows) or V M (cols), for some of its samples. */
export interface MeanAlongTask {
  readonly kind: 'mean-along';
  readonly rows: number;
  readonly cols: number;
  readonly mean: SharedArrayBuffer;
  readonly mode: SideMode;
  readonly rank: number;
  readonly directions: SharedArrayBuffer;
  readonly samples: Extent;
  readonly meanAlong: SharedArrayBuffer;
}

/** U_r ΔWᵀ U_cᵀ of each adapter of a run, from its factors. Answers adapters x k_r x k_c. */
export interface FactorCoreTask {
  readonly kind: 'factor-core';
  readonly stack: StackedFactors;
  readonly run: StackedRun;
  /** Directions of mode rows and of mode cols, some of each. */
  readonly rows: SideDirections;
  readonly cols: SideDirections;
}

export type FactorTask =
  | PairsTask
  | OuterTask
  | RootsTask
  | MeanInnerTask
  | FactorEnergyTask
  | FactorCoreTask
  | MeanAlongTask;

export interface FactorAnswers {
  /** rows' adapters x columns' adapters. */
  readonly pairs: Float64Array;
  readonly outer: null;
  readonly roots: Float64Array;
  readonly 'mean-inner': Float64Array;
  readonly 'factor-energy': Float64Array;
  readonly 'factor-core': Float64Array;
  readonly 'mean-along': null;
}
