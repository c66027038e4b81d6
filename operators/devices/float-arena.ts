// Memory for many matrices out of a few large buffers.
import { addressOf } from '../../sources/c-library.ts';
import type { FloatAllocator } from './blas-device.ts';

/** Bytes of a buffer, unless a matrix needs more. */
const ARENA = 2 ** 24;

/** Bytes of a line of the cache: a vector that lies across two of them takes twice as long to load. */
const LINE = 64;

/**
 * Floats that begin with a line, which memory from the system does not: it begins 16 bytes into a page. Shared, though nobody shares
 * it: what a thread owns alone, V8 counts, and collects the whole heap before the first read.
 */
export const alignedFloats = (floats: number): Float32Array => {
  const values = new Float32Array(new SharedArrayBuffer(floats * 4 + LINE));
  const from = ((LINE - (addressOf(values) % LINE)) % LINE) / 4;
  return values.subarray(from, from + floats);
};

/**
 * Hands out parts of a few large buffers, so that a slot of thousands of tiles asks for memory a few times. When all parts
 * have come back the same memory is handed out again: a run of many groups touches fresh memory once.
 */
export const floatArena = (): FloatAllocator => {
  const buffers: Float32Array[] = [];
  let current = 0;
  let used = 0;
  let live = 0;
  return {
    allocate: (floats) => {
      while (current < buffers.length && used + floats > buffers[current]!.length) {
        current++;
        used = 0;
      }
      if (current === buffers.length) buffers.push(alignedFloats(Math.max(floats, ARENA / 4)));
      const part = buffers[current]!.subarray(used, used + floats);
      used += Math.ceil(floats / 16) * 16;
      live++;
      return part;
    },
    release: () => {
      if (--live > 0) return;
      current = 0;
      used = 0;
    },
  };
};
