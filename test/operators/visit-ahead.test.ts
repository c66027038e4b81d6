// The visit of the next block begins as soon as a slot's update stands, before the block is told: bits and checkpoints must be
// those of a run that waits, which one with a snapshot after every block does.
import { createHash } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EMPTY, filter, from, lastValueFrom, type Observable, take, tap, toArray } from 'rxjs';
import { describe, expect, it } from 'vitest';
import { type BlockUpdate, type IncrementalPcaOptions, incrementalPca } from '../../operators/incremental-pca.ts';
import type { Subspace } from '../../operators/subspace.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import type { WeightBlock } from '../../sources/weight-blocks.ts';
import { devices } from './devices.ts';
import { normals, streamOf } from './planted.ts';

const FEATURES = 17_000;
const BLOCK = 8;
const OPTIONS = { rank: 4 };

const models = (count: number): Float32Array[] => {
  const normal = normals(5);
  const shared = Array.from({ length: 6 }, () => Float32Array.from({ length: FEATURES }, normal));
  return Array.from({ length: count }, () => {
    const strengths = shared.map((_, j) => normal() * 0.8 ** j);
    return Float32Array.from({ length: FEATURES }, (_, i) =>
      strengths.reduce((sum, strength, j) => sum + strength * shared[j]![i]!, 0.1 * normal()),
    );
  });
};

/** A run that never visits ahead. */
const waiting = { snapshot: { every: 1, use: () => EMPTY } } as const;

const run = (
  tiles: Tiles,
  rows: readonly Float32Array[],
  more: Partial<IncrementalPcaOptions<Subspace>> = {},
  change: (block: WeightBlock) => WeightBlock = (block) => block,
): Observable<BlockUpdate | Subspace> => {
  const { plan, blocksOf } = streamOf(rows, { block: BLOCK });
  return from(blocksOf(plan).map(change)).pipe(incrementalPca<Subspace>({ ...OPTIONS, tiles, ...more }));
};

