// Opens model files for reading, and only regular files: a FIFO would hang, a device would never end. The kind is asked before
// opening (opening some devices has effects) and again of what was opened, which may have been exchanged meanwhile.
// Synchronous: a call takes 2 to 5 µs where its promise takes 45, and those who read many files do it in a worker.
import { closeSync, constants, fstatSync, openSync, readSync, type Stats, statSync } from 'node:fs';
import { SourceMalformed, SourceUnavailable } from './errors.ts';

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'found nothing here, expected a file or folder',
  ENOTDIR: 'found a file on the way where a folder was expected',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  ELOOP: 'found symbolic links that lead in a circle',
  EMFILE: 'too many open files',
  ENFILE: 'too many open files',
  EIO: 'the disk failed to read',
};

/** The {@link SourceUnavailable} for what a call of node:fs threw; anything else is a bug, and thrown on. */
export function unavailable(path: string, cause: unknown): SourceUnavailable {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  if (!(cause instanceof Error) || typeof code !== 'string') throw cause;
  return new SourceUnavailable({ path, detail: `${reasons[code] ?? 'cannot be read'} (${code})` });
}

/** Runs a call of node:fs, with its failure as {@link SourceUnavailable}. */
export async function reading<A>(path: string, call: () => Promise<A>): Promise<A> {
  try {
    return await call();
  } catch (cause) {
    throw unavailable(path, cause);
  }
}

function kind(stats: Stats): string {
  if (stats.isDirectory()) return 'a folder';
  if (stats.isFIFO()) return 'a FIFO';
  if (stats.isSocket()) return 'a socket';
  return stats.isCharacterDevice() || stats.isBlockDevice() ? 'a device' : 'something else';
}

function checkRegular(stats: Stats, path: string): void {
  if (stats.isFile()) return;
  throw new SourceMalformed({ path, rule: 'not-a-file', detail: `found ${kind(stats)}, expected a regular file` });
}

/** Runs a synchronous call of node:fs, with its failure as {@link SourceUnavailable}. */
export function readingNow<A>(path: string, call: () => A): A {
  try {
    return call();
  } catch (cause) {
    throw unavailable(path, cause);
  }
}

/** Opens the file for as long as `use` takes; it is given the descriptor. */
export function withRegularFile<A>(path: string, use: (file: number, stats: Stats) => A): A {
  checkRegular(
    readingNow(path, () => statSync(path)),
    path,
  );
  const file = readingNow(path, () => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const stats = readingNow(path, () => fstatSync(file));
    checkRegular(stats, path);
    return use(file, stats);
  } finally {
    closeSync(file);
  }
}

/** Reads exactly `length` bytes; a file that ends before has changed since its size was asked. */
export function readExactly(file: number, path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(length);
  let done = 0;
  while (done < length) {
    const bytesRead = readingNow(path, () => readSync(file, bytes, done, length - done, offset + done));
    if (bytesRead === 0) {
      const detail = `found ${done} bytes at ${offset}, expected ${length}: the file ends before`;
      throw new SourceMalformed({ path, rule: 'short-read', detail });
    }
    done += bytesRead;
  }
  return bytes;
}
