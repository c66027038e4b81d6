// Two sets of models, `good` and `bad`, of one slot that is wide enough to come in parts, and of a small one.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { normals } from '../operators/planted.ts';
import { type TensorToWrite, writeSafetensors } from '../sources/write-safetensors.ts';

export const MODELS = 11;
/** 300,000 weights: 19 tiles, the last one not whole. */
export const [ROWS, COLS] = [500, 600] as const;

export interface WideModels {
  /** Whether a model has the wide slot as F64. */
  readonly isDouble: (model: number) => boolean;
  /** Makes values of some models' wide slot, in the set `bad`, such that they cannot be folded. */
  readonly spoil: (model: number, wide: Float32Array) => void;
  /** What stands before the slots in a model's file. */
  readonly before?: (model: number) => readonly TensorToWrite[];
}

export const writeWideModels = (root: string, { isDouble, spoil, before = () => [] }: WideModels): void => {
  const normal = normals(5);
  for (const set of ['good', 'bad']) mkdirSync(join(root, set));
  const wide = Float32Array.from({ length: ROWS * COLS }, () => normal());
  for (let m = 0; m < MODELS; m++) {
    for (let i = 0; i < wide.length; i++) wide[i] = wide[i]! * 0.9 + 0.1 * Math.sin(i * (m + 1));
    const small = Float32Array.from({ length: 600 }, () => normal());
    const bad = wide.slice();
    spoil(m, bad);
    for (const [set, values] of [
      ['good', wide],
      ['bad', bad],
    ] as const) {
      const stored = isDouble(m)
        ? { dtype: 'F64', data: new Uint8Array(Float64Array.from(values).buffer) }
        : { dtype: 'F32', data: values };
      writeSafetensors(join(root, set, `m${String(m).padStart(2, '0')}.safetensors`), [
        ...before(m),
        { name: 'wide', shape: [ROWS, COLS], ...stored },
        { name: 'small', dtype: 'F32', shape: [20, 30], data: small },
      ]);
    }
  }
};
