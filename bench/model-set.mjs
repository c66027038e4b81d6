// Data sets of many slots, for the parts that need gigabytes of them: safetensors files, seeded (write-models.mjs). Written once;
// set.json is written last and marks a complete set.
import { execFileSync } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { join } from 'node:path';
import { ensureWritten } from './model-files.mjs';

/** What a part leaves free on the disk, for the runs' own files among others. */
const SPARE_BYTES = 4e9;

export const features = ([rows, cols]) => rows * cols;

/** Bytes of a weight; `dtype` is F32 unless the set says BF16. */
export const weightBytes = ({ dtype }) => (dtype === 'BF16' ? 2 : 4);

/** Bytes of a model's weights, of `{models, shapes, seed}` and, where it is not F32, `dtype`. */
export const modelBytes = (set) => set.shapes.reduce((sum, shape) => sum + features(shape) * weightBytes(set), 0);

export const setBytes = (set) => set.models * modelBytes(set);

export const modelName = (model) => `model-${String(model).padStart(4, '0')}.safetensors`;

/** Writes a set into `folder`/models unless it is there, and returns that folder; throws where the disk has no room. */
export function ensureModelSet(folder, set) {
  const write = (models) => {
    const { bavail, bsize } = statfsSync(models);
    const needed = setBytes(set) + SPARE_BYTES;
    if (bavail * bsize < needed) {
      const [have, want] = [bavail * bsize, needed].map((bytes) => (bytes / 1e9).toFixed(1));
      throw new Error(`${models}: expected ${want} GB of free disk, found ${have} GB`);
    }
    console.error(`writing ${models}: ${set.models} models, ${(setBytes(set) / 1e9).toFixed(2)} GB`);
    const script = join(import.meta.dirname, 'write-models.mjs');
    execFileSync(process.execPath, [script, models, JSON.stringify(set)], { stdio: ['ignore', 'inherit', 'inherit'] });
  };
  return ensureWritten({ folder: join(folder, 'models'), marker: join(folder, 'set.json'), set, write });
}
