// What is odd about a finished slot, by rules that docs/run-folder.md states: models that do not differ, a model far from all
// others, several dtypes, a scatter that storage alone would leave. Pure; nothing here touches weights. Cost: O(N log N) a slot.
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { type SubspaceSpec, type SubspaceState, unshiftedMeanNorm2 } from '../operators/subspace-state.ts';
import { displayName } from '../sources/display-name.ts';
import type { Dtype } from '../sources/model.ts';
import type { PlannedModel } from '../sources/reading-plan.ts';
import { isFrozen, type SlotModels } from './slot-results.ts';
import type { Warning } from './telemetry.ts';

/** A warning and the rows of other tables that it is about. */
export interface Finding extends Warning {
  readonly slotId: number | null;
  readonly modelId: number | null;
}

/** So many times the median distance from the mean is too far. */
const GIANT = 10;
/** Less scatter than so many times the rounding floor is mostly rounding. */
const FLOORS = 4;

/**
 * Unit roundoff u (half the gap above 1, relative) and the smallest gap of each dtype, the coarsest first.
 * F64 counts as float32, to which it is rounded as it is read.
 */
const precision: Readonly<Record<Dtype, { readonly roundoff: number; readonly gap: number }>> = {
  F8_E5M2: { roundoff: 2 ** -3, gap: 2 ** -16 },
  F8_E4M3: { roundoff: 2 ** -4, gap: 2 ** -9 },
  BF16: { roundoff: 2 ** -8, gap: 2 ** -133 },
  F16: { roundoff: 2 ** -11, gap: 2 ** -24 },
  F32: { roundoff: 2 ** -24, gap: 2 ** -149 },
  F64: { roundoff: 2 ** -24, gap: 2 ** -149 },
};

/**
 * E[error²] / (u² x²). In the binade of x = m 2^e, 1 ≤ m < 2, the gap is 2u 2^e and the error uniform: error² = u² 4^e / 3 on
 * average, u² x² / (3 m²). Mantissas of weights that span some binades are log-uniform (Benford), so the mean of 1/m² is
 * (1/ln 2) ∫ m⁻³ dm = 3 / (8 ln 2). Normal weights come within 1% of it at any scale, uniform ones within 21%.
 */
const ROUNDING_VARIANCE = 1 / (8 * Math.LN2);

/** Models by dtype, the coarsest dtype first. */
export type DtypeCounts = readonly (readonly [dtype: Dtype, models: number])[];

export const countDtypes = (dtypes: Iterable<string>): DtypeCounts => {
  const counts = new Map<string, number>();
  for (const dtype of dtypes) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  return (Object.keys(precision) as Dtype[]).flatMap((dtype) => {
    const models = counts.get(dtype);
    return models === undefined ? [] : [[dtype, models] as const];
  });
};

/**
 * The scatter that storing the models in their dtypes leaves, were they otherwise equal: each dtype counts for the models
 * that have it, so that the coarsest decides where it is common and a single coarse model does not speak for a thousand.
 * @param norm2 mean ‖x‖² of the models
 */
export const roundingFloor = (counts: DtypeCounts, features: number, norm2: number): number => {
  let floor = 0;
  for (const [dtype, models] of counts) {
    const { roundoff, gap } = precision[dtype];
    // Where weights are mostly subnormal their gap does not shrink with them.
    floor += models * Math.max(ROUNDING_VARIANCE * roundoff ** 2 * norm2, (features * gap ** 2) / 12);
  }
  return floor;
};

/** Mean ‖x‖² about 0: scatter and the mean's own norm, with base and shift added back. */
const meanNorm2Of = (state: SubspaceState): number =>
  state.total / state.models + Math.max(unshiftedMeanNorm2(state), 0);

/** Scatter over its rounding floor; null where a slot's models are too few to scatter. */
export const scatterOverFloor = (spec: SubspaceSpec, state: SubspaceState, counts: DtypeCounts): number | null => {
  const degrees = spec.center ? 1 - 1 / state.models : 1;
  const floor = degrees * roundingFloor(counts, spec.features, meanNorm2Of(state));
  return floor > 0 ? state.total / floor : null;
};

/** Models beyond `GIANT` times the median distance: their place in `norm2`, and the ratio of distances. */
export const giants = (norm2: Float64Array): readonly { readonly at: number; readonly ratio: number }[] => {
  const sorted = norm2.slice().sort();
  const middle = sorted.length >> 1;
  const upper = Math.sqrt(sorted[middle] ?? 0);
  const median = sorted.length % 2 === 1 ? upper : (Math.sqrt(sorted[middle - 1] ?? 0) + upper) / 2;
  if (!(median > 0)) return [];
  return Array.from(norm2, (value, at) => ({ at, ratio: Math.sqrt(value) / median })).filter(
    ({ ratio }) => ratio > GIANT,
  );
};

/** All that is odd about a slot. `modelOf` gives the planned model of an id. */
export const slotFindings = (
  subspace: SubspaceEstimate,
  models: SlotModels,
  modelOf: (id: number) => PlannedModel,
): readonly Finding[] => {
  const { slot, spec, state } = subspace;
  const about = { slot: slot.name, slotId: slot.id, model: null, modelId: null };
  const counts = countDtypes(Array.from(models.modelIds, (id) => slot.tensorIn(modelOf(id)).dtype));
  const found: Finding[] = [];
  if (isFrozen(subspace)) {
    const text = `the ${state.models} models are identical up to rounding`;
    found.push({ ...about, code: 'identical', value: state.total, text });
  } else {
    const from = spec.center ? 'mean' : 'origin';
    for (const { at, ratio } of giants(models.norm2)) {
      const { id, name } = modelOf(models.modelIds[at]!);
      const text = `model ${displayName(name)} is beyond ${GIANT} times the median distance from the ${from}`;
      found.push({ ...about, code: 'giant-norm', model: name, modelId: id, value: ratio, text });
    }
    const ratio = scatterOverFloor(spec, state, counts);
    if (ratio !== null && ratio < FLOORS) {
      const text = `the scatter is less than ${FLOORS} times what rounding to ${counts[0]![0]} leaves`;
      found.push({ ...about, code: 'rounding-floor', value: ratio, text });
    }
  }
  if (counts.length > 1) {
    const text = counts.map(([dtype, n], i) => `${dtype} in ${n}${i === 0 ? ' models' : ''}`).join(', ');
    found.push({ ...about, code: 'mixed-dtypes', value: counts.length, text });
  }
  return found;
};
