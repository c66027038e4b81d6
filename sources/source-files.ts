// Open files of a run, each checked at opening to be the file that was planned. A file stays open while somebody holds it:
// for one model's turn in one block, or until its block is done with (open-block.ts), so that some hundred descriptors are
// enough for any number of models.
// A read fills a list of buffers from one position (readv), so that one call serves many tiles.
// What may wait for a disk or a server runs beside this thread. What the kernel answers by itself is asked for here: handing
// it over costs 20 times as much. That is the size of a file that has just been opened, and that it is closed; and on a disk
// of this machine its opening too, since whoever made the plan has opened it before.
import { closeSync, fstatSync, open, openSync, readv, statfsSync } from 'node:fs';
import { promisify } from 'node:util';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import type { ModelFile } from './model.ts';

/** What the kernel takes in one call. */
const MOST_BUFFERS = 1024;

interface OpenFile {
  readonly fd: Promise<number>;
  holders: number;
}

export class SourceFiles {
  readonly #open = new Map<string, OpenFile>();

  /** Keeps a file open until as many calls of `release`; opens it if nobody holds it yet. */
  hold(file: ModelFile): void {
    const known = this.#open.get(file.path);
    if (known !== undefined) {
      known.holders++;
      return;
    }
    const fd = openUnchanged(file);
    // Whoever reads is told; a file that is held and never read must not end the process.
    fd.catch(() => {});
    this.#open.set(file.path, { fd, holders: 1 });
  }

  /**
   * The descriptor of a file that is held.
   * @throws SourceMalformed when it is not the planned one any more, SourceUnavailable when it cannot be opened
   */
  descriptorOf(file: ModelFile): Promise<number> {
    return this.#open.get(file.path)!.fd;
  }

  async release(file: ModelFile): Promise<void> {
    const entry = this.#open.get(file.path);
    if (entry === undefined || --entry.holders > 0) return;
    this.#open.delete(file.path);
    await entry.fd.then(closeSync).catch(() => {});
  }

  /**
   * Fills `buffers` in turn with the bytes from `position` on.
   * @throws SourceMalformed when the file is not the planned one any more, or ends too soon; SourceUnavailable on I/O errors
   */
  async read(file: ModelFile, position: number, buffers: readonly Uint8Array[]): Promise<void> {
    this.hold(file);
    try {
      const fd = await this.#open.get(file.path)!.fd;
      let at = position;
      for (let from = 0; from < buffers.length; from += MOST_BUFFERS) {
        at += await fill(fd, file, at, buffers.slice(from, from + MOST_BUFFERS));
      }
    } finally {
      await this.release(file);
    }
  }
}

const opening = promisify(open);
const reading = promisify(readv);

/** File systems that ask nobody else, and keep files in the kernel's own cache, by the numbers of <linux/magic.h>. */
const LOCAL = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0xf2f52010, // f2fs
  0x01021994, // tmpfs
  0x794c7630, // overlayfs, of containers
]);

const known = new Map<string, boolean>();

/** Whether a file is on a disk of this machine; asked for once. A link is what it leads to. */
export const isLocal = (path: string): boolean => {
  let answer = known.get(path);
  if (answer === undefined) {
    try {
      answer = LOCAL.has(statfsSync(path).type);
    } catch {
      answer = false;
    }
    known.set(path, answer);
  }
  return answer;
};

const openUnchanged = async (file: ModelFile): Promise<number> => {
  let fd: number;
  try {
    fd = isLocal(file.path) ? openSync(file.path, 'r') : await opening(file.path, 'r');
  } catch (cause) {
    const { message, code } = cause as NodeJS.ErrnoException;
    const isExhausted = code === 'EMFILE' || code === 'ENFILE';
    throw new SourceUnavailable({ path: file.path, detail: `cannot be opened: ${message}`, isExhausted });
  }
  try {
    checkUnchanged(file, fd);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
};

/** @throws SourceMalformed when an open file is not what it was when the run was planned */
export const checkUnchanged = ({ path, size, mtimeMs }: ModelFile, fd: number): void => {
  const now = sizeAndTime(path, fd);
  if (now.size === size && now.mtimeMs === mtimeMs) return;
  throw new SourceMalformed({
    path,
    rule: 'changed',
    detail:
      now.size === size
        ? 'was written to after the run was planned; start again with files that stay as they are'
        : `has ${now.size} bytes, expected the ${size} it had when the run was planned`,
  });
};

const sizeAndTime = (path: string, fd: number): { readonly size: number; readonly mtimeMs: number } => {
  try {
    return fstatSync(fd);
  } catch (cause) {
    throw new SourceUnavailable({ path, detail: `cannot be looked at: ${(cause as Error).message}` });
  }
};

export const notReadable = (path: string, at: number, cause: string): SourceUnavailable =>
  new SourceUnavailable({ path, detail: `cannot be read at byte ${at}: ${cause}` });

export const endsTooSoon = (path: string, at: number, missing: number): SourceMalformed =>
  new SourceMalformed({ path, rule: 'short-read', detail: `ends at byte ${at}, expected ${missing} more` });

const fill = async (fd: number, file: ModelFile, position: number, buffers: Uint8Array[]): Promise<number> => {
  let pending = buffers;
  let at = position;
  const total = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
  while (at < position + total) {
    const { bytesRead } = await reading(fd, pending, at).catch((cause: Error) => {
      throw notReadable(file.path, at, cause.message);
    });
    if (bytesRead === 0) throw endsTooSoon(file.path, at, position + total - at);
    at += bytesRead;
    pending = unfilled(pending, bytesRead);
  }
  return total;
};

/** What is left of a list of buffers after `bytes` of it were filled. */
const unfilled = (buffers: readonly Uint8Array[], bytes: number): Uint8Array[] => {
  let skip = bytes;
  let first = 0;
  while (first < buffers.length && skip >= buffers[first]!.byteLength) skip -= buffers[first++]!.byteLength;
  const rest = buffers.slice(first);
  if (skip > 0) rest[0] = rest[0]!.subarray(skip);
  return rest;
};
