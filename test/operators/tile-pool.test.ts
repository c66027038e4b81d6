// What a pool of workers does where one of them fails, with workers that answer when they are told to.
import { EventEmitter } from 'node:events';
import { expect, it, vi } from 'vitest';
import type { FoundDevice } from '../../operators/devices/device-spec.ts';
import { TilePool } from '../../operators/tile-pool.ts';
import type { SaveTask } from '../../operators/tile-tasks.ts';
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

it('a task that fails on one worker has failed when all of them have ended', async () => {
  const pool = new TilePool({ spec: {}, info: { name: 'blas' } } as FoundDevice, 2);
  await pool.open([{ features: 2 * TILE_WIDTH } as never]);
  let isOver = false;
  const saved = pool.save({ slot: 0 } as SaveTask).finally(() => {
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
