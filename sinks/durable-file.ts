// A file that appears under its name whole and synced, or not at all: it is written as `.tmp-<name>` beside its
// place, synced, renamed, and the folder synced. A crash leaves the old file or the new one, and at most one
// `.tmp-` file, which the next writer of the same name removes. One sync a file: 5 to 30 ms on a local disk.
import { basename, dirname, join } from 'node:path';
import { type Disk, nodeDisk } from './disk.ts';
import { SinkFailed } from './errors.ts';
import { formatBytes } from './human-format.ts';

/** Files under this prefix are never complete; nothing reads them. */
export const TEMPORARY_PREFIX = '.tmp-';

const FULL = new Set(['ENOSPC', 'EDQUOT']);

/** What the operating system said, as the error every sink throws. */
export function sinkFailure(path: string, doing: string, cause: unknown): SinkFailed {
  if (cause instanceof SinkFailed) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code !== undefined && FULL.has(code)) {
    return new SinkFailed({ path, reason: 'no-space', detail: `no space left while ${doing} (${code})` });
  }
  return new SinkFailed({ path, reason: 'io', detail: `failed while ${doing}: ${message ?? String(cause)}` });
}

/** Writes all of `pieces`, however short each write is. Throws what the disk throws. */
export function writeFully(disk: Disk, fd: number, pieces: readonly Uint8Array[]): void {
  let rest = pieces.filter((piece) => piece.length > 0);
  while (rest.length > 0) {
    let count = disk.write(fd, rest);
    // A write of 0 bytes that is no error would loop for ever.
    if (count <= 0) throw Object.assign(new Error(`EIO: a write took ${count} bytes`), { code: 'EIO' });
    let whole = 0;
    while (whole < rest.length && count >= rest[whole]!.length) count -= rest[whole++]!.length;
    rest = rest.slice(whole);
    if (count > 0) rest[0] = rest[0]!.subarray(count);
  }
}

/**
 * A file in the making. `write` appends, `commit` makes it durable under `path`, `abort` leaves nothing.
 * Every failure throws `SinkFailed` after the temporary file is gone; a second call throws the same error.
 */
export class DurableFile {
  readonly path: string;
  readonly #temporary: string;
  readonly #disk: Disk;
  #fd: number | null = null;
  #written = 0;
  #failure: SinkFailed | null = null;

  constructor(path: string, disk: Disk = nodeDisk) {
    this.path = path;
    this.#disk = disk;
    this.#temporary = join(dirname(path), TEMPORARY_PREFIX + basename(path));
    try {
      disk.remove(this.#temporary);
    } catch {
      // Nothing was left behind, or `create` says why it cannot be replaced.
    }
    this.#attempt('creating it', () => {
      this.#fd = disk.create(this.#temporary);
    });
  }

  /** Bytes written so far. */
  get written(): number {
    return this.#written;
  }

  /** Appends `bytes`, which may lie over a SharedArrayBuffer; they are not kept. */
  write(bytes: Uint8Array): void {
    this.writeAll([bytes]);
  }

  /** Appends all pieces in order, in as few system calls as the disk allows. */
  writeAll(pieces: readonly Uint8Array[]): void {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    this.#attempt(`writing ${formatBytes(length)} after the first ${formatBytes(this.#written)}`, () => {
      writeFully(this.#disk, this.#open(), pieces);
      this.#written += length;
    });
  }

  /** Syncs, renames, syncs the folder. A sync that failed is never tried again: the kernel may have dropped the pages. */
  commit(): void {
    this.#attempt(`syncing its ${formatBytes(this.#written)}`, () => {
      const fd = this.#open();
      this.#disk.sync(fd);
      this.#fd = null;
      this.#disk.close(fd);
    });
    this.#attempt(`giving its ${formatBytes(this.#written)} their name`, () => {
      this.#disk.rename(this.#temporary, this.path);
      this.#disk.syncFolder(dirname(this.path));
    });
  }

  /** As `commit`, but the disk is waited for on another thread. Rejects with what `commit` throws. */
  async commitLater(): Promise<void> {
    const fd = this.#open();
    try {
      await this.#disk.syncLater(fd);
      if (this.#fd === fd) await this.#disk.forget(fd);
    } catch (cause) {
      this.#attempt(`syncing its ${formatBytes(this.#written)}`, () => {
        throw cause;
      });
    }
    this.commit();
  }

  /** Removes what was written; does nothing after `commit`. */
  abort(): void {
    if (this.#fd === null) return;
    this.#discard();
  }

  #open(): number {
    if (this.#fd === null) throw new Error(`${this.path} is closed`);
    return this.#fd;
  }

  #attempt(doing: string, step: () => void): void {
    if (this.#failure !== null) throw this.#failure;
    try {
      step();
    } catch (cause) {
      this.#failure = sinkFailure(this.path, doing, cause);
      this.#discard();
      throw this.#failure;
    }
  }

  /** Frees the space at once: on a full disk that is what lets the run write its last words. */
  #discard(): void {
    const fd = this.#fd;
    this.#fd = null;
    try {
      if (fd !== null) this.#disk.close(fd);
    } catch {
      // The failure that brought us here is the one to report.
    }
    try {
      this.#disk.remove(this.#temporary);
    } catch {
      // Never created, or already renamed.
    }
  }
}

/** Writes `value` as indented JSON with a last newline, durably. Throws `SinkFailed`. */
export function writeJsonDurably(path: string, value: unknown, disk: Disk = nodeDisk): void {
  writeTextDurably(path, `${JSON.stringify(value, null, 2)}\n`, disk);
}

/** Writes a text, durably. Throws `SinkFailed`. */
export function writeTextDurably(path: string, text: string, disk: Disk = nodeDisk): void {
  const file = new DurableFile(path, disk);
  file.write(Buffer.from(text));
  file.commit();
}
