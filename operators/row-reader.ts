// Reads rows that are still in their files, a tile or a part of one at a time: to where they are multiplied, into memory of its own
// that stays in the cache, or into the device's.
// Of rows that were fetched it gives a view where they are evenly spaced.
import { readSync } from 'node:fs';
import { addressOf, cFunction } from '../sources/c-library.ts';
import { bytesPerElement } from '../sources/dtype.ts';
import type { FetchedRows } from '../sources/fetching.ts';
import type { Dtype } from '../sources/model.ts';
import type { OpenRows } from '../sources/open-block.ts';
import type { Tile } from '../sources/tile.ts';
import type { RowBytes, RowMemory } from './devices/device.ts';

/** A row that could not be read. */
export interface UnreadRow {
  readonly model: number;
  /** Flat index into the slot's weights at which what is read together begins. */
  readonly index: number;
  /** The byte of the file from which nothing more came. */
  readonly at: number;
  /** Bytes that were still to come. */
  readonly missing: number;
  /** What the system said; null where the file just ends. */
  readonly cause: string | null;
}

/** Reads bytes at `position` to an address; returns how many came, or −1. */
type Pread = (fd: number, to: number, bytes: number, position: number) => number;

let bound: Pread | null | undefined;

/** The system's own, which takes a whole row: `readSync` costs as much again, and its code is compiled beside the first rows. */
const pread = (): Pread | null => {
  if (bound === undefined) bound = cFunction<Pread>('pread', 'int64', ['int', 'uint64', 'uint64', 'int64']);
  return bound;
};

/** One buffer, taken again for every tile. */
class SharedRows implements RowMemory {
  #buffer: Uint8Array = new Uint8Array(0);

  take(bytes: number): Uint8Array {
    // Shared memory, although it is not shared: V8 would count any other, and collect the whole heap for it.
    if (this.#buffer.byteLength < bytes) this.#buffer = new Uint8Array(new SharedArrayBuffer(bytes));
    return this.#buffer.subarray(0, bytes);
  }

  close(): void {
    this.#buffer = new Uint8Array(0);
  }
}

export class RowReader {
  /** Each dtype has memory of its own: a tile may have rows of several. */
  readonly #memories = new Map<Dtype, RowMemory>();
  readonly #newMemory: () => RowMemory;
  /** Whether whoever takes the rows wants them in memory of its own. */
  readonly #isLent: boolean;
  readonly #pread: Pread | null;

  /** @param newMemory where the device lends the memory that rows go to */
  constructor(newMemory?: () => RowMemory) {
    this.#newMemory = newMemory ?? (() => new SharedRows());
    this.#isLent = newMemory !== undefined;
    this.#pread = pread();
  }

  /**
   * A tile's rows of one dtype, valid until the next is read. Rows of no position are not read; those that cannot be read are
   * zero, and told to `unread`.
   * @param tile or features of one
   * @param place where all of them go; null for memory of the reader's own
   */
  read(rows: OpenRows, tile: Tile, unread: (row: UnreadRow) => void, place: RowBytes | null = null): RowBytes {
    const { dtype, models, positions, fds, at, fetched } = rows;
    const size = bytesPerElement(dtype);
    const width = tile.width * size;
    const here = fetched === undefined || this.#isLent ? null : viewOf(fetched, tile.start * size, width, size);
    if (here !== null) return here;
    const stride = place?.stride ?? width;
    const length = (models.length - 1) * stride + width;
    const bytes = place?.bytes.subarray(0, length) ?? this.#memoryOf(dtype).take(length);
    const to = this.#pread === null ? 0 : addressOf(bytes);
    for (let i = 0; i < models.length; i++) {
      if (positions[i]! < 0) continue;
      const from = fetched?.at[i] ?? Number.NaN;
      if (fetched !== undefined && !Number.isNaN(from)) {
        bytes.set(new Uint8Array(fetched.buffer, from + tile.start * size, width), i * stride);
        continue;
      }
      const position = at[i]! + tile.start * size;
      if (this.#pread?.(fds[i]!, to + i * stride, width, position) === width) continue;
      // What did not come at once is asked for piece by piece, by who says why it does not come.
      const row = bytes.subarray(i * stride, i * stride + width);
      const failed = fill(fds[i]!, row, position);
      if (failed === null) continue;
      row.fill(0);
      unread({ model: models[i]!, index: tile.start, ...failed });
    }
    return { bytes, stride };
  }

  /** Gives its memory back. */
  clear(): void {
    for (const memory of this.#memories.values()) memory.close();
    this.#memories.clear();
  }

  #memoryOf(dtype: Dtype): RowMemory {
    let known = this.#memories.get(dtype);
    if (known === undefined) {
      known = this.#newMemory();
      this.#memories.set(dtype, known);
    }
    return known;
  }
}

/**
 * `bytes` of each row from byte `from` on, where they stand; null unless all were fetched, evenly spaced and each element in a place
 * of its own.
 */
const viewOf = ({ buffer, at }: FetchedRows, from: number, bytes: number, size: number): RowBytes | null => {
  const first = at[0]! + from;
  const stride = at.length > 1 ? at[1]! - at[0]! : bytes;
  if (!(stride >= bytes) || stride % size !== 0 || first % size !== 0) return null;
  for (let i = 1; i < at.length; i++) if (at[i]! - at[i - 1]! !== stride) return null;
  return { bytes: new Uint8Array(buffer, first, (at.length - 1) * stride + bytes), stride };
};

/** Fills a row with the bytes from `position` on; null when it is full. */
const fill = (fd: number, row: Uint8Array, position: number): Pick<UnreadRow, 'at' | 'missing' | 'cause'> | null => {
  let done = 0;
  while (done < row.byteLength) {
    const failed = (cause: string | null) => ({ at: position + done, missing: row.byteLength - done, cause });
    try {
      const read = readSync(fd, row, done, row.byteLength - done, position + done);
      if (read === 0) return failed(null);
      done += read;
    } catch (error) {
      return failed((error as Error).message);
    }
  }
  return null;
};
