// The few file operations everything durable goes through, so that a test can stand in for the disk:
// write short, fail at any step, or record the order of operations. All synchronous but one: what a run
// leaves is written between blocks, and a promise per page would cost more than the page.
import fs from 'node:fs';
import { promisify } from 'node:util';
import { forgetPages } from '../sources/page-cache.ts';

export interface Disk {
  /** Creates `path` for writing and reading; fails where it exists. Returns a descriptor. */
  create(path: string): number;
  /** Opens `path` for appending, creating it where it is missing. */
  openAppend(path: string): number;
  /** Appends the pieces in order; may write less than all of them. Returns the bytes written. */
  write(fd: number, pieces: readonly Uint8Array[]): number;
  sync(fd: number): void;
  /** The same on another thread: a large file takes as long as the disk does. */
  syncLater(fd: number): Promise<void>;
  /**
   * Gives back the memory in which the system keeps what of a file is on the disk, for what is written next; of files that nobody
   * here reads again. On another thread.
   */
  forget(fd: number): Promise<void>;
  size(fd: number): number;
  truncate(fd: number, length: number): void;
  close(fd: number): void;
  rename(from: string, to: string): void;
  remove(path: string): void;
  /** Makes the names in `folder` durable: a rename is not until its folder is synced. */
  syncFolder(folder: string): void;
  /** Opens a file that exists for reading and appending. */
  open(path: string): number;
  /** Fills `into` from byte `at` on; may read less. Returns the bytes read, 0 at the end. */
  read(fd: number, into: Uint8Array, at: number): number;
  /** Names in a folder; none where there is no folder. */
  list(folder: string): readonly string[];
}

/** What one call is asked for at most: Node refuses 2 GiB, and whoever writes or reads goes on until all of it is done. */
const MOST_BYTES = 2 ** 30;

/** The first `most` bytes of some pieces. */
const firstOf = (pieces: readonly Uint8Array[], most: number): readonly Uint8Array[] => {
  const first: Uint8Array[] = [];
  for (let i = 0, left = most; i < pieces.length && left > 0; i++) {
    const piece = pieces[i]!;
    first.push(piece.length <= left ? piece : piece.subarray(0, left));
    left -= first[i]!.length;
  }
  return first;
};

/** @param most bytes of one write or read */
export const nodeDiskOf = (most: number): Disk => ({
  create: (path) => fs.openSync(path, 'wx+'),
  openAppend: (path) => fs.openSync(path, 'a'),
  write: (fd, pieces) => {
    const some = firstOf(pieces, most);
    return some.length === 1 ? fs.writeSync(fd, some[0]!) : fs.writevSync(fd, some);
  },
  sync: (fd) => fs.fsyncSync(fd),
  syncLater: promisify(fs.fsync),
  forget: forgetPages,
  size: (fd) => fs.fstatSync(fd).size,
  truncate: (fd, length) => fs.ftruncateSync(fd, length),
  close: (fd) => fs.closeSync(fd),
  rename: (from, to) => fs.renameSync(from, to),
  remove: (path) => fs.unlinkSync(path),
  syncFolder: (folder) => {
    // Windows cannot open a folder; its renames are journalled.
    if (process.platform === 'win32') return;
    const fd = fs.openSync(folder, 'r');
    try {
      fs.fsyncSync(fd);
    } finally {
      fs.closeSync(fd);
    }
  },
  open: (path) => fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_APPEND),
  read: (fd, into, at) => fs.readSync(fd, into, 0, Math.min(into.length, most), at),
  list: (folder) => {
    try {
      return fs.readdirSync(folder);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw cause;
    }
  },
});

export const nodeDisk = nodeDiskOf(MOST_BYTES);

/** Of others' files: opens them for reading alone, and cuts nothing off. */
export const readingDisk: Disk = { ...nodeDisk, open: (path) => fs.openSync(path, 'r'), truncate: () => {} };
