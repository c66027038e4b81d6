// Reads rows that are still in their files, a tile at a time, into memory of its own that stays in the cache, or into the device's.
import { readSync } from 'node:fs';
import { bytesPerElement } from '../sources/dtype.ts';
import type { Dtype } from '../sources/model.ts';
import type { OpenRows } from '../sources/open-block.ts';
import type { Tile } from '../sources/tile.ts';
import type { RowMemory } from './devices/device.ts';

/** A row that could not be read. */
export interface UnreadRow {
  readonly model: number;
  /** Flat index into the slot's weights at which its tile begins. */
  readonly index: number;
  /** The byte of the file from which nothing more came. */
  readonly at: number;
  /** Bytes that were still to come. */
  readonly missing: number;
  /** What the system said; null where the file just ends. */
  readonly cause: string | null;
}

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

  constructor(newMemory: () => RowMemory = () => new SharedRows()) {
    this.#newMemory = newMemory;
  }

  /**
   * A tile's rows of one dtype, one after the other as a staged tile has them, valid until the next tile. Rows of no
   * position are not read; those that cannot be read are zero, and told to `unread`.
   */
  read(rows: OpenRows, tile: Tile, unread: (row: UnreadRow) => void): Uint8Array {
    const { dtype, models, positions, fds, at } = rows;
    const size = bytesPerElement(dtype);
    const length = tile.width * size;
    const bytes = this.#memoryOf(dtype).take(models.length * length);
    for (let i = 0; i < models.length; i++) {
      if (positions[i]! < 0) continue;
      const row = bytes.subarray(i * length, (i + 1) * length);
      const failed = fill(fds[i]!, row, at[i]! + tile.start * size);
      if (failed === null) continue;
      row.fill(0);
      unread({ model: models[i]!, index: tile.start, ...failed });
    }
    return bytes;
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
