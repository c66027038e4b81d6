// Canonical factors in a staged buffer, as threads see them: plain data that says where they stand, and views of them.
import type { AdapterFactors } from './adapter-factors.ts';

/** Where the factors of a slot's models stand in a staged buffer, as plain data that can be posted. */
export interface StagedFactors {
  readonly rows: number;
  readonly cols: number;
  /** Of each model, as made canonical: at most that of its tensors. */
  readonly ranks: Int32Array;
  /** Byte of the buffer at which each model's left begins; right follows. */
  readonly at: Float64Array;
}

/** A view of one model's factors. */
export const factorsIn = (
  buffer: SharedArrayBuffer,
  { rows, cols, ranks, at }: StagedFactors,
  i: number,
): AdapterFactors => {
  const rank = ranks[i]!;
  const left = new Float32Array(buffer, at[i]!, rows * rank);
  const right = new Float32Array(buffer, at[i]! + left.byteLength, rank * cols);
  return { rows, cols, rank, left, right };
};
