// Weights as devices take them: rows of a tile as they are stored, or as factors. Typed arrays and no more, so that threads
// that multiply need not load Arrow.
import type { AdapterFactors } from './adapter-factors.ts';
import { decodeDelta } from './decode-delta.ts';
import { bytesPerElement, widen } from './dtype.ts';
import type { Dtype } from './model.ts';

/** Where stored rows stand. */
export interface WeightBatchDescriptor {
  readonly slot: string;
  readonly dtype: Dtype;
  /** Features [start, stop) of the flattened slot. */
  readonly start: number;
  readonly stop: number;
  /** model_id of each row. */
  readonly models: Int32Array;
  /** rows x (stop − start) elements of `dtype`, row-major. */
  readonly bytes: Uint8Array;
}

/** Rows of weights that a device makes float32 of: as stored, or as factors. */
export type WeightRows = StoredRows | FactoredRows;

/** Weights as they are stored. */
export interface StoredRows {
  readonly kind: 'stored';
  readonly dtype: Dtype;
  readonly width: number;
  readonly models: Int32Array;
  /** From the first row's first byte to the last one's last, as they are stored, a view. */
  readonly bytes: Uint8Array;
  /** Bytes from a row's beginning to that of the next; a multiple of those of an element. */
  readonly stride: number;
}

/**
 * @param stride bytes from a row's beginning to that of the next; by default rows stand one after the other
 * @throws RangeError when the bytes do not hold exactly one row a model
 */
export const storedRows = (
  { slot, dtype, start, stop, models, bytes }: WeightBatchDescriptor,
  stride = (stop - start) * bytesPerElement(dtype),
): StoredRows => {
  const width = stop - start;
  const expected = models.length === 0 ? 0 : (models.length - 1) * stride + width * bytesPerElement(dtype);
  if (bytes.byteLength !== expected) {
    throw new RangeError(`weights of ${slot}: ${bytes.byteLength} bytes, expected ${expected}`);
  }
  return { kind: 'stored', dtype, width, models, bytes, stride };
};

/** Row i's stored bytes, a view. */
export const storedRow = ({ dtype, width, bytes, stride }: StoredRows, i: number): Uint8Array =>
  bytes.subarray(i * stride, i * stride + width * bytesPerElement(dtype));

/** Some features of LoRA modules: row i is ΔW of model i, of which only the factors are at hand. */
export interface FactoredRows {
  readonly kind: 'factored';
  readonly width: number;
  readonly models: Int32Array;
  /** The first feature of ΔW. */
  readonly start: number;
  readonly factors: readonly AdapterFactors[];
}

/** Widens features from `from` on of row `row` into `out`, as many as it holds. */
export const widenRow = (rows: WeightRows, row: number, from: number, out: Float32Array): void => {
  if (rows.kind === 'factored') {
    decodeDelta(rows.factors[row]!, rows.start + from, out);
    return;
  }
  const size = bytesPerElement(rows.dtype);
  widen(rows.dtype, storedRow(rows, row).subarray(from * size, (from + out.length) * size), out);
};
