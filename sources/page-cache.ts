// What the kernel is told about its page cache, and asked: which bytes of a file will be read soon, so that it fetches them
// while this process does other work; which file nobody here will read again; and what is there.
import { addressOf, cFunction } from './c-library.ts';

/** Of <fcntl.h> on Linux. */
const WILL_NEED = 3;
const DONT_NEED = 4;
/** The kernel fetches no more for one call than a disk takes at a time, and forgets the rest: half a megabyte at least. */
const PIECE = 2 ** 19;

/** Of <linux/fs.h>: reads what is there, and waits for nothing. */
const NO_WAIT = 8;

/** Of <sys/mman.h>. */
const PROT_READ = 1;
const MAP_SHARED = 1;
const MAP_FAILED = -1;

interface Calls {
  readonly fadvise: {
    (fd: number, offset: number, bytes: number, advice: number): number;
    async(fd: number, offset: number, bytes: number, advice: number, done: () => void): void;
  };
  readonly pageSize: number;
  readonly map: (at: number, bytes: number, protection: number, flags: number, fd: number, offset: number) => number;
  readonly unmap: (at: number, bytes: number) => number;
  readonly inCore: (at: number, bytes: number, pages: Uint8Array) => number;
}

/** Null where the system has no such calls. */
const bind = (): Calls | null => {
  const fadvise = cFunction<Calls['fadvise']>('posix_fadvise', 'int', ['int', 'int64', 'int64', 'int']);
  const pageSize = cFunction<() => number>('getpagesize', 'int', [])?.();
  const map = cFunction<Calls['map']>('mmap', 'int64', ['int64', 'int64', 'int', 'int', 'int', 'int64']);
  const unmap = cFunction<Calls['unmap']>('munmap', 'int', ['int64', 'int64']);
  const inCore = cFunction<Calls['inCore']>('mincore', 'int', ['int64', 'int64', 'uint8_t *']);
  if (fadvise === null || pageSize === undefined || map === null || unmap === null || inCore === null) return null;
  return { fadvise, pageSize, map, unmap, inCore };
};

let bound: Calls | null | undefined;

const calls = (): Calls | null => {
  if (bound === undefined) bound = bind();
  return bound;
};

/** Whether this system fetches what it is told will be read. */
export const takesAdvice = (): boolean => calls() !== null;

/**
 * Where a piece is asked for, as shares of it. Neither its ends nor its middle: the pages of a header and a fingerprint stand there, and
 * are in the cache where nothing else is.
 */
const ASKED = [0.382, 0.854] as const;

/**
 * Has bytes [offset, offset + bytes) fetched. It is advice: where nobody takes it, reading waits for the disk as ever. The kernel looks
 * for every page of a piece, which costs four times what it costs to read two bytes if they are there; then the rest is taken to be
 * there too.
 */
export const adviseReading = (fd: number, offset: number, bytes: number): void => {
  const kernel = calls();
  if (kernel === null) return;
  for (let at = offset; at < offset + bytes; at += PIECE) {
    const piece = Math.min(PIECE, offset + bytes - at);
    const isThere = ASKED.every((share) => isCached(fd, at + Math.floor(share * piece)));
    if (!isThere) kernel.fadvise(fd, at, piece, WILL_NEED);
  }
};

/** Reads one byte to where a list of one buffer says; null where the system cannot be asked not to wait. */
const bindByte = (): ((fd: number, at: number) => number) | null => {
  type Preadv2 = (fd: number, buffers: BigUint64Array, count: number, at: number, flags: number) => number;
  const read = cFunction<Preadv2>('preadv2', 'int64', ['int', 'uint64_t *', 'int', 'int64', 'int']);
  if (read === null) return null;
  // The buffer's address and length, and further on the buffer. So large that V8 does not move it.
  const room = new BigUint64Array(16);
  room.set([BigInt(addressOf(room) + 64), 1n]);
  return (fd, at) => read(fd, room, 1, at, NO_WAIT);
};

let byteReader: ReturnType<typeof bindByte> | undefined;

/** Whether a byte is in the page cache; where it is not, the kernel may begin to fetch it. False where it cannot be asked. */
const isCached = (fd: number, at: number): boolean => {
  if (byteReader === undefined) byteReader = bindByte();
  return byteReader !== null && byteReader(fd, at) === 1;
};

/**
 * Has what is on the disk of a file leave the page cache, for others to use: 90 ms a GB, so another thread does it. It is advice: where
 * nobody takes it, it stays.
 */
export const forgetPages = async (fd: number): Promise<void> => {
  const kernel = calls();
  if (kernel === null) return;
  await new Promise<void>((resolve) => {
    kernel.fadvise.async(fd, 0, 0, DONT_NEED, () => resolve());
  });
};

/**
 * Which share of the pages of bytes [offset, offset + bytes) is in the page cache, from 0 to 1. Nothing is fetched for it. 1 where
 * it cannot be asked, and for files of others: the kernel does not tell what they have read.
 */
export const cachedShare = (fd: number, offset: number, bytes: number): number => {
  const kernel = calls();
  if (kernel === null || bytes <= 0) return 1;
  const { pageSize } = kernel;
  const from = Math.floor(offset / pageSize) * pageSize;
  const length = offset + bytes - from;
  const at = kernel.map(0, length, PROT_READ, MAP_SHARED, fd, from);
  if (at === MAP_FAILED) return 1;
  const pages = new Uint8Array(Math.ceil(length / pageSize));
  const failed = kernel.inCore(at, length, pages) !== 0;
  kernel.unmap(at, length);
  if (failed) return 1;
  let there = 0;
  for (const page of pages) there += page & 1;
  return there / pages.length;
};
