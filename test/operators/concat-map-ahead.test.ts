// The fixed cases of the data lane's step: order, how many are live, and that everything taken is given back, once.
import { setTimeout as sleep } from 'node:timers/promises';
import {
  concat,
  defer,
  from,
  lastValueFrom,
  NEVER,
  type Observable,
  type ObservableInput,
  of,
  range,
  take,
  throwError,
  toArray,
} from 'rxjs';
import { describe, expect, it } from 'vitest';
import { concatMapAhead } from '../../operators/concat-map-ahead.ts';

/** Delays of 0 to 4 ms that differ from item to item, the same each time. */
const delay = (item: number, salt: number): number => (Math.imul(item + salt, 2654435761) >>> 16) % 5;

interface Hooks {
  readonly read?: (item: number) => Promise<number>;
  readonly use?: (item: number) => ObservableInput<number>;
}

/** A lane that keeps books, and throws where an item is released before its read has settled. */
const lane = (ahead: number, hooks: Hooks = {}) => {
  const book = {
    acquired: [] as number[],
    released: [] as number[],
    used: [] as number[],
    early: [] as number[],
    settled: new Set<number>(),
    mostHeld: 0,
    live: 0,
    mostLive: 0,
    using: 0,
    mostUsing: 0,
  };
  const use = async (item: number): Promise<number> => {
    book.using++;
    book.mostUsing = Math.max(book.mostUsing, book.using);
    await sleep(delay(item, 7));
    book.using--;
    book.live--;
    return item * 10;
  };
  const step = concatMapAhead<number, { item: number }, number, number>({
    ahead,
    acquire: (item) => {
      book.acquired.push(item);
      book.mostHeld = Math.max(book.mostHeld, book.acquired.length - book.released.length);
      return { item };
    },
    read: async (item, held) => {
      expect(held.item).toBe(item);
      book.live++;
      book.mostLive = Math.max(book.mostLive, book.live);
      try {
        if (hooks.read) return await hooks.read(item);
        await sleep(delay(item, 1));
        return item;
      } finally {
        book.settled.add(item);
      }
    },
    use: (item, read) => {
      expect(read).toBe(item);
      book.used.push(item);
      return hooks.use ? hooks.use(item) : defer(() => use(item));
    },
    release: ({ item }) => {
      if (!book.settled.has(item)) book.early.push(item);
      book.released.push(item);
    },
  });
  return { book, step };
};

type Book = ReturnType<typeof lane>['book'];

const run = (source: Observable<number>, step: ReturnType<typeof lane>['step']) =>
  lastValueFrom(source.pipe(step, toArray()));

/** Everything taken was given back, once, and not before its read had settled. */
const expectBalanced = async (book: Book): Promise<void> => {
  await sleep(20);
  expect([...book.released].sort((a, b) => a - b)).toEqual(book.acquired);
  expect(book.early).toEqual([]);
};

const upTo = (n: number) => Array.from({ length: n }, (_, i) => i);

