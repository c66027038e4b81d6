// Reads past the page cache: every byte where it belongs, and whatever goes wrong is no more than bytes that did not come.
import { closeSync, fsyncSync, openSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  DIRECT_UNIT,
  type DirectMemory,
  DirectReads,
  directMemory,
  directReads,
  isSlow,
} from '../../sources/direct-reads.ts';
import { cachedShare, forgetPages } from '../../sources/page-cache.ts';
import { chill, hasDirectReads, shareOf } from './cold-files.ts';
import { temporaryFolder } from './temporary-folder.ts';

const MEBIBYTE = 2 ** 20;

/** A cold file of bytes that are told apart by their place. */
const coldFile = async (
  bytes: number,
  seed = 1,
): Promise<{ readonly path: string; readonly data: Uint8Array; readonly fd: number }> => {
  const path = `${temporaryFolder()}/file`;
  const data = new Uint8Array(
    new Uint32Array(Math.ceil(bytes / 4)).map((_, i) => Math.imul(i + seed, 2654435761)).buffer,
  );
  writeFileSync(path, data.subarray(0, bytes));
  await chill([path]);
  const fd = openSync(path, 'r');
  onTestFinished(() => closeSync(fd));
  return { path, data: data.subarray(0, bytes), fd };
};

const memoryOf = (bytes: number): DirectMemory => {
  const memory = directMemory(new SharedArrayBuffer(bytes + DIRECT_UNIT));
  new Uint8Array(memory.buffer).fill(7);
  return memory;
};

const partOf = ({ buffer, start }: DirectMemory, at: number, bytes: number): Buffer =>
  Buffer.from(new Uint8Array(buffer, start + at, bytes));

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