/** Tiles that tell what they are asked for. */
const watched = (tiles: Tiles, events: string[], visit: Tiles['visit'] = (task) => tiles.visit(task)): Tiles => {
  let visits = 0;
  return new Proxy(tiles, {
    get: (target, name) => {
      if (name === 'visit')
        return (...args: Parameters<Tiles['visit']>) => {
          events.push(`visit ${visits++}`);
          return visit(...args);
        };
      const value = target[name as keyof Tiles];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
};

/** Says which blocks are told. */
const telling = (events: string[]) =>
  tap((update: BlockUpdate | Subspace) => {
    if (update.kind === 'block') events.push(`told ${update.index}`);
  });

describe.each(devices)('on $name', ({ open }) => {
  it('the next visit begins before a block is told, but not where a snapshot looks first', async () => {
    const tiles = await open();
    try {
      const events: string[] = [];
      const rows = models(4 * BLOCK);
      await lastValueFrom(run(watched(tiles, events), rows).pipe(telling(events)));
      expect(events).toEqual(['visit 0', 'visit 1', 'told 0', 'visit 2', 'told 1', 'visit 3', 'told 2', 'told 3']);
      events.length = 0;
      const snapshot = { every: 2, use: () => EMPTY };
      await lastValueFrom(run(watched(tiles, events), rows, { snapshot }).pipe(telling(events)));
      expect(events).toEqual(['visit 0', 'visit 1', 'told 0', 'told 1', 'visit 2', 'visit 3', 'told 2', 'told 3']);
    } finally {
      await tiles.close();
    }
  });

  it.each([
    ['good models', false],
    ['a bad model that is left out', true],
  ])('%s: the bits and every checkpoint are those of a run that waits', async (_, bad) => {
    const tiles = await open();
    const folder = mkdtempSync(join(tmpdir(), 'weightspan-ahead-'));
    try {
      const rows = models(5 * BLOCK);
      if (bad) rows[2 * BLOCK + 3]![9_000] = Number.NaN;
      const found = [];
      for (const [name, how] of Object.entries({ ahead: {}, waiting })) {
        const saved: unknown[] = [];
        const checkpoint: IncrementalPcaOptions<Subspace>['checkpoint'] = async ({ index }, engine) => {
          const path = join(folder, `${name}-${index}`);
          const fd = openSync(path, 'wx+');
          try {
            const { sha256, slots } = await engine.save({ path, fd });
            const written = createHash('sha256').update(readFileSync(path)).digest('hex');
            saved.push([sha256, written, slots.map(({ state, map }) => [[...state.eigenvalues], map && [...map]])]);
          } finally {
            closeSync(fd);
          }
        };
        const stream = run(tiles, rows, { ...how, checkpoint, onBadSource: 'skip' });
        const seen = await lastValueFrom(stream.pipe(toArray()));
        const updates = seen.flatMap((it) => (it.kind === 'block' ? [it] : []));
        expect(updates.map(({ skipped }) => skipped.length)).toEqual([0, 0, bad ? 1 : 0, 0, 0]);
        const { eigenvalues, total } = (seen.at(-1) as Subspace).state;
        found.push([saved, [...eigenvalues, total], updates.map(({ slots }) => [...slots[0]!.update.coordinates])]);
      }
      expect(found[0]![0]).toHaveLength(5);
      expect(found[0]).toEqual(found[1]);
    } finally {
      rmSync(folder, { recursive: true });
      await tiles.close();
    }
  });

  it('no visit begins ahead of a block that is to be written down', async () => {
    const tiles = await open();
    try {
      const events: string[] = [];
      const mayVisitAhead = (): boolean => !events.includes('visit 1');
      await lastValueFrom(run(watched(tiles, events), models(3 * BLOCK), { mayVisitAhead }).pipe(telling(events)));
      expect(events).toEqual(['visit 0', 'visit 1', 'told 0', 'told 1', 'visit 2', 'told 2']);
    } finally {
      await tiles.close();
    }
  });

  it('a visit that began ahead and fails ends the stream when its block comes, or is forgotten with it', async () => {
    const tiles = await open();
    try {
      const rows = models(3 * BLOCK);
      let visits = 0;
      const failing: Tiles['visit'] = (task) =>
        visits++ === 1 ? Promise.reject(new Error('the second visit')) : tiles.visit(task);
      const told: number[] = [];
      const stream = () =>
        run(watched(tiles, [], failing), rows).pipe(
          filter((it): it is BlockUpdate => it.kind === 'block'),
          tap(({ index }) => void told.push(index)),
        );
      await expect(lastValueFrom(stream())).rejects.toThrow('the second visit');
      expect(told).toEqual([0]);
      visits = 0;
      // Nobody waits for the second: that it fails must not end the process.
      await lastValueFrom(stream().pipe(take(1)));
    } finally {
      await tiles.close();
    }
  });

  it('a checkpoint waits for a visit that began ahead, and is not made where it failed', async () => {
    const tiles = await open();
    const folder = mkdtempSync(join(tmpdir(), 'weightspan-ahead-'));
    const fd = openSync(join(folder, 'rows'), 'wx+');
    try {
      let visits = 0;
      let saved = 0;
      // Some rows are mixed then, and others are not.
      const failing: Tiles['visit'] = async (task) => {
        const visit = await tiles.visit(task);
        if (visits++ === 2) throw new Error('halfway');
        return visit;
      };
      const checkpoint: IncrementalPcaOptions<Subspace>['checkpoint'] = async (_, engine) => {
        await engine.save({ path: 'rows', fd });
        saved++;
      };
      const stream = run(watched(tiles, [], failing), models(4 * BLOCK), { checkpoint });
      await expect(lastValueFrom(stream)).rejects.toThrow('halfway');
      expect(saved).toBe(1);
    } finally {
      closeSync(fd);
      rmSync(folder, { recursive: true });
      await tiles.close();
    }
  });

  it('no visit begins ahead once nobody wants the stream', async () => {
    const tiles = await open();
    try {
      const events: string[] = [];
      const held = { go: (): void => {} };
      const slow: Tiles['visit'] = async (task) => {
        await new Promise<void>((resolve) => {
          held.go = resolve;
        });
        return tiles.visit(task);
      };
      const subscription = run(watched(tiles, events, slow), models(2 * BLOCK)).subscribe();
      await new Promise((resolve) => setTimeout(resolve, 50));
      subscription.unsubscribe();
      held.go();
      await new Promise((resolve) => setTimeout(resolve, 100));
      expect(events).toEqual(['visit 0']);
    } finally {
      await tiles.close();
    }
  });

  it('files stay open until a visit that began ahead has ended, also where nobody waits for it', async () => {
    const tiles = await open();
    try {
      const events: string[] = [];
      const held = { end: (): void => {} };
      let visits = 0;
      const slow: Tiles['visit'] = async (task) => {
        const visit = await tiles.visit(task);
        if (visits++ === 1)
          await new Promise<void>((resolve) => {
            held.end = resolve;
          });
        return visit;
      };
      const withFiles = (block: WeightBlock): WeightBlock => ({
        ...block,
        read: async (...args) => ({
          ...(await block.read(...args)),
          files: { check: () => {}, close: () => void events.push(`closed ${block.index}`) } as never,
        }),
      });
      const stream = run(watched(tiles, events, slow), models(2 * BLOCK), {}, withFiles);
      await lastValueFrom(stream.pipe(take(1)));
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(events).toEqual(['visit 0', 'visit 1', 'closed 0']);
      held.end();
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(events).toEqual(['visit 0', 'visit 1', 'closed 0', 'closed 1']);
    } finally {
      await tiles.close();
    }
  });
});
