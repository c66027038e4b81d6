// Each model's coordinates in the final subspace, and its distance from the final mean, composed from what the blocks left
// in the spool. Backwards: c_final = Mᵀ c + v and d_final = d + g·c + h hold for the newest block with M = 1, and every
// older block multiplies its own map in front. Exact as long as nothing was truncated. Cost O(blocks ℓ² k), once.
import { type DoubleProduct, jsDoubleProduct, PLAIN } from '../operators/linalg/dense-products.ts';
import type { SpooledUpdate, UpdateSpool } from './update-spool.ts';
import { SCORE_WIDTH } from './update-spool.ts';

export interface FinalCoefficients {
  /** In order of folding. */
  readonly modelIds: Int32Array;
  /** ‖x − m_final‖². */
  readonly norm2: Float64Array;
  /** models x k, row-major, signed as the written directions are. */
  readonly coordinates: Float64Array;
  readonly captured2: Float64Array;
}

/** @param product loops, unless another is given */
export const finalCoefficients = (
  spool: UpdateSpool,
  slotId: number,
  signs: Float64Array,
  product: DoubleProduct = jsDoubleProduct,
): FinalCoefficients => {
  const k = signs.length;
  const records = spool.count(slotId);
  let models = 0;
  let map: AffineMap | null = null;
  const chunks: { ids: Float64Array; values: Float64Array }[] = [];
  for (let i = records - 1; i >= 0; i--) {
    const record = spool.read(slotId, i);
    map ??= identity(record.newRows, k);
    chunks.push({ ids: record.modelIds.slice(), values: apply(record, map, k, product) });
    models += record.modelIds.length;
    map = prepend(record, map, k, product);
  }
  const modelIds = new Int32Array(models);
  const norm2 = new Float64Array(models);
  const coordinates = new Float64Array(models * k);
  const captured2 = new Float64Array(models);
  let at = 0;
  for (const { ids, values } of chunks.reverse()) {
    modelIds.set(ids, at);
    for (let i = 0; i < ids.length; i++, at++) {
      norm2[at] = Math.max(values[i * (k + 1) + k]!, 0);
      for (let j = 0; j < k; j++) {
        const value = values[i * (k + 1) + j]! * signs[j]!;
        coordinates[at * k + j] = value;
        captured2[at] = captured2[at]! + value * value;
      }
    }
  }
  return { modelIds, norm2, coordinates, captured2 };
};

/** Takes what is known of models after a block to final coordinates, k of them, and a squared distance behind those. */
interface AffineMap {
  /** rows x (k + 1): what a unit of each coordinate adds. */
  readonly matrix: Float64Array;
  /** k + 1: what is added to all models. */
  readonly offset: Float64Array;
}

const identity = (rows: number, k: number): AffineMap => {
  const matrix = new Float64Array(rows * (k + 1));
  for (let j = 0; j < Math.min(rows, k); j++) matrix[j * (k + 1) + j] = 1;
  return { matrix, offset: new Float64Array(k + 1) };
};

/** The block's models: b x (k + 1). */
const apply = (record: SpooledUpdate, { matrix, offset }: AffineMap, k: number, product: DoubleProduct) => {
  const b = record.modelIds.length;
  const rows = record.newRows;
  const values = new Float64Array(b * (k + 1));
  for (let i = 0; i < b; i++) {
    values.set(offset, i * (k + 1));
    values[i * (k + 1) + k] = offset[k]! + record.scores[i * SCORE_WIDTH + 4]!;
  }
  if (rows > 0) product(PLAIN, { m: b, n: k + 1, k: rows }, record.coordinates, rows, matrix, k + 1, values, k + 1);
  return values;
};

/** The map of what was known before a block: through the block's own map first. */
const prepend = (record: SpooledUpdate, after: AffineMap, k: number, product: DoubleProduct): AffineMap => {
  const { oldRows, newRows, rotation, gradient } = record;
  const matrix = new Float64Array(oldRows * (k + 1));
  const offset = after.offset.slice();
  for (let o = 0; o < oldRows; o++) matrix[o * (k + 1) + k] = gradient[o]!;
  offset[k] = offset[k]! + record.constant;
  if (newRows > 0) {
    product(PLAIN, { m: 1, n: k + 1, k: newRows }, record.offset, newRows, after.matrix, k + 1, offset, k + 1);
    if (oldRows > 0)
      product(PLAIN, { m: oldRows, n: k + 1, k: newRows }, rotation, newRows, after.matrix, k + 1, matrix, k + 1);
  }
  return { matrix, offset };
};