describe('concatMapAhead', () => {
  it('a source that never speaks: nothing is taken, and unsubscribing is quiet', async () => {
    const { book, step } = lane(2);
    const events: unknown[] = [];
    const subscription = NEVER.pipe(step).subscribe({
      next: (v) => events.push(v),
      complete: () => events.push('end'),
    });
    await sleep(5);
    subscription.unsubscribe();
    expect([events, book.acquired, book.released]).toEqual([[], [], []]);
  });

  it('an empty source completes', async () => {
    const { book, step } = lane(2);
    expect(await run(from([]), step)).toEqual([]);
    expect(book.acquired).toEqual([]);
  });

  it('one item', async () => {
    const { book, step } = lane(3);
    expect(await run(of(4), step)).toEqual([40]);
    await expectBalanced(book);
  });

  it.each([1, 2, 3, 7, 100])(
    '40 items with delays, %i ahead: in order, one use at a time, no more live',
    async (ahead) => {
      const { book, step } = lane(ahead);
      expect(await run(range(0, 40), step)).toEqual(upTo(40).map((i) => i * 10));
      expect(book.used).toEqual(upTo(40));
      expect(book.mostUsing).toBe(1);
      expect(book.mostLive).toBeLessThanOrEqual(ahead);
      if (ahead <= 7) expect(book.mostLive).toBe(ahead);
      await expectBalanced(book);
    },
  );

  it.each([1, 2, 3])('%i ahead: no more are held at once than that', async (ahead) => {
    const { book, step } = lane(ahead);
    await run(range(0, 20), step);
    expect(book.mostHeld).toBeLessThanOrEqual(ahead);
  });

  it('a slow source, and uses that emit none or many', async () => {
    const { book, step } = lane(2, { use: (item) => from(Array.from({ length: item % 3 }, () => item)) });
    async function* slow() {
      for (const item of upTo(9)) {
        await sleep(delay(item, 3));
        yield item;
      }
    }
    expect(await run(from(slow()), step)).toEqual([1, 2, 2, 4, 5, 5, 7, 8, 8]);
    await expectBalanced(book);
  });

  it('each subscription counts its own turns', async () => {
    const { book, step } = lane(2);
    const result = range(0, 3).pipe(step, toArray());
    expect(await lastValueFrom(result)).toEqual([0, 10, 20]);
    expect(await lastValueFrom(result)).toEqual([0, 10, 20]);
    await sleep(20);
    expect(book.released).toHaveLength(6);
  });

  it.each([0, 3])('an error in the read of item %i', async (bad) => {
    const read = async (item: number) => {
      await sleep(item === bad ? 1 : 8);
      if (item === bad) throw new Error('read failed');
      return item;
    };
    const { book, step } = lane(4, { read });
    await expect(run(range(0, 10), step)).rejects.toThrow('read failed');
    await expectBalanced(book);
  });

  it('an error in a use, later ones never begin', async () => {
    const use = (item: number) => (item === 2 ? throwError(() => new Error('use failed')) : of(item));
    const { book, step } = lane(3, { use });
    await expect(run(range(0, 10), step)).rejects.toThrow('use failed');
    expect(book.used).toEqual([0, 1, 2]);
    await expectBalanced(book);
  });

  it('a use that throws', async () => {
    const use = (item: number) => {
      if (item === 1) throw new Error('thrown in use');
      return of(item);
    };
    const { book, step } = lane(3, { use });
    await expect(run(range(0, 10), step)).rejects.toThrow('thrown in use');
    expect(book.used).toEqual([0, 1]);
    await expectBalanced(book);
  });

  it('an error in the source', async () => {
    const { book, step } = lane(3);
    const source = concat(
      of(0, 1),
      throwError(() => new Error('source failed')),
    );
    await expect(run(source, step)).rejects.toThrow('source failed');
    expect(book.acquired).toEqual([0, 1]);
    await expectBalanced(book);
  });

  it('unsubscribed while reads are in flight: released only when they have settled', async () => {
    const open: (() => void)[] = [];
    const read = (item: number) => new Promise<number>((resolve) => open.push(() => resolve(item)));
    const { book, step } = lane(2, { read });
    const subscription = range(0, 5).pipe(step).subscribe();
    subscription.unsubscribe();
    await sleep(5);
    expect([book.acquired, book.released]).toEqual([[0, 1], []]);
    open[1]!();
    await sleep(5);
    expect(book.released).toEqual([1]);
    open[0]!();
    await sleep(5);
    expect(book.used).toEqual([]);
    await expectBalanced(book);
  });

  it('unsubscribed while a read is in flight that then fails: no unhandled rejection, and released', async () => {
    let fail = (): void => {};
    const read = () => new Promise<number>((_, reject) => (fail = () => reject(new Error('too late'))));
    const { book, step } = lane(1, { read });
    range(0, 5).pipe(step).subscribe().unsubscribe();
    fail();
    await expectBalanced(book);
    expect(book.acquired).toEqual([0]);
  });

  it.each([1, 3, 10])('take(%i)', async (n) => {
    const { book, step } = lane(3);
    const found = await lastValueFrom(range(0, 10).pipe(step, take(n), toArray()));
    expect(found).toEqual(upTo(n).map((i) => i * 10));
    expect(book.acquired.length).toBeLessThanOrEqual(n + 2);
    expect(book.used).toEqual(upTo(n));
    await expectBalanced(book);
  });
});
