// What the kernel is told to fetch of a file.
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { adviseReading, cachedShare } from '../../sources/page-cache.ts';
import { chill, hasDirectReads } from './cold-files.ts';
import { temporaryFolder } from './temporary-folder.ts';

const BYTES = 2 ** 24;

const newFile = (bytes = BYTES): { readonly path: string; readonly fd: number } => {
  const path = join(temporaryFolder(), 'file');
  writeFileSync(path, new Uint8Array(bytes).fill(1));
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

it.skipIf(!hasDirectReads)('also where a header and the pages of a fingerprint were read before', async () => {
  // Of a tensor of 1 MiB the middle page is the end of one piece and the beginning of the next.
  const [header, tensor] = [579, 2 ** 20];
  const { path, fd } = newFile(header + tensor);
  await chill([path]);
  for (const at of [0, header + (tensor - 4096) / 2]) readSync(fd, new Uint8Array(4096), 0, 4096, at);
  adviseReading(fd, header, tensor);
  await expect.poll(() => cachedShare(fd, 0, header + tensor), { timeout: 5000 }).toBe(1);
});

it('of what is no file there is nothing to fetch', () => {
  expect(() => adviseReading(-1, 0, BYTES)).not.toThrow();
});
