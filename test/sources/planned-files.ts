// Models in files, planned as a run plans them.
import { join } from 'node:path';
import { Effect } from 'effect';
import { readModelHeader } from '../../sources/read-model-header.ts';
import type { PlannedModel, PlannedSlot } from '../../sources/reading-plan.ts';
import { type TensorToWrite, writeSafetensors } from './write-safetensors.ts';

/** @param path a file, or the folder of a sharded checkpoint */
export const plannedModel = async (
  id: number,
  path: string,
  layout: 'file' | 'sharded' = 'file',
): Promise<PlannedModel> => {
  const entry = layout === 'file' ? path : join(path, 'model.safetensors.index.json');
  const name = `model-${id}`;
  const header = await Effect.runPromise(readModelHeader({ name, source: path, path, layout, entry }));
  return { id, name, header };
};

export const writeModel = async (
  folder: string,
  id: number,
  tensors: readonly TensorToWrite[],
): Promise<PlannedModel> => {
  const path = join(folder, `${id}.safetensors`);
  writeSafetensors(path, tensors);
  return plannedModel(id, path);
};

export const plannedSlot = (id: number, name: string, rows: number, cols: number): PlannedSlot => ({
  id,
  name,
  rows,
  cols,
  features: rows * cols,
  tensorIn: (model) => model.header.tensors.get(name)!,
});
