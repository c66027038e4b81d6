// What the kernel is told to fetch of a file.
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { adviseReading, cachedShare } from '../../sources/page-cache.ts';
import { chill, hasDirectReads } from './cold-files.ts';
import { temporaryFolder } from './temporary-folder.ts';

const BYTES = 2 ** 24;

const newFile = (): { readonly path: string; readonly fd: number } => {
  const path = join(temporaryFolder(), 'file');
  writeFileSync(path, new Uint8Array(BYTES).fill(1));
  const fd = openSync(path, 'r');
  onTestFinished(() => closeSync(fd));
  return { path, fd };
};

it.skipIf(!hasDirectReads)('on a disk, what is not in the page cache is fetched', async () => {
  const { path, fd } = newFile();
  await chill([path]);
  expect(cachedShare(fd, 0, BYTES)).toBe(0);
  adviseReading(fd, 5, BYTES - 5);
  await expect.poll(() => cachedShare(fd, 0, BYTES), { timeout: 5000 }).toBe(1);
  // And once more, where there is nothing to do.
  adviseReading(fd, 0, BYTES);
});

it('of what is no file there is nothing to fetch', () => {
  adviseReading(-1, 0, BYTES);
});
