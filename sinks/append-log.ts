// A file that only grows: records are appended, a checkpoint remembers how long it was and the sha256 of all bytes up to
// there, and a resumed run cuts it back to that and goes on. What stands behind the length was written after the
// checkpoint and is done again.
import { createHash, type Hash } from 'node:crypto';
import { type Disk, nodeDisk } from './disk.ts';
import { sinkFailure, writeFully } from './durable-file.ts';
import { DamagedFile } from './errors.ts';
import { hashBytes } from './hash-bytes.ts';

/** A log as it was at a checkpoint. */
export interface LogCut {
  readonly size: number;
  /** Of its first `size` bytes, hex. */
  readonly sha256: string;
}

/** Bytes read at a time when a log is looked through. */
const WINDOW = 1 << 20;

export class AppendLog {
  readonly path: string;
  readonly #disk: Disk;
  #fd: number | null;
  #size = 0;
  readonly #hash: Hash = createHash('sha256');

  private constructor(path: string, disk: Disk, fd: number) {
    this.path = path;
    this.#disk = disk;
    this.#fd = fd;
  }

  /** A new log, also where somebody left one. Throws `SinkFailed`. */
  static create(path: string, disk: Disk = nodeDisk): AppendLog {
    try {
      try {
        disk.remove(path);
      } catch {
        // Nothing was there, or `create` says why it cannot be replaced.
      }
      return new AppendLog(path, disk, disk.create(path));
    } catch (cause) {
      throw sinkFailure(path, 'creating it', cause);
    }
  }

  /**
   * Opens a log as it was at a checkpoint; what was appended since is cut off.
   * @param each sees its bytes in order
   * Throws `SinkFailed`; `DamagedFile` when the bytes are not those of the checkpoint.
   */
  static reopen(
    path: string,
    cut: LogCut,
    each: (bytes: Uint8Array) => void = () => {},
    disk: Disk = nodeDisk,
  ): AppendLog {
    try {
      const log = new AppendLog(path, disk, disk.open(path));
      try {
        log.#readUpTo(cut.size, each);
        if (log.cut().sha256 !== cut.sha256) throw new DamagedFile(path, 'its bytes are not those that were written');
        disk.truncate(log.#fd!, cut.size);
      } catch (cause) {
        log.close();
        throw cause;
      }
      return log;
    } catch (cause) {
      if (cause instanceof DamagedFile) throw cause;
      throw sinkFailure(path, 'opening it again', cause);
    }
  }

  get size(): number {
    return this.#size;
  }

  /** Throws `SinkFailed`. */
  append(bytes: Uint8Array): void {
    try {
      writeFully(this.#disk, this.#fd!, [bytes]);
    } catch (cause) {
      throw sinkFailure(this.path, `appending ${bytes.length} bytes`, cause);
    }
    hashBytes(this.#hash, bytes);
    this.#size += bytes.length;
  }

  /** Fills `into` from byte `at` on. Throws `SinkFailed`, also where the file ends too early. */
  read(into: Uint8Array, at: number): void {
    try {
      readFully(this.#disk, this.#fd!, into, at, this.path);
    } catch (cause) {
      throw sinkFailure(this.path, 'reading it back', cause);
    }
  }

  /** Up to where it is now. */
  cut(): LogCut {
    return { size: this.#size, sha256: this.#hash.copy().digest('hex') };
  }

  /** Makes all that was appended durable, waiting for the disk on another thread. Rejects with `SinkFailed`. */
  async sync(): Promise<void> {
    try {
      if (this.#fd !== null) await this.#disk.syncLater(this.#fd);
    } catch (cause) {
      throw sinkFailure(this.path, 'syncing it', cause);
    }
  }

  close(): void {
    if (this.#fd === null) return;
    const fd = this.#fd;
    this.#fd = null;
    this.#disk.close(fd);
  }

  #readUpTo(size: number, each: (bytes: Uint8Array) => void): void {
    while (this.#size < size) {
      const bytes = new Uint8Array(Math.min(WINDOW, size - this.#size));
      readFully(this.#disk, this.#fd!, bytes, this.#size, this.path);
      this.#hash.update(bytes);
      this.#size += bytes.length;
      each(bytes);
    }
  }
}

/**
 * Fills `into` from byte `at` on, however short each read is.
 * Throws what the disk throws; `DamagedFile` where the file ends too early.
 */
export function readFully(disk: Disk, fd: number, into: Uint8Array, at: number, path: string): void {
  for (let done = 0; done < into.length; ) {
    const count = disk.read(fd, into.subarray(done), at + done);
    if (count <= 0) throw new DamagedFile(path, `it ends at byte ${at + done}, expected ${at + into.length} and more`);
    done += count;
  }
}
