// Open files of a run, each checked at opening to be the file that was planned. A file stays open while somebody holds it:
// for one model's turn in one block, so that a few dozen descriptors are enough for any number of models.
// A read fills a list of buffers from one position (readv), so that one call serves many tiles.
import { type FileHandle, open } from 'node:fs/promises';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import type { ModelFile } from './model.ts';

/** What the kernel takes in one call. */
const MOST_BUFFERS = 1024;

interface OpenFile {
  readonly handle: Promise<FileHandle>;
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
    const handle = openUnchanged(file);
    // Whoever reads is told; a file that is held and never read must not end the process.
    handle.catch(() => {});
    this.#open.set(file.path, { handle, holders: 1 });
  }

  async release(file: ModelFile): Promise<void> {
    const entry = this.#open.get(file.path);
    if (entry === undefined || --entry.holders > 0) return;
    this.#open.delete(file.path);
    await entry.handle.then((opened) => opened.close()).catch(() => {});
  }

  /**
   * Fills `buffers` in turn with the bytes from `position` on.
   * @throws SourceMalformed when the file is not the planned one any more, or ends too soon; SourceUnavailable on I/O errors
   */
  async read(file: ModelFile, position: number, buffers: readonly Uint8Array[]): Promise<void> {
    this.hold(file);
    try {
      const handle = await this.#open.get(file.path)!.handle;
      let at = position;
      for (let from = 0; from < buffers.length; from += MOST_BUFFERS) {
        at += await fill(handle, file, at, buffers.slice(from, from + MOST_BUFFERS));
      }
    } finally {
      await this.release(file);
    }
  }
}

const openUnchanged = async (file: ModelFile): Promise<FileHandle> => {
  const handle = await open(file.path).catch((cause: Error) => {
    throw new SourceUnavailable({ path: file.path, detail: `cannot be opened: ${cause.message}` });
  });
  const now = await handle.stat();
  if (now.size === file.size && now.mtimeMs === file.mtimeMs) return handle;
  await handle.close();
  throw new SourceMalformed({
    path: file.path,
    rule: 'changed',
    detail:
      now.size === file.size
        ? 'was written to after the run was planned; start again with files that stay as they are'
        : `has ${now.size} bytes, expected the ${file.size} it had when the run was planned`,
  });
};

const fill = async (handle: FileHandle, file: ModelFile, position: number, buffers: Uint8Array[]): Promise<number> => {
  let pending = buffers;
  let at = position;
  const total = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
  while (at < position + total) {
    const { bytesRead } = await handle.readv(pending, at).catch((cause: Error) => {
      throw new SourceUnavailable({ path: file.path, detail: `cannot be read at byte ${at}: ${cause.message}` });
    });
    if (bytesRead === 0) {
      const detail = `ends at byte ${at}, expected ${position + total - at} more`;
      throw new SourceMalformed({ path: file.path, rule: 'short-read', detail });
    }
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
