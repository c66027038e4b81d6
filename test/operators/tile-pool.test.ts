// What a pool of workers does where one of them fails, with workers that answer when they are told to.
import { EventEmitter } from 'node:events';
import { expect, it, vi } from 'vitest';
import type { Dealt } from '../../operators/deal-tiles.ts';
import type { FoundDevice } from '../../operators/devices/device-spec.ts';
import type { TileQueue } from '../../operators/tile-messages.ts';
import { TilePool } from '../../operators/tile-pool.ts';
import type { FetchTask, SaveTask, SlotLayout } from '../../operators/tile-tasks.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';

class FakeWorker extends EventEmitter {
  readonly asked: { readonly id: number; readonly request: { readonly kind: string } }[] = [];

  constructor() {
    super();
    workers.push(this);
  }

  postMessage(message: FakeWorker['asked'][number]): void {
    this.asked.push(message);
    if (message.request.kind === 'open') this.answer({});
  }

  /** To what it was asked last. */
  answer(answer: object): void {
    this.emit('message', { id: this.asked.at(-1)!.id, ...answer });
  }

  terminate(): void {}
}

const workers = vi.hoisted((): FakeWorker[] => []);
vi.mock('node:worker_threads', async (original) => ({
  ...(await original<object>()),
  get Worker() {
    return FakeWorker;
  },
}));

const found = { spec: {}, info: { name: 'blas', panel: 2048 } } as FoundDevice;
const sharing: FoundDevice = { ...found, matrixFloats: (rows, width) => rows * width };
const layout = { features: 2 * TILE_WIDTH, maxRows: 5, passingRows: null, spill: null } as SlotLayout;
const save = { slot: 0 } as SaveTask;
const fetch = { slot: 0 } as FetchTask;

const opened = async (device: FoundDevice, slots: readonly SlotLayout[] = [layout]) => {
  workers.length = 0;
  const pool = new TilePool(device, 2);
  await pool.open(slots);
  return { pool, asked: () => workers.map(({ asked }) => asked.at(-1)!.request) };
};

const kinds = (): readonly (readonly string[])[] =>
  workers.map(({ asked }) => asked.slice(1).map(({ request }) => request.kind));

it('all threads that hold a slot have all of its tiles, where they have memory in common', async () => {
  const { pool, asked } = await opened(sharing, [
    layout,
    { ...layout, features: 300 },
    { ...layout, spill: ['a', 'b'] },
  ]);
  const [one, other] = asked() as unknown as [Dealt, Dealt];
  expect([one.owned, other.owned]).toEqual([
    [[0, 1], [0], [1]],
    [[0, 1], [], [0]],
  ]);
  expect(one.common.map((panels) => panels?.spare)).toEqual([16, 1, undefined]);
  expect(other.common.map((panels) => panels?.spare)).toEqual([17, undefined, undefined]);
  expect(other.common[0]!.places.buffer).toBe(one.common[0]!.places.buffer);
  // Each place once.
  const places = one.common.flatMap((panels) =>
    panels === null ? [] : [...panels.places].filter((_, i) => i % 2 === 1),
  );
  expect(new Set(places).size).toBe(18 + 2);
  void pool.save(save);
  const [first, second] = asked() as unknown as { queue: TileQueue }[];
  expect(first!.queue).toBeInstanceOf(SharedArrayBuffer);
  expect(second!.queue).toBe(first!.queue);
  void pool.save({ slot: 1 } as SaveTask);
  expect(asked()[0]).toMatchObject({ queue: null });
  await pool.close();
});

it('each thread has its own, where they have not', async () => {
  const { pool, asked } = await opened(found);
  expect(asked()).toMatchObject([
    { owned: [[0]], common: [null] },
    { owned: [[1]], common: [null] },
  ]);
  void pool.save(save);
  expect(asked()).toMatchObject([{ queue: null }, { queue: null }]);
  await pool.close();
});

it('what changes a slot waits until all threads are done with what changed it before', async () => {
  const { pool } = await opened(sharing);
  void pool.save(save);
  void pool.save(save);
  void pool.fetch(fetch);
  expect(kinds()).toEqual([['save'], ['save']]);
  workers[0]!.answer({ result: [] });
  await new Promise(setImmediate);
  expect(kinds()).toEqual([['save'], ['save']]);
  workers[1]!.answer({ result: [] });
  await new Promise(setImmediate);
  expect(kinds()).toEqual([
    ['save', 'save'],
    ['save', 'save'],
  ]);
  for (const worker of workers) worker.answer({ result: [] });
  await new Promise(setImmediate);
  void pool.fetch(fetch);
  // What only looks does not wait for what only looks.
  expect(kinds()).toEqual([
    ['save', 'save', 'fetch', 'fetch'],
    ['save', 'save', 'fetch', 'fetch'],
  ]);
  await pool.close();
});

it('a task that fails on one worker has failed when all of them have ended', async () => {
  const { pool } = await opened(sharing);
  let isOver = false;
  const saved = pool.save(save).finally(() => {
    isOver = true;
  });
  saved.catch(() => {});
  const [first, second] = workers as [FakeWorker, FakeWorker];
  expect([first, second].map(({ asked }) => asked.at(-1)!.request.kind)).toEqual(['save', 'save']);
  first.answer({ error: 'EIO: as injected' });
  await new Promise(setImmediate);
  // The other one still writes to the file.
  expect(isOver).toBe(false);
  second.answer({ result: [] });
  await expect(saved).rejects.toThrow('EIO: as injected');
  await pool.close();
});
