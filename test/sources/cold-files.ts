// Files whose bytes have left the page cache, where this machine lets them.
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { directReads } from '../../sources/direct-reads.ts';
import { cachedShare, forgetPages } from '../../sources/page-cache.ts';
import { requirePart } from '../requires.ts';

/** Which share of a file is in the page cache. */
export const shareOf = (path: string, bytes: number): number => {
  const fd = openSync(path, 'r');
  try {
    return cachedShare(fd, 0, bytes);
  } finally {
    closeSync(fd);
  }
};

export const chill = async (paths: readonly string[]): Promise<void> => {
  for (const path of paths) {
    const fd = openSync(path, 'r+');
    fsyncSync(fd);
    await forgetPages(fd);
    closeSync(fd);
  }
};

const canChill = async (): Promise<boolean> => {
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-cold-'));
  const path = join(folder, 'file');
  try {
    writeFileSync(path, new Uint8Array(2 ** 20));
    await chill([path]);
    return directReads() !== null && shareOf(path, 2 ** 20) === 0;
  } finally {
    rmSync(folder, { recursive: true });
  }
};

/** Whether reading past the page cache can be tested: a disk, and a kernel that takes reads and comes back to them. */
export const hasDirectReads = requirePart('direct', await canChill());