describe.skipIf(!hasDirectReads)('past the page cache', () => {
  it('bytes come where they belong, nothing beside them is touched, and the cache has none of them', async () => {
    const { path, data, fd } = await coldFile(3 * MEBIBYTE);
    const memory = memoryOf(4 * MEBIBYTE);
    const before = openDescriptors();
    const read = { fd, from: 5 * DIRECT_UNIT, bytes: MEBIBYTE, to: 2 * DIRECT_UNIT };
    expect(await directReads()!.read(memory, read)).toBe(MEBIBYTE);
    expect(partOf(memory, read.to, MEBIBYTE).equals(data.subarray(read.from, read.from + MEBIBYTE))).toBe(true);
    expect(partOf(memory, 0, read.to).every((byte) => byte === 7)).toBe(true);
    expect(partOf(memory, read.to + MEBIBYTE, MEBIBYTE).every((byte) => byte === 7)).toBe(true);
    expect(shareOf(path, 3 * MEBIBYTE)).toBe(0);
    expect(openDescriptors()).toBe(before);
  });

  it('reads of more than a request, and more than are under way at once, into two memories', async () => {
    const large = await coldFile(11 * MEBIBYTE + DIRECT_UNIT, 3);
    const small = await coldFile(MEBIBYTE, 9);
    const [one, other] = [memoryOf(12 * MEBIBYTE), memoryOf(60 * DIRECT_UNIT)];
    const units = [...Array(60).keys()].map((i) => ((i * 7) % 60) * DIRECT_UNIT);
    const whole = directReads()!.read(one, { fd: large.fd, from: 0, bytes: large.data.length, to: 0 });
    const each = units.map((at) => directReads()!.read(other, { fd: small.fd, from: at, bytes: DIRECT_UNIT, to: at }));
    expect(await whole).toBe(large.data.length);
    expect(new Set(await Promise.all(each))).toEqual(new Set([DIRECT_UNIT]));
    expect(partOf(one, 0, large.data.length).equals(large.data)).toBe(true);
    expect(partOf(other, 0, 60 * DIRECT_UNIT).equals(small.data.subarray(0, 60 * DIRECT_UNIT))).toBe(true);
  });

  it('at a file’s end so many as there are, also where it ends in the second of three requests', async () => {
    const { data, fd } = await coldFile(5 * MEBIBYTE + 123);
    const memory = memoryOf(12 * MEBIBYTE);
    expect(await directReads()!.read(memory, { fd, from: 0, bytes: 12 * MEBIBYTE, to: 0 })).toBe(data.length);
    expect(partOf(memory, 0, data.length).equals(data)).toBe(true);
    expect(await directReads()!.read(memory, { fd, from: 8 * MEBIBYTE, bytes: DIRECT_UNIT, to: 0 })).toBe(0);
  });

  it('none of what no file system reads that way, and none into memory that is not there', async () => {
    const fd = openSync('/proc/self/status', 'r');
    onTestFinished(() => closeSync(fd));
    const memory = memoryOf(MEBIBYTE);
    const read = { from: 0, bytes: DIRECT_UNIT, to: 0 };
    expect(await directReads()!.read(memory, { fd, ...read })).toBe(0);
    const file = await coldFile(MEBIBYTE);
    expect(await directReads()!.read({ ...memory, address: DIRECT_UNIT }, { fd: file.fd, ...read })).toBe(0);
    expect(await directReads()!.read(memory, { fd: file.fd, ...read })).toBe(DIRECT_UNIT);
  });

  it('nothing where nothing is asked for', async () => {
    const { fd } = await coldFile(DIRECT_UNIT);
    expect(await directReads()!.read(memoryOf(DIRECT_UNIT), { fd, from: 0, bytes: 0, to: 0 })).toBe(0);
  });

  it('a busy thread makes no disk slow, and is not kept from its other work', async () => {
    const reads = DirectReads.open()!;
    const { fd, data } = await coldFile(96 * MEBIBYTE);
    const memory = memoryOf(96 * MEBIBYTE);
    let isOver = false;
    let turns = 0;
    const busy = (async () => {
      while (!isOver) {
        const start = performance.now();
        while (performance.now() - start < 120);
        turns++;
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    })();
    const pieces = Array.from({ length: 96 }, (_, i) => ({
      fd,
      from: i * MEBIBYTE,
      bytes: MEBIBYTE,
      to: i * MEBIBYTE,
    }));
    const came = await Promise.all(pieces.map((piece) => reads.read(memory, piece)));
    isOver = true;
    await busy;
    expect(came.every((bytes) => bytes === MEBIBYTE)).toBe(true);
    expect(partOf(memory, 0, data.length).equals(data)).toBe(true);
    expect(turns).toBeGreaterThan(1);
    expect(reads.isOfUse).toBe(true);
  });

  it('no more is asked for after 16 files of which nothing came', async () => {
    const reads = DirectReads.open()!;
    const fd = openSync('/proc/self/status', 'r');
    onTestFinished(() => closeSync(fd));
    const ask = (): Promise<number> => reads.read(memoryOf(DIRECT_UNIT), { fd, from: 0, bytes: DIRECT_UNIT, to: 0 });
    for (let i = 0; i < 16; i++) {
      expect(reads.isOfUse).toBe(true);
      await ask();
    }
    expect(reads.isOfUse).toBe(false);
    expect(directReads()!.isOfUse).toBe(true);
  });

  it('cachedShare tells how much of a part is there, and forgetPages takes it away', async () => {
    const { path, fd } = await coldFile(MEBIBYTE);
    expect(cachedShare(fd, 0, MEBIBYTE)).toBe(0);
    writeFileSync(path, new Uint8Array(MEBIBYTE / 2), { flag: 'r+' });
    expect(cachedShare(fd, 0, MEBIBYTE)).toBe(0.5);
    expect(cachedShare(fd, MEBIBYTE / 2 - 1, 2)).toBe(0.5);
    expect(cachedShare(fd, 100, 1000)).toBe(1);
    fsyncSync(fd);
    await forgetPages(fd);
    expect(shareOf(path, statSync(path).size)).toBe(0);
  });
});

it('cachedShare of what cannot be mapped is 1: it is read as ever', () => {
  const fd = openSync('/proc/self/status', 'r');
  onTestFinished(() => closeSync(fd));
  expect(cachedShare(fd, 0, 4096)).toBe(1);
});

it('a disk is slow below 500 MB/s, and not before 64 MiB have come', () => {
  expect(isSlow(2 ** 26, 1)).toBe(true);
  expect(isSlow(2 ** 26 - 1, 1)).toBe(false);
  expect(isSlow(6e8, 1)).toBe(false);
  expect(isSlow(4e8, 1)).toBe(true);
});
