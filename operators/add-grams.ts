// Grams of many tiles added up by several threads, each some of the cells: the bits are those of one thread that adds them all.
import type { AddTask } from './tile-messages.ts';

export const addGrams = ({ grams, tiles, sums, from, to }: AddTask): null => {
  const out = new Float64Array(sums, from * 8, to - from);
  for (let tile = 0; tile < tiles; tile++)
    addOnto(out, new Float64Array(grams, tile * sums.byteLength + from * 8, to - from));
  return null;
};

// Small, so that it is compiled early.
const addOnto = (out: Float64Array, more: Float64Array): void => {
  for (let i = 0; i < out.length; i++) out[i] = out[i]! + more[i]!;
};
