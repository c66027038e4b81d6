// The data every contender reads: 256 models of one 512 x 512 float32 tensor, as safetensors files, 268 MB in all.
// Fine-tunes in their structure: a base, a common step away from it, 24 shared directions with a decaying spectrum,
// and independent noise. Seeded, written once; dataset.json is written last and marks a complete set.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ensureWritten, safetensorsHeader } from './model-files.mjs';
import { generator } from './random.mjs';

export const DATASET = {
  models: 256,
  rows: 512,
  cols: 512,
  directions: 24,
  baseStd: 0.03,
  updateStd: 1e-3,
  decay: 0.75,
  noiseStd: 1e-4,
  seed: 20251,
};
export const FEATURES = DATASET.rows * DATASET.cols;
export const DATASET_BYTES = DATASET.models * FEATURES * 4;

function write(folder) {
  const normal = generator(DATASET.seed);
  const draw = (std) => Float32Array.from({ length: FEATURES }, () => std * normal());
  const base = draw(DATASET.baseStd);
  const directions = Array.from({ length: DATASET.directions }, (_, j) =>
    draw(DATASET.updateStd * (j + 1) ** -DATASET.decay),
  );
  const head = safetensorsHeader({
    weight: { dtype: 'F32', shape: [DATASET.rows, DATASET.cols], data_offsets: [0, FEATURES * 4] },
  });
  const weights = new Float64Array(FEATURES);
  for (let model = 0; model < DATASET.models; model++) {
    for (let i = 0; i < FEATURES; i++) weights[i] = base[i] + DATASET.noiseStd * normal();
    for (const [j, direction] of directions.entries()) {
      const along = normal() + (j === 0 ? 1 : 0);
      for (let i = 0; i < FEATURES; i++) weights[i] += along * direction[i];
    }
    const name = `model-${String(model).padStart(3, '0')}.safetensors`;
    writeFileSync(join(folder, name), Buffer.concat([head, Buffer.from(Float32Array.from(weights).buffer)]));
  }
}

/** Writes the data set into `folder` unless it is there, and returns the folder. */
export function ensureDataset(folder) {
  return ensureWritten({ folder, marker: join(folder, '..', 'dataset.json'), set: DATASET, write });
}
