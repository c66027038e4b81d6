// Reads rows that are still in their files, a tile at a time, into memory of its own that stays in the cache.
import { readSync } from 'node:fs';
import { bytesPerElement } from '../sources/dtype.ts';
import type { Dtype } from '../sources/model.ts';
import type { OpenRows } from '../sources/open-block.ts';
import type { Tile } from '../sources/tile.ts';

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

export class RowReader {
  /** Each dtype has memory of its own: a tile may have rows of several. */
  readonly #buffers = new Map<Dtype, Uint8Array>();

  /**
   * A tile's rows of one dtype, one after the other as a staged tile has them, valid until the next tile. Rows of no
   * position are not read; those that cannot be read are zero, and told to `unread`.
   */
  read(rows: OpenRows, tile: Tile, unread: (row: UnreadRow) => void): Uint8Array {
    const { dtype, models, positions, fds, at } = rows;
    const size = bytesPerElement(dtype);
    const length = tile.width * size;
    const bytes = this.#bytes(dtype, models.length * length);
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
    this.#buffers.clear();
  }

  #bytes(dtype: Dtype, length: number): Uint8Array {
    let known = this.#buffers.get(dtype);
    if (known === undefined || known.byteLength < length) {
      // Shared memory, although it is not shared: V8 would count any other, and collect the whole heap for it.
      known = new Uint8Array(new SharedArrayBuffer(length));
      this.#buffers.set(dtype, known);
    }
    return known.subarray(0, length);
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
