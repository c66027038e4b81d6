// Rows of random signs, with which the engine `randomized` tests every model. A sign is keyed by seed, slot, row and feature,
// never by model, thread or tile: runs over other models have the same ones, so that their states add up. A slot's name and
// the seed give two words for every 32 rows (sha256); a feature's index is scrambled with both (the finaliser of MurmurHash3),
// and each bit is one row's sign. Cost: some 20 integer operations a feature and 32 rows, once a slot.
import { createHash } from 'node:crypto';

/** Two words for every 32 rows of a slot. */
export const signKeys = (seed: number, slot: string, rows: number): Int32Array => {
  const keys = new Int32Array(2 * Math.ceil(rows / 32));
  for (let word = 0; 2 * word < keys.length; word++) {
    const digest = createHash('sha256').update(`${seed}\0${word}\0${slot}`).digest();
    keys.set([digest.readInt32LE(0), digest.readInt32LE(4)], 2 * word);
  }
  return keys;
};

/** Rows of +1 and −1 over features [start, start + width), row-major. */
export const signRows = (keys: Int32Array, rows: number, start: number, width: number): Float32Array => {
  const out = new Float32Array(rows * width);
  for (let first = 0; first < rows; first += 32) {
    const before = keys[first / 16]!;
    const after = keys[first / 16 + 1]!;
    const last = Math.min(first + 32, rows);
    for (let i = 0; i < width; i++) {
      const bits = scramble(scramble((start + i) ^ before) ^ after);
      for (let row = first; row < last; row++) out[row * width + i] = ((bits >>> (row - first)) & 1) * 2 - 1;
    }
  }
  return out;
};

const scramble = (value: number): number => {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
};
