// Tells the kernel which bytes of a file will be read soon, so that it fetches them while this process does other work.
import koffi from 'koffi';

/** Of <fcntl.h> on Linux. */
const WILL_NEED = 3;
/** The kernel fetches no more for one call than a disk takes at a time, and forgets the rest: half a megabyte at least. */
const PIECE = 2 ** 19;

type Fadvise = (fd: number, offset: number, bytes: number, advice: number) => number;

/** Null where the system has no such call. */
const bind = (): Fadvise | null => {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) return null;
  try {
    return koffi.load(null).func('posix_fadvise', 'int', ['int', 'int64', 'int64', 'int']) as unknown as Fadvise;
  } catch {
    return null;
  }
};

let fadvise: Fadvise | null | undefined;

/** Whether this system fetches what it is told will be read. */
export const takesAdvice = (): boolean => {
  fadvise ??= bind();
  return fadvise !== null;
};

/** Has bytes [offset, offset + bytes) fetched. It is advice: where nobody takes it, reading waits for the disk as ever. */
export const adviseReading = (fd: number, offset: number, bytes: number): void => {
  if (!takesAdvice()) return;
  for (let at = 0; at < bytes; at += PIECE) fadvise!(fd, offset + at, Math.min(PIECE, bytes - at), WILL_NEED);
};
