// What people are told of a slot after a block. Costs a sum over its eigenvalues and the block's models.
import type { RunConfig } from '../configs/run-config.ts';
import type { SlotUpdate } from '../operators/incremental-pca.ts';
import { evrAtCuts, IDENTICAL, namedEvr } from './slot-results.ts';
import type { SlotProgress } from './telemetry.ts';

/** Enough for a picture; events.ndjson has them once a slot and block. */
const SCREE = 16;
const fourDigits = (value: number): number => Number(value.toPrecision(4));

export const slotProgress = (
  { slot, update: { state, drift, models } }: SlotUpdate,
  { rank, center }: Pick<RunConfig, 'rank' | 'center'>,
): SlotProgress => {
  const isFrozen = state.models > 1 && !(state.total > IDENTICAL * Math.max(state.totalUncentred, state.shiftNorm2));
  const eigenvalues = isFrozen ? new Float64Array(0) : state.eigenvalues.subarray(0, rank);
  let centred = 0;
  let captured = 0;
  let raw = 0;
  for (const { centred2, captured2, rawNorm2 } of models) {
    if (centred2 === null || captured2 === null) continue;
    centred += centred2;
    captured += captured2;
    raw += rawNorm2;
  }
  let sum = 0;
  const reached = eigenvalues.findIndex((eigenvalue) => {
    sum += eigenvalue;
    return sum >= 0.9 * state.total;
  });
  return {
    slot: slot.name,
    rank: Math.min(rank, state.eigenvalues.length),
    ...namedEvr(evrAtCuts(eigenvalues, state.total, rank)),
    drift: drift[1]?.max ?? null,
    captured: centred > 0 && !isFrozen ? captured / centred : null,
    mean_only: center && raw > 0 ? 1 - centred / raw : null,
    components_90: reached < 0 || !(state.total > 0) ? null : reached + 1,
    scree: Array.from(eigenvalues.subarray(0, SCREE), (eigenvalue) =>
      state.total > 0 ? fourDigits(eigenvalue / state.total) : 0,
    ),
  };
};
