// When blocks whose weights are in files are let go: not while a thread may still read them, whatever became of the stream.
import { expect, it } from 'vitest';
import { allDone } from '../../operators/all-done.ts';
import { BlockBuffers } from '../../operators/block-buffers.ts';
import type { SlotGroup } from '../../sources/reading-plan.ts';
import type { WeightBlock } from '../../sources/weight-blocks.ts';

const group: SlotGroup = { index: 0, slots: [], inFiles: true };

const blockOf = () => {
  const seen = { closed: 0 };
  const files = { check: () => {}, close: () => void seen.closed++ };
  const block = { group, read: async () => ({ slots: [], faults: [], base: { slots: [], faults: [], files }, files }) };
  return { seen, block: block as unknown as WeightBlock };
};

const buffersOf = () =>
  new BlockBuffers(() => {
    throw new Error('no memory is needed');
  });

it('given back unused, files are closed at once, the base’s too', async () => {
  const { seen, block } = blockOf();
  const buffers = buffersOf();
  const held = buffers.acquire(group);
  expect((await buffers.read(block, held)).buffer).toBeNull();
  buffers.release(held);
  expect(seen.closed).toBe(2);
});

it.each(['ends', 'fails'])('given back while in use, they are closed when the use %s', async (how) => {
  const { seen, block } = blockOf();
  const buffers = buffersOf();
  const held = buffers.acquire(group);
  const timed = await buffers.read(block, held);
  let settle = (): void => {};
  timed.using = new Promise<void>((resolve, reject) => {
    settle = how === 'ends' ? resolve : () => reject(new Error('a worker failed'));
  });
  buffers.release(held);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(seen.closed).toBe(0);
  settle();
  await expect.poll(() => seen.closed).toBe(2);
});

it('allDone fails with the first failure, and not before the last has settled', async () => {
  let last = false;
  const slow = new Promise<number>((resolve) => {
    setTimeout(() => {
      last = true;
      resolve(2);
    }, 30);
  });
  await expect(
    allDone([Promise.reject(new Error('first')), slow, Promise.reject(new Error('second'))]),
  ).rejects.toThrow('first');
  expect(last).toBe(true);
  expect(await allDone([Promise.resolve(1), slow])).toEqual([1, 2]);
});
