// Rows of a slot that is too large for the memory, on disk in two generations: a block reads what the one before wrote
// and writes the other, so that a block that has to be done again finds its beginning. Workers share the files; each
// panel has a place of its own. Never synced: what matters of it is written elsewhere.
// Imports nothing heavy: worker threads load it too.
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';

export type Generation = 0 | 1;

/** What the operating system said about a spill file; `code` is an errno name. */
export class SpillFailed extends Error {
  readonly path: string;
  readonly code: string | undefined;

  constructor(path: string, doing: string, { code, message }: NodeJS.ErrnoException) {
    super(`${path}: failed while ${doing}: ${message}`);
    this.path = path;
    this.code = code;
  }
}

const attempt = <R>(path: string, doing: string, step: () => R): R => {
  try {
    return step();
  } catch (cause) {
    throw new SpillFailed(path, doing, cause as NodeJS.ErrnoException);
  }
};

/** Makes both files, empty, also where somebody left one. Throws `SpillFailed`. */
export const createSpillFiles = (paths: readonly string[]): void => {
  for (const path of paths) attempt(path, 'creating it', () => closeSync(openSync(path, 'w')));
};

/** Takes the names away. Where files are open, their space is freed when the last thread closes them, however it ends. */
export const forgetSpillFiles = (paths: readonly string[]): void => {
  for (const path of paths) rmSync(path, { force: true });
};

export class SpillFiles {
  readonly #paths: readonly string[];
  readonly #fds: readonly number[];

  /** Opens what `createSpillFiles` made. */
  constructor(paths: readonly string[]) {
    this.#paths = paths;
    this.#fds = paths.map((path) => attempt(path, 'opening it', () => openSync(path, 'r+')));
  }

  /** Fills `values` from byte `at` on. Throws `SpillFailed`; a file that ends too early is a failure. */
  read(generation: Generation, at: number, values: Float32Array): void {
    readValues(this.#paths[generation]!, this.#fds[generation]!, at, values);
  }

  /** Writes all of `values` at byte `at`. Throws `SpillFailed`. */
  write(generation: Generation, at: number, values: Float32Array): void {
    writeValues(this.#paths[generation]!, this.#fds[generation]!, at, values);
  }

  close(): void {
    for (const fd of this.#fds) closeSync(fd);
  }
}

/**
 * Fills `values` from byte `at` of an open file on, however short each read is.
 * Throws `SpillFailed`; a file that ends too early is a failure.
 */
export const readValues = (path: string, fd: number, at: number, values: Float32Array): void => {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let done = 0; done < bytes.length; ) {
    const count = attempt(path, 'reading it', () => readSync(fd, bytes, done, bytes.length - done, at + done));
    if (count === 0) throw new SpillFailed(path, 'reading it', new Error(`it ends at byte ${at + done}`));
    done += count;
  }
};

/** Writes all of `values` at byte `at` of an open file. Throws `SpillFailed`. */
export const writeValues = (path: string, fd: number, at: number, values: Float32Array): void => {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let done = 0; done < bytes.length; ) {
    done += attempt(path, 'writing it', () => writeSync(fd, bytes, done, bytes.length - done, at + done));
  }
};
