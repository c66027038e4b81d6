// Grams of many tiles added up by several threads, each some of the cells: the bits are those of one thread that adds them all.
import { addTo, type DoubleProduct } from './linalg/dense-products.ts';
import type { AddTask } from './tile-messages.ts';

export const addGrams = (product: DoubleProduct, { grams, tiles, cells, from, to }: AddTask): null => {
  const part = (row: number): Float64Array => new Float64Array(grams, (row * cells + from) * 8, to - from);
  const out = part(tiles);
  for (let tile = 0; tile < tiles; tile++) addTo(out, part(tile), product);
  return null;
};
