// Linux's table of a process's open files grows as they come, at 64, 128, 256 and 512 of them; where there are threads the one that opens
// waits each time until all processors have seen it (RCU), 5 to 10 ms. A block may open 256 files, and the next one as many beside it.
import { closeSync, openSync } from 'node:fs';
import { cFunction } from './c-library.ts';

/** The table that has room for this number has room for 1,024. */
const FAR = 512;
/** Of <fcntl.h> on Linux: the lowest number from one on. */
const DUPLICATE_FROM = 0;

type Fcntl = {
  (fd: number, command: number, from: number): number;
  async(fd: number, command: number, from: number, done: (error: Error | null, fd: number) => void): void;
};

/** Has the table grow at once, while another thread waits for it. Resolves to whether it did: where the system says no, files open as ever. */
export const growDescriptorTable = async (): Promise<boolean> => {
  const fcntl = cFunction<Fcntl>('fcntl', 'int', ['int', 'int', 'int']);
  if (fcntl === null) return false;
  try {
    const some = openSync('/dev/null', 'r');
    try {
      const far = await new Promise<number>((resolve) => {
        fcntl.async(some, DUPLICATE_FROM, FAR, (error, fd) => resolve(error === null ? fd : -1));
      });
      if (far < 0) return false;
      closeSync(far);
      return true;
    } finally {
      closeSync(some);
    }
  } catch {
    return false;
  }
};
