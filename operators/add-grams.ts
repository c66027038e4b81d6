// Grams of many tiles added up by several threads, each some of the cells: the bits are those of one thread that adds them all.
import type { AddTask } from './tile-messages.ts';

export const addGrams = ({ grams, tiles, cells, from, to }: AddTask): null => {
  const part = (row: number): Float64Array => new Float64Array(grams, (row * cells + from) * 8, to - from);
  const out = part(tiles);
  for (let tile = 0; tile < tiles; tile++) addOnto(out, part(tile));
  return null;
};

// Small, so that it is compiled early.
const addOnto = (out: Float64Array, more: Float64Array): void => {
  for (let i = 0; i < out.length; i++) out[i] = out[i]! + more[i]!;
};
