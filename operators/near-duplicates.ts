// Models that are as good as copies of an earlier one, from the inner products of all with all (of a slot, or of whole models:
// gram-sum.ts). Distances are relative to how far models are from their mean, so that neither a scale nor what all share counts:
// δ_ij² = ‖x_i − x_j‖² / ½ (‖x_i − m‖² + ‖x_j − m‖²). Independent models have δ near sqrt(2), a copy in bfloat16 some 0.002.
// Gauge-free for adapters: only ΔW counts. Cost: N² flops.
import type { ExactGram } from './exact-spectrum.ts';
import { RANK_THRESHOLD } from './subspace-state.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

/** Relative distance below which a model is a near-duplicate. */
export const DUPLICATE_DISTANCE = 0.05;

export interface NearDuplicates {
  /** The earliest model that each is a near-duplicate of, itself no duplicate; −1 where there is none. */
  readonly duplicateOf: Int32Array;
  /**
   * Pairs that cannot be told apart, since 0.05 of their distance from the mean is less than rounding leaves of inner products
   * so much larger: none of them is called a duplicate.
   */
  readonly unresolved: number;
}

export const nearDuplicates = ({ values, models: n }: ExactGram): NearDuplicates => {
  const before = rowsBeforeBlock(0);
  const size = before + n;
  const inner = (i: number, j: number): number => values[(before + i) * size + before + j]!;
  const averages = Float64Array.from({ length: n }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += inner(i, j);
    return sum / n;
  });
  const grand = averages.reduce((sum, value) => sum + value / n, 0);
  const norms2 = Float64Array.from({ length: n }, (_, i) => Math.max(inner(i, i) - 2 * averages[i]! + grand, 0));
  const duplicateOf = new Int32Array(n).fill(-1);
  let unresolved = 0;
  for (let i = 1; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const bound = (DUPLICATE_DISTANCE ** 2 * (norms2[i]! + norms2[j]!)) / 2;
      const rounding = RANK_THRESHOLD * Math.max(inner(i, i), inner(j, j));
      if (bound <= rounding) {
        unresolved++;
        continue;
      }
      if (duplicateOf[i]! >= 0 || duplicateOf[j]! >= 0) continue;
      if (inner(i, i) - 2 * inner(i, j) + inner(j, j) < bound) duplicateOf[i] = j;
    }
  }
  return { duplicateOf, unresolved };
};
