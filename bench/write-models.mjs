// Writes the models of a set, about as fast as the disk takes them: every processor writes some of them. Every vector (base, shared
// directions, a model's own noise) is one pool of normal draws seen from another offset, so that a weight costs a few table
// look-ups and nothing but the pool is kept in memory.   write-models.mjs FOLDER SET
import { closeSync, openSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { safetensorsHeader } from './model-files.mjs';
import { features, modelName, weightBytes } from './model-set.mjs';
import { generator } from './random.mjs';

const POOL = 2 ** 22;
const MASK = POOL - 1;
const DIRECTIONS = 6;
const BASE_STD = 0.03;
const UPDATE_STD = 1e-3;
const NOISE_STD = 2e-4;
/** Weights drawn before they are written: 8 MiB. */
const WINDOW = 2 ** 21;
function headerOf(set) {
  const { shapes, dtype = 'F32' } = set;
  const entries = {};
  let end = 0;
  shapes.forEach((shape, slot) => {
    const start = end;
    end += features(shape) * weightBytes(set);
    entries[`layer.${String(slot).padStart(3, '0')}.weight`] = { dtype, shape, data_offsets: [start, end] };
  });
  return safetensorsHeader(entries);
}

/** Fills `out` with a slot's weights from `start` on: base + Σ along_j direction_j + noise. */
function fill(out, start, pool, offsets, along) {
  const [base, noise, d0, d1, d2, d3, d4, d5] = offsets.map((offset) => offset + start);
  const [a0, a1, a2, a3, a4, a5] = along;
  for (let i = 0; i < out.length; i++) {
    out[i] =
      BASE_STD * pool[(base + i) & MASK] +
      NOISE_STD * pool[(noise + i) & MASK] +
      a0 * pool[(d0 + i) & MASK] +
      a1 * pool[(d1 + i) & MASK] +
      a2 * pool[(d2 + i) & MASK] +
      a3 * pool[(d3 + i) & MASK] +
      a4 * pool[(d4 + i) & MASK] +
      a5 * pool[(d5 + i) & MASK];
  }
}

/** Weights as they stand in a file. BF16 is float32's upper half, rounded to nearest even. */
function storedAs({ dtype }, weights) {
  if (dtype !== 'BF16') return new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
  const bits = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
  const halves = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) halves[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16;
  return new Uint8Array(halves.buffer);
}

/** Writes every model whose number is `share` modulo `shares`. */
function writeModels(folder, set, share, shares) {
  const normal = generator(set.seed);
  const pool = Float32Array.from({ length: POOL }, normal);
  const somewhere = () => Math.floor(Math.abs(normal()) * POOL) & MASK;
  const shared = set.shapes.map(() => ({
    base: somewhere(),
    directions: Array.from({ length: DIRECTIONS }, somewhere),
  }));
  const header = headerOf(set);
  const window = new Float32Array(WINDOW);
  for (let model = 0; model < set.models; model++) {
    const places = set.shapes.map((_, slot) => ({
      offsets: [shared[slot].base, somewhere(), ...shared[slot].directions],
      along: Array.from({ length: DIRECTIONS }, (_, j) => (UPDATE_STD * normal()) / (j + 1)),
    }));
    if (model % shares !== share) continue;
    const fd = openSync(join(folder, modelName(model)), 'w');
    try {
      writeSync(fd, header);
      let filled = 0;
      const flush = () => {
        writeSync(fd, storedAs(set, window.subarray(0, filled)));
        filled = 0;
      };
      set.shapes.forEach((shape, slot) => {
        const { offsets, along } = places[slot];
        for (let at = 0; at < features(shape); ) {
          const count = Math.min(features(shape) - at, WINDOW - filled);
          fill(window.subarray(filled, filled + count), at, pool, offsets, along);
          filled += count;
          at += count;
          if (filled === WINDOW) flush();
        }
      });
      if (filled > 0) flush();
    } finally {
      closeSync(fd);
    }
  }
}

if (isMainThread) {
  const [folder, set] = process.argv.slice(2);
  const shares = availableParallelism();
  for (let share = 0; share < shares; share++)
    new Worker(new URL(import.meta.url), { workerData: { folder, set: JSON.parse(set), share, shares } });
} else {
  const { folder, set, share, shares } = workerData;
  writeModels(folder, set, share, shares);
}
