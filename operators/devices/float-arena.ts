// Memory for many matrices out of a few large buffers.
import { addressOf } from '../../sources/c-library.ts';
import type { FloatAllocator } from './blas-device.ts';

/** Bytes of a buffer, unless a matrix needs more. */
const ARENA = 2 ** 24;

/** Bytes of a line of the cache: a vector that lies across two of them takes twice as long to load. */
const LINE = 64;

/**
 * Floats that begin with a line, which memory from the system does not: it begins 16 bytes into a page. Shared, even where nobody
 * shares it: what a thread owns alone, V8 counts, and collects the whole heap before the first read.
 */
export const alignedFloats = (floats: number): Float32Array => {
  const values = new Float32Array(new SharedArrayBuffer(floats * 4 + LINE));
  const from = ((LINE - (addressOf(values) % LINE)) % LINE) / 4;
  return values.subarray(from, from + floats);
};

/** Where a part begins: in which buffer, and at which of its floats, a multiple of 16. */
export interface PlaceInArena {
  readonly buffer: number;
  readonly at: number;
}

/**
 * Hands out parts of a few large buffers, so that a slot of thousands of tiles asks for memory a few times. When all parts
 * have come back the same memory is handed out again: a run of many groups touches fresh memory once.
 */
export class FloatArena implements FloatAllocator {
  readonly #buffers: Float32Array[] = [];
  #current = 0;
  #used = 0;
  #live = 0;

  get buffers(): readonly Float32Array[] {
    return this.#buffers;
  }

  /** A part for whoever has the buffers. */
  place(floats: number): PlaceInArena {
    while (this.#current < this.#buffers.length && this.#used + floats > this.#buffers[this.#current]!.length) {
      this.#current++;
      this.#used = 0;
    }
    if (this.#current === this.#buffers.length) this.#buffers.push(alignedFloats(Math.max(floats, ARENA / 4)));
    const place = { buffer: this.#current, at: this.#used };
    this.#used += Math.ceil(floats / 16) * 16;
    this.#live++;
    return place;
  }

  allocate(floats: number): Float32Array {
    const { buffer, at } = this.place(floats);
    return this.#buffers[buffer]!.subarray(at, at + floats);
  }

  release(): void {
    if (--this.#live <= 0) this.releaseAll();
  }

  /** Nothing that was handed out is used any more. */
  releaseAll(): void {
    this.#current = 0;
    this.#used = 0;
    this.#live = 0;
  }
}
