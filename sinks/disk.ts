// The few file operations everything durable goes through, so that a test can stand in for the disk:
// write short, fail at any step, or record the order of operations. All synchronous but one: what a run
// leaves is written between blocks, and a promise per page would cost more than the page.
import fs from 'node:fs';
import { promisify } from 'node:util';

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

export const nodeDisk: Disk = {
  create: (path) => fs.openSync(path, 'wx+'),
  openAppend: (path) => fs.openSync(path, 'a'),
  write: (fd, pieces) => (pieces.length === 1 ? fs.writeSync(fd, pieces[0]!) : fs.writevSync(fd, pieces)),
  sync: (fd) => fs.fsyncSync(fd),
  syncLater: promisify(fs.fsync),
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
  read: (fd, into, at) => fs.readSync(fd, into, 0, into.length, at),
  list: (folder) => {
    try {
      return fs.readdirSync(folder);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw cause;
    }
  },
};

/** Of others' files: opens them for reading alone, and cuts nothing off. */
export const readingDisk: Disk = { ...nodeDisk, open: (path) => fs.openSync(path, 'r'), truncate: () => {} };
