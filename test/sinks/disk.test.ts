// Files larger than what one call may read, write or hash: with a limit of some bytes in the place of one of 1 GiB.
import { createHash, type Hash } from 'node:crypto';
import { expect, it } from 'vitest';
import { readFully } from '../../sinks/append-log.ts';
import { nodeDisk, nodeDiskOf } from '../../sinks/disk.ts';
import { writeFully } from '../../sinks/durable-file.ts';
import { hashBytes } from '../../sinks/hash-bytes.ts';
import { cachedShare } from '../../sources/page-cache.ts';
import { hasDirectReads } from '../sources/cold-files.ts';
import { useTestFolder } from './test-folder.ts';

const folder = useTestFolder();
const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);

it.each([
  ['one piece', [100]],
  ['pieces smaller and larger than the limit', [3, 0, 20, 7, 1, 69]],
])('writes %s, and reads it back, in calls of 7 bytes at most', (_, lengths) => {
  const disk = nodeDiskOf(7);
  const ends = lengths.map((_length, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b));
  const pieces = ends.map((end, i) => bytes.subarray(end - lengths[i]!, end));
  const fd = disk.create(folder.join('file'));
  expect(disk.write(fd, pieces)).toBe(7);
  const counts: number[] = [];
  const counted = {
    ...disk,
    write: (to: number, some: readonly Uint8Array[]) => counts[counts.push(disk.write(to, some)) - 1]!,
  };
  writeFully(counted, fd, pieces);
  expect(Math.max(...counts)).toBe(7);
  expect(disk.size(fd)).toBe(107);
  const back = new Uint8Array(100);
  expect(disk.read(fd, back, 0)).toBe(7);
  readFully(disk, fd, back, 7, 'file');
  expect(back).toEqual(bytes);
  nodeDisk.close(fd);
});

it.each([1, 7, 99, 100, 101])('hashes %d bytes at a time to the same sha256', (most) => {
  const sizes: number[] = [];
  const counting = { update: (part: Uint8Array) => void sizes.push(part.length) };
  hashBytes(counting as unknown as Hash, bytes, most);
  expect(sizes.every((size) => size <= most)).toBe(true);
  expect(hashBytes(createHash('sha256'), bytes, most).digest('hex')).toBe(
    createHash('sha256').update(bytes).digest('hex'),
  );
});

it.skipIf(!hasDirectReads)(
  'what is on the disk leaves the page cache where it is asked to, and comes back from the disk',
  async () => {
    const fd = nodeDisk.create(folder.join('file'));
    const large = new Uint8Array(2 ** 20).map((_, i) => i % 251);
    writeFully(nodeDisk, fd, [large]);
    await nodeDisk.syncLater(fd);
    expect(cachedShare(fd, 0, large.length)).toBe(1);
    await nodeDisk.forget(fd);
    expect(cachedShare(fd, 0, large.length)).toBe(0);
    const back = new Uint8Array(large.length);
    readFully(nodeDisk, fd, back, 0, 'file');
    expect(back).toEqual(large);
    nodeDisk.close(fd);
  },
);
