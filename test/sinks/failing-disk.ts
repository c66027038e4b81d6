import fs from 'node:fs';
import { type Disk, nodeDisk } from '../../sinks/disk.ts';

/** What the operating system throws. */
export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: as injected`), { code });
}

/** A disk on which one operation fails at its n-th call (from 0). */
export function failingDisk(operation: keyof Disk, code: string, at = 0): Disk {
  let calls = 0;
  const real = nodeDisk[operation] as (...args: unknown[]) => unknown;
  return {
    ...nodeDisk,
    [operation]: (...args: unknown[]) => {
      if (calls++ === at) throw systemError(code);
      return real(...args);
    },
  };
}

/** A disk that takes at most `most` bytes of the first piece a write. */
export function shortWritingDisk(most: number): Disk & { calls: number } {
  const disk = {
    ...nodeDisk,
    calls: 0,
    write: (fd: number, pieces: readonly Uint8Array[]): number => {
      disk.calls++;
      return fs.writeSync(fd, pieces[0]!, 0, Math.min(most, pieces[0]!.length));
    },
  };
  return disk;
}

/** A disk whose files are real but whose bytes go to /dev/full: the kernel itself says ENOSPC. */
export function fullDisk(): Disk {
  if (!fs.existsSync('/dev/full')) return failingDisk('write', 'ENOSPC');
  return {
    ...nodeDisk,
    create: (path) => {
      nodeDisk.close(nodeDisk.create(path));
      return fs.openSync('/dev/full', 'w');
    },
    openAppend: (path) => {
      nodeDisk.close(nodeDisk.openAppend(path));
      return fs.openSync('/dev/full', 'w');
    },
  };
}
