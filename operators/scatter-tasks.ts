// What threads do for the modes rows and cols, as plain data that can be posted. All matrices stand in shared memory; a
// task writes a part of them that no other task of its step touches, so any thread may do any task, and results do not
// depend on which one did.
import type { SourceRows } from '../sources/staged-block.ts';
import type { TileRange } from '../sources/tile.ts';
import type { FactorAnswers, FactorTask } from './factor-tasks.ts';
import type { PackedBlock } from './linalg/packed-blocks.ts';
import type { BadValue } from './tile-tasks.ts';

/** Modes in which a model's rows or columns are the samples. */
export type SideMode = 'rows' | 'cols';

/** Some tiles of a slot's staged weights. */
export interface StagedTiles {
  readonly slot: string;
  readonly features: number;
  readonly staged: readonly SourceRows[];
  /** Models staged. */
  readonly models: number;
  readonly tiles: TileRange;
}

/** Looks for weights that cannot be folded, before anything is made of any. */
export interface SurveyTask extends StagedTiles {
  readonly kind: 'survey';
}

/** Widens a base, the only model staged. */
export interface OriginTask extends StagedTiles {
  readonly kind: 'origin';
  readonly origin: SharedArrayBuffer;
}

/** Makes samples out of the weights of models [from, to). */
export interface SampleTask extends StagedTiles {
  readonly kind: 'sample';
  readonly from: number;
  readonly to: number;
  /**
   * `running`: sqrt(n / (n + 1)) (x − mean of the n before), and the mean takes x in: their products add up to the scatter
   * about the final mean (Welford 1962; Helmert's contrasts). `fixed`: x − mean.
   */
  readonly about: 'running' | 'fixed';
  /** Models in the mean, n, before the first of these. */
  readonly seen: number;
  /** features float64; null: about the origin. */
  readonly mean: SharedArrayBuffer | null;
  readonly origin: SharedArrayBuffer | null;
  readonly shape: SampleShape;
  /** Room for to − from models. */
  readonly samples: SharedArrayBuffer;
}

/** How a model's samples stand in memory: rows x cols float32, `stride` from row to row. */
export interface SampleShape {
  readonly rows: number;
  readonly cols: number;
  readonly stride: number;
}

/** Samples of models, one after the other, as a mode sees them. */
export interface SideSamples {
  readonly mode: SideMode;
  readonly shape: SampleShape;
  readonly models: number;
  readonly samples: SharedArrayBuffer;
}

/** Adds samples to blocks of a scatter matrix. */
export interface FoldTask extends SideSamples {
  readonly kind: 'fold';
  readonly blocks: readonly PackedBlock[];
  readonly scatter: SharedArrayBuffer;
}

/** Samples [from, to) of one model. */
export interface SampleRange {
  readonly model: number;
  readonly from: number;
  readonly to: number;
}

/** The state of followed directions, and samples that come to it: over some features of the side. */
interface Followed extends SideSamples {
  readonly range: SampleRange;
  readonly features: { readonly from: number; readonly to: number };
  /** float32: mostRows x side in mode rows, side x mostRows in mode cols. */
  readonly state: SharedArrayBuffer;
  readonly stateRows: number;
  readonly mostRows: number;
}

/** Inner products of [S; X] with X. */
export interface FollowTask extends Followed {
  readonly kind: 'follow';
}

/** The next state's rows, mix · [S; X]. */
export interface TurnTask extends Followed {
  readonly kind: 'turn';
  /** newRows x (stateRows + samples). */
  readonly mix: Float64Array;
  readonly newRows: number;
  readonly into: SharedArrayBuffer;
}

/** Y (p x side) = X (p x side) · the part of the scatter matrix that some blocks hold. */
export interface MultiplyTask {
  readonly kind: 'multiply';
  readonly side: number;
  readonly blocks: readonly PackedBlock[];
  readonly scatter: SharedArrayBuffer;
  readonly p: number;
  readonly x: SharedArrayBuffer;
  readonly y: SharedArrayBuffer;
}

/** Each model's energy along directions, Σ ⟨sample, v_j⟩². */
export interface EnergyTask extends SideSamples {
  readonly kind: 'energy';
  readonly pieces: readonly SampleRange[];
  readonly rank: number;
  /** rank x side float32. */
  readonly directions: SharedArrayBuffer;
}

/** Directions of a mode, shared: rank x side float32. */
export interface SideDirections {
  readonly rank: number;
  readonly values: SharedArrayBuffer;
}

/** U_r Xᵀ U_cᵀ over some rows X of models: what the core tensor is made of. */
export interface CoreTask {
  readonly kind: 'core';
  readonly shape: SampleShape;
  readonly samples: SharedArrayBuffer;
  /** Rows of the models. */
  readonly pieces: readonly SampleRange[];
  /** Directions of mode rows, as wide as cols; and of mode cols, as wide as rows. */
  readonly rows: SideDirections;
  readonly cols: SideDirections;
}

export type ScatterTask =
  | SurveyTask
  | OriginTask
  | SampleTask
  | FoldTask
  | FollowTask
  | TurnTask
  | MultiplyTask
  | EnergyTask
  | CoreTask
  | FactorTask;

/** Of each model sampled, over these tiles. */
export interface Sampled {
  /** `running`: Σ (x − origin)², the origin 0 where there is none. `fixed`: Σ sample². */
  readonly norms2: Float64Array;
  /** Σ x, when `running`. */
  readonly sums: Float64Array;
}

export interface ScatterAnswers extends FactorAnswers {
  /** The first of each model, over these tiles. */
  readonly survey: readonly BadValue[];
  readonly origin: null;
  readonly sample: Sampled;
  readonly fold: null;
  /** (stateRows + samples) x samples. */
  readonly follow: Float64Array;
  readonly turn: null;
  readonly multiply: null;
  /** pieces x rank. */
  readonly energy: Float64Array;
  /** pieces x k_r x k_c. */
  readonly core: Float64Array;
}
