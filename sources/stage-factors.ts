// Staging for LoRA: the factors of a slot are read, checked, made canonical in float64 (canonical-adapter.ts) and left in the
// block's buffer as float32, left and right, model after model. ΔW itself is made nowhere here: a device decodes it panel by
// panel. Memory: (rows + cols) · r floats a model; while a model is read, its factors as stored, and those of one module twice
// over in float64.
import { badWeightDetail, firstBadWeight, LARGEST_WEIGHT } from './bad-weight.ts';
import { canonicalAdapter } from './canonical-adapter.ts';
import { displayName } from './display-name.ts';
import { widenToDouble } from './dtype.ts';
import { SourceMalformed } from './errors.ts';
import type { Dtype, LoraTensors, TensorEntry } from './model.ts';
import type { PlannedModel, PlannedSlot } from './reading-plan.ts';

const ALIGNMENT = 64;

/** Bytes that a model's canonical factors take at most, a multiple of 64. */
export const factorBytes = ({ rows, cols, rank }: LoraTensors): number =>
  Math.ceil(((rows + cols) * rank * 4) / ALIGNMENT) * ALIGNMENT;

/** Bytes that reading takes beside the buffer: the stored factors of the models read at once, and the algebra of one module. */
export const factorScratchBytes = (
  slots: readonly PlannedSlot[],
  models: readonly PlannedModel[],
  atOnce: number,
): number => {
  let stored = 0;
  let algebra = 0;
  for (const model of models) {
    let own = 0;
    for (const slot of slots) {
      const { byteLength, lora } = slot.tensorIn(model);
      if (lora === undefined) continue;
      own += byteLength;
      algebra = Math.max(algebra, 3 * (lora.rows + lora.cols) * lora.rank * 8);
    }
    stored = Math.max(stored, own);
  }
  return stored * Math.min(atOnce, models.length) + algebra;
};

/** One model's factors of a slot, on their way from its file into the buffer. */
export interface FactorRead {
  readonly lora: LoraTensors;
  /** As stored. */
  readonly a: Uint8Array;
  readonly b: Uint8Array;
  readonly into: Float32Array;
}

export const factorRead = (lora: LoraTensors, buffer: SharedArrayBuffer, at: number): FactorRead => ({
  lora,
  a: new Uint8Array(lora.a.byteLength),
  b: new Uint8Array(lora.b.byteLength),
  into: new Float32Array(buffer, at, (lora.rows + lora.cols) * lora.rank),
});

/**
 * Checks what was read, and leaves its canonical form in the buffer.
 * @returns its rank
 * @throws SourceMalformed where an entry, or what the product can come to, cannot be folded
 */
export const settleFactors = ({ lora, a, b, into }: FactorRead, path: string): number => {
  const { rank, scale, transposed } = lora;
  const factors = canonicalAdapter(checked(lora.a, a, path), checked(lora.b, b, path), scale, rank, transposed, into);
  const { left, right } = factors;
  // An entry of ΔW is at most the product of its row's and its column's norm: sums of squares of left and right bound them.
  const size = Math.sqrt(normOf(left) * normOf(right));
  if (size <= LARGEST_WEIGHT) return factors.rank;
  const tensor = displayName(lora.b.name);
  const detail = `found scale · B·A as large as ${size.toPrecision(3)}, expected weights of magnitude up to 1e17`;
  throw new SourceMalformed({ path, tensor, rule: 'not-finite', detail });
};

const normOf = (values: Float32Array): number => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!;
  return sum;
};

const checked = (tensor: TensorEntry, bytes: Uint8Array, path: string): Float64Array => {
  const values = widenToDouble(tensor.dtype as Dtype, bytes);
  const bad = firstBadWeight(values);
  if (bad < 0) return values;
  const detail = badWeightDetail(bad, values[bad]!);
  throw new SourceMalformed({ path, tensor: displayName(tensor.name), rule: 'not-finite', detail });
};
