// From a slot's spectra in the modes rows and cols to the rows of its tables and its line of the summary. The definitions
// are those of docs/run-folder.md. Nothing here touches weights.
import type { ModesOfSlot } from '../operators/exact-modes.ts';
import type { ModeSpectrum } from '../operators/scatter-spectrum.ts';
import type { PlannedSlot } from '../sources/reading-plan.ts';
import { evrAtCuts, IDENTICAL, namedEvr, type SpectrumRow } from './slot-results.ts';
import type { SlotSummary } from './telemetry.ts';

/** A slot in one mode, with what all its modes share. */
export interface ModeResult {
  readonly slot: PlannedSlot;
  readonly spectrum: ModeSpectrum;
  readonly models: number;
  readonly center: boolean;
  /** Asked for, k. */
  readonly rank: number;
  /** Σ ‖W − origin‖². */
  readonly totalUncentred: number;
}

export const modeResults = (
  { slot, models, rawNorm2, spectra }: ModesOfSlot,
  { center, rank }: { readonly center: boolean; readonly rank: number },
): readonly ModeResult[] => {
  const totalUncentred = rawNorm2.reduce((a, b) => a + b, 0);
  return spectra.map((spectrum) => ({ slot, spectrum, models: models.length, center, rank, totalUncentred }));
};

/** Whether the models do not differ beyond rounding: then ratios mean nothing and are null. */
export const isFrozenMode = ({ models, spectrum, totalUncentred }: ModeResult): boolean =>
  models > 1 && !(spectrum.total > IDENTICAL * totalUncentred);

/** Most directions there can be: min(side, (N − 1) rows), or min(side, N rows) uncentred; likewise for columns. */
export const fullRankOfMode = ({ spectrum: { side, samples }, models, center }: ModeResult): number =>
  Math.min(side, center ? (samples / models) * (models - 1) : samples);

/** What the intervals rest on. */
export const boundKindOfMode = ({
  engine,
  residuals,
  lowered,
}: ModeSpectrum): 'exact' | 'truncation' | 'frequent-directions' | 'a-posteriori' => {
  if (residuals !== null) return 'a-posteriori';
  if (!(lowered > 0)) return 'exact';
  return engine === 'frequent-directions' ? engine : 'truncation';
};

/** All eigenvalues that are known. What a Krylov space gave can only lie below the truth, by its residual at most. */
export const spectrumOfMode = (result: ModeResult): readonly SpectrumRow[] => {
  const { eigenvalues, certain, residuals, rounding, lowered, total } = result.spectrum;
  const frozen = isFrozenMode(result);
  let sum = 0;
  return Array.from(eigenvalues, (eigenvalue, j) => {
    sum += eigenvalue;
    return {
      eigenvalue,
      evr: frozen ? null : eigenvalue / total,
      cumulative: frozen ? null : sum / total,
      low: Math.max(certain[j]! - rounding, 0),
      high: certain[j]! + (residuals?.[j] ?? 0) + lowered + rounding,
    };
  });
};

export const summariseMode = (result: ModeResult): SlotSummary => {
  const { slot, spectrum, models, center, rank, totalUncentred } = result;
  const rows = spectrumOfMode(result);
  const reached = rows.findIndex(({ cumulative }) => cumulative !== null && cumulative >= 0.9);
  const most = fullRankOfMode(result);
  return {
    slot: slot.name,
    mode: spectrum.mode,
    rows: slot.rows,
    cols: slot.cols,
    models,
    rank: spectrum.rank,
    ...namedEvr(
      isFrozenMode(result) ? [] : evrAtCuts(spectrum.eigenvalues.subarray(0, spectrum.rank), spectrum.total, rank),
    ),
    flat_evr: most > 0 ? spectrum.rank / most : null,
    components_90: reached < 0 ? null : reached + 1,
    captured: null,
    mean_only: center && totalUncentred > 0 ? 1 - spectrum.total / totalUncentred : null,
    scree: rows.slice(0, 16).map(({ evr }) => evr ?? 0),
    exactness: boundKindOfMode(spectrum) === 'exact' ? 'exact' : 'bounded',
  };
};
