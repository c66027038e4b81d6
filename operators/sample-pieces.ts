// How models' samples are dealt to threads: ranges of samples, several to a task where models are small. By shapes alone, so
// that sums over pieces, added in order, depend on nothing else.
import type { SampleRange } from './scatter-tasks.ts';

/** Weights that a task multiplies, about. */
const WEIGHTS_A_TASK = 2 ** 20;

/** @param side numbers a sample; @param models whose samples stand in memory */
export const samplePieces = (features: number, side: number, models: number): readonly (readonly SampleRange[])[] => {
  const count = features / side;
  const step = Math.max(1, Math.min(count, Math.floor(WEIGHTS_A_TASK / side)));
  const pieces: SampleRange[] = [];
  for (let model = 0; model < models; model++) {
    for (let from = 0; from < count; from += step) pieces.push({ model, from, to: Math.min(from + step, count) });
  }
  const together = Math.max(1, Math.floor(WEIGHTS_A_TASK / Math.min(features, WEIGHTS_A_TASK)));
  const tasks: SampleRange[][] = [];
  for (let at = 0; at < pieces.length; at += together) tasks.push(pieces.slice(at, at + together));
  return tasks;
};
