// From a finished slot to the rows of its tables: spectrum with bounds, convergence, coefficients, scores. The definitions
// are those of docs/run-folder.md. Nothing here touches weights.
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { certainEigenvalues, eigenvalueSlack, ROUNDING, roundingTerm } from '../operators/subspace-state.ts';
import { cutsOf } from '../operators/update-subspace.ts';
import type { FinalCoefficients } from './final-coefficients.ts';
import type { EvrAtCuts, SlotSummary } from './telemetry.ts';
import { SCORE_WIDTH, type SpooledUpdate } from './update-spool.ts';

/** A scatter at this share of the models' own size is rounding, not variation. */
export const IDENTICAL = 2 ** -40;

/** Whether the models do not differ in a slot beyond rounding: then ratios mean nothing and are null. */
export const isFrozen = ({ state }: SubspaceEstimate): boolean =>
  state.models > 1 && !(state.total > IDENTICAL * Math.max(state.totalUncentred, state.shiftNorm2));

/** What a slot's end knows of its models, in order of folding. */
export interface SlotModels extends FinalCoefficients {
  /** ‖x − origin‖². */
  readonly rawNorm2: Float64Array;
  readonly meanEntry: Float64Array;
}

/** @param updates those that `final` was composed from */
export const slotModels = (final: FinalCoefficients, updates: readonly SpooledUpdate[]): SlotModels => {
  const rawNorm2 = new Float64Array(final.modelIds.length);
  const meanEntry = new Float64Array(final.modelIds.length);
  let i = 0;
  for (const { scores } of updates) {
    for (let at = 0; at < scores.length; at += SCORE_WIDTH, i++) {
      rawNorm2[i] = scores[at + 2]!;
      meanEntry[i] = scores[at + 3]!;
    }
  }
  return { ...final, rawNorm2, meanEntry };
};

/** Σ of the first j eigenvalues over the total at each cut; null where there is no such component or no scatter. */
export const evrAtCuts = (eigenvalues: Float64Array, total: number, rank: number): (number | null)[] =>
  cutsOf(rank).map((j) => {
    if (j > rank || j > eigenvalues.length || !(total > 0)) return null;
    let sum = 0;
    for (let i = 0; i < j; i++) sum += eigenvalues[i]!;
    return sum / total;
  });

export const namedEvr = ([evr_1, evr_4, evr_16, evr_k]: readonly (number | null)[]): EvrAtCuts => ({
  evr_1: evr_1 ?? null,
  evr_4: evr_4 ?? null,
  evr_16: evr_16 ?? null,
  evr_k: evr_k ?? null,
});

/** Σ captured2 / Σ centred2 over the models that were scored; null when none was. */
export const capturedShare = (updates: readonly SpooledUpdate[]): number | null => {
  let captured = 0;
  let centred = 0;
  for (const { scores } of updates) {
    for (let at = 0; at < scores.length; at += SCORE_WIDTH) {
      if (Number.isNaN(scores[at]!)) continue;
      centred += scores[at]!;
      captured += scores[at + 1]!;
    }
  }
  return centred > 0 ? captured / centred : null;
};

/** 1 − Σ ‖x − m‖² / Σ ‖x − origin‖², m the mean before the block; null when no model was scored. */
export const meanOnlyShare = (update: SpooledUpdate): number | null => {
  let centred = 0;
  let raw = 0;
  for (let at = 0; at < update.scores.length; at += SCORE_WIDTH) {
    if (Number.isNaN(update.scores[at]!)) continue;
    centred += update.scores[at]!;
    raw += update.scores[at + 2]!;
  }
  return raw > 0 ? 1 - centred / raw : null;
};

export interface SpectrumRow {
  readonly eigenvalue: number;
  readonly evr: number | null;
  readonly cumulative: number | null;
  readonly low: number;
  readonly high: number;
}

/** The reported eigenvalues (all of them where they are known) with an interval that encloses the true ones. */
export const spectrumOf = (subspace: SubspaceEstimate): readonly SpectrumRow[] => {
  const { state, rank, engine } = subspace;
  const known = engine === 'exact' ? state.eigenvalues.length : rank;
  const rounding = roundingTerm(state);
  const slack = eigenvalueSlack(state);
  const certain = certainEigenvalues(state);
  const frozen = isFrozen(subspace);
  let sum = 0;
  return Array.from(state.eigenvalues.subarray(0, known), (eigenvalue, j) => {
    sum += eigenvalue;
    return {
      eigenvalue,
      evr: frozen ? null : eigenvalue / state.total,
      cumulative: frozen ? null : sum / state.total,
      low: Math.max(certain[j]! - rounding, 0),
      high: certain[j]! + slack,
    };
  });
};

/** Nothing was dropped but rounding noise: the eigenvalues are the exact ones up to rounding. */
export const isExact = ({ state }: SubspaceEstimate): boolean =>
  state.lost <= ROUNDING * Math.max(state.total, state.largestNorm2);

/** Whose interval it is. */
export const boundKind = (
  subspace: SubspaceEstimate,
): 'exact' | 'truncation' | 'frequent-directions' | 'a-posteriori' => {
  if (isExact(subspace)) return 'exact';
  if (subspace.engine === 'randomized') return 'a-posteriori';
  return subspace.engine === 'frequent-directions' ? 'frequent-directions' : 'truncation';
};

/** Most directions a slot can have: min(n − 1, D), or min(n, D) uncentred. */
export const fullRank = ({ state, spec }: SubspaceEstimate): number =>
  Math.min(spec.center ? state.models - 1 : state.models, spec.features);

export const summarise = (subspace: SubspaceEstimate, updates: readonly SpooledUpdate[]): SlotSummary => {
  const { state, spec, slot, rank } = subspace;
  const spectrum = spectrumOf(subspace);
  const reached = spectrum.findIndex(({ cumulative }) => cumulative !== null && cumulative >= 0.9);
  const most = fullRank(subspace);
  const frozen = isFrozen(subspace);
  const recent = updates.slice(Math.floor(updates.length / 2));
  return {
    slot: slot.name,
    mode: 'models',
    rows: slot.rows,
    cols: slot.cols,
    models: state.models,
    rank,
    ...namedEvr(frozen ? [] : evrAtCuts(state.eigenvalues.subarray(0, rank), state.total, spec.rank)),
    flat_evr: most > 0 ? rank / most : null,
    components_90: reached < 0 ? null : reached + 1,
    captured: frozen ? null : capturedShare(recent),
    mean_only: spec.center && state.totalUncentred > 0 ? 1 - state.total / state.totalUncentred : null,
    scree: spectrum.slice(0, 16).map(({ evr }) => evr ?? 0),
    exactness: isExact(subspace) ? 'exact' : subspace.engine === 'randomized' ? 'estimated' : 'bounded',
  };
};
