// Each model's coordinates in the final subspace, and its distance from the final mean, composed from what the blocks left
// in the spool. Backwards: c_final = Mᵀ c + v and d_final = d + g·c + h hold for the newest block with M = 1, and every
// older block multiplies its own map in front. Exact as long as nothing was truncated. Cost O(blocks ℓ² k), once.
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

export const finalCoefficients = (spool: UpdateSpool, slotId: number, signs: Float64Array): FinalCoefficients => {
  const k = signs.length;
  const records = spool.count(slotId);
  let models = 0;
  let map: AffineMap | null = null;
  const chunks: { ids: Float64Array; norm2: Float64Array; coordinates: Float64Array }[] = [];
  for (let i = records - 1; i >= 0; i--) {
    const record = spool.read(slotId, i);
    map ??= identity(record.newRows, k);
    chunks.push(apply(record, map, k));
    models += record.modelIds.length;
    map = prepend(record, map, k);
  }
  const modelIds = new Int32Array(models);
  const norm2 = new Float64Array(models);
  const coordinates = new Float64Array(models * k);
  const captured2 = new Float64Array(models);
  let at = 0;
  for (const chunk of chunks.reverse()) {
    modelIds.set(chunk.ids, at);
    norm2.set(chunk.norm2, at);
    coordinates.set(chunk.coordinates, at * k);
    at += chunk.ids.length;
  }
  for (let i = 0; i < models; i++) {
    for (let j = 0; j < k; j++) {
      const value = coordinates[i * k + j]! * signs[j]!;
      coordinates[i * k + j] = value;
      captured2[i] = captured2[i]! + value * value;
    }
  }
  return { modelIds, norm2, coordinates, captured2 };
};

/** Takes coordinates after a block to final ones. */
interface AffineMap {
  /** rows x k. */
  readonly matrix: Float64Array;
  readonly offset: Float64Array;
  readonly gradient: Float64Array;
  readonly constant: number;
}

const identity = (rows: number, k: number): AffineMap => {
  const matrix = new Float64Array(rows * k);
  for (let j = 0; j < Math.min(rows, k); j++) matrix[j * k + j] = 1;
  return { matrix, offset: new Float64Array(k), gradient: new Float64Array(rows), constant: 0 };
};

const apply = (record: SpooledUpdate, map: AffineMap, k: number) => {
  const b = record.modelIds.length;
  const rows = record.newRows;
  const coordinates = new Float64Array(b * k);
  const norm2 = new Float64Array(b);
  for (let i = 0; i < b; i++) {
    const c = record.coordinates.subarray(i * rows, (i + 1) * rows);
    let distance = record.scores[i * SCORE_WIDTH + 4]! + map.constant;
    for (let j = 0; j < k; j++) coordinates[i * k + j] = map.offset[j]!;
    for (let l = 0; l < rows; l++) {
      distance += map.gradient[l]! * c[l]!;
      for (let j = 0; j < k; j++) {
        coordinates[i * k + j] = coordinates[i * k + j]! + map.matrix[l * k + j]! * c[l]!;
      }
    }
    norm2[i] = Math.max(distance, 0);
  }
  return { ids: record.modelIds.slice(), norm2, coordinates };
};

/** The map from coordinates before a block: through the block's own map first. */
const prepend = (record: SpooledUpdate, map: AffineMap, k: number): AffineMap => {
  const { oldRows, newRows, rotation } = record;
  const matrix = new Float64Array(oldRows * k);
  const gradient = Float64Array.from(record.gradient);
  const offset = Float64Array.from(map.offset);
  let constant = map.constant + record.constant;
  for (let l = 0; l < newRows; l++) {
    constant += map.gradient[l]! * record.offset[l]!;
    for (let j = 0; j < k; j++) offset[j] = offset[j]! + map.matrix[l * k + j]! * record.offset[l]!;
    for (let o = 0; o < oldRows; o++) {
      const w = rotation[o * newRows + l]!;
      gradient[o] = gradient[o]! + w * map.gradient[l]!;
      for (let j = 0; j < k; j++) matrix[o * k + j] = matrix[o * k + j]! + w * map.matrix[l * k + j]!;
    }
  }
  return { matrix, offset, gradient, constant };
};
