// Tiles that keep nothing between visits, or keep it in memory that threads have in common, are visited by whichever thread is free
// first: each of them once, and what is made of them has the bits that one thread makes. Two threads are two stores here, the second of
// which works while the first is held up in its first tile, or which take turns.
import { createHash } from 'node:crypto';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { dealTiles, isShared } from '../../operators/deal-tiles.ts';
import { blasFloats } from '../../operators/devices/blas-device.ts';
import type { Device } from '../../operators/devices/device.ts';
import { findDevice } from '../../operators/devices/device-spec.ts';
import { FloatArena } from '../../operators/devices/float-arena.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { addVisits, inTileOrder, largestPeaks, projectionOf, type Tiles } from '../../operators/tile-pool.ts';
import { TileStore } from '../../operators/tile-store.ts';
import type { Replacement, SlotLayout, VisitTask } from '../../operators/tile-tasks.ts';
import type { StagedRows } from '../../sources/staged-block.ts';
import { TILE_WIDTH, tilesOf } from '../../sources/tile.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

const BLOCK = 4;
const TILES = 5;
const FEATURES = TILES * TILE_WIDTH - 1000;
const BAD = 3 * TILE_WIDTH + 17;

const layout: SlotLayout = { slot: 'w', features: FEATURES, maxRows: 0, passingRows: 3 + BLOCK, spill: null };

/** @param bad a weight of the first model that is no number */
const taskOf = (bad?: number, features = FEATURES): VisitTask => {
  const buffer = new SharedArrayBuffer(BLOCK * features * 4);
  const values = new Float32Array(buffer);
  const normal = normals(7);
  for (let i = 0; i < values.length; i++) values[i] = normal();
  if (bad !== undefined) values[Math.floor(bad / TILE_WIDTH) * TILE_WIDTH * BLOCK + (bad % TILE_WIDTH)] = Number.NaN;
  const models = Int32Array.from({ length: BLOCK }, (_, i) => i);
  const staged = { dtype: 'F32' as const, models, positions: models, buffer, offset: 0, start: 0 };
  return {
    ...{ slot: 0, mix: null, stateRows: 0, block: BLOCK, staged: [staged], shift: { from: 'mean' } },
    ...{ full: true, tiles: null, spill: null },
  };
};

const storeOn = (device: Device): TileStore => {
  const store = new TileStore(device);
  store.open([layout], () => true);
  return store;
};

it('are those of slots that keep no rows, or in memory that threads have in common', () => {
  for (const haveMemory of [false, true]) {
    expect(isShared(layout, haveMemory)).toBe(true);
    expect(isShared({ ...layout, maxRows: 3 }, haveMemory)).toBe(haveMemory);
    expect(isShared({ ...layout, maxRows: 3, spill: ['a', 'b'] }, haveMemory)).toBe(false);
  }
});

it('a thread that is held up takes fewer', async () => {
  const task = taskOf();
  const alone = await devices[0]!.openDevice();
  const truth = addVisits(storeOn(alone).visit(task), task, alone.multiplyDouble);
  const queue = new SharedArrayBuffer(4);
  const other = storeOn(await devices[0]!.openDevice());
  const held = await devices[0]!.openDevice();
  let meanwhile: ReturnType<TileStore['visit']> | null = null;
  const gramOfAll = held.gramOfAll.bind(held);
  const heldUp: Pick<Device, 'gramOfAll'> = {
    gramOfAll: (...args) => {
      meanwhile ??= other.visit(task, null, queue);
      gramOfAll(...args);
    },
  };
  const own = storeOn(Object.assign(held, heldUp)).visit(task, null, queue);
  expect(own.map(({ tile }) => tile)).toEqual([0]);
  expect(meanwhile!.map(({ tile }) => tile)).toEqual([1, 2, 3, 4]);
  const both = addVisits([...meanwhile!, ...own], task, alone.multiplyDouble);
  expect(both.shiftSum).toBe(truth.shiftSum);
  expect(both.gram).toEqual(truth.gram);
});

it('threads of a pool make the same bits of them, whole and part by part', { timeout: 60_000 }, async () => {
  const task = taskOf();
  const found = await findDevice(devices[0]!.name);
  const truth = addVisits(storeOn(await devices[0]!.openDevice()).visit(task), task, found.multiplyDouble);
  // Where tasks are sent to threads: the build's, since Node 20 cannot load TypeScript in a thread.
  const { TilePool }: typeof import('../../operators/tile-pool.ts') = await import(
    '../../dist/operators/tile-pool.js' as string
  );
  for (const threads of [1, 2, 7]) {
    const pool = new TilePool(found, threads);
    await pool.open([layout]);
    const whole = await pool.visit(task);
    const partOf = (from: number, to: number): VisitTask => {
      const [rows] = task.staged as readonly StagedRows[];
      const at = { offset: from * TILE_WIDTH * BLOCK * 4, start: from * TILE_WIDTH };
      return { ...task, staged: [{ ...rows!, ...at }], tiles: { from, to } };
    };
    const first = await pool.visit(partOf(0, 2));
    const parts = await pool.visit(partOf(2, TILES), first);
    const bad = await pool.scan({ ...taskOf(BAD), tiles: null });
    await pool.close();
    for (const { gram, shiftSum } of [whole, parts]) {
      expect(gram, `${threads} threads`).toEqual(truth.gram);
      expect(shiftSum).toBe(truth.shiftSum);
    }
    expect(bad).toMatchObject([{ model: 0, index: BAD }]);
  }
});

it('weights that cannot be folded are looked for once', async () => {
  const task = taskOf(BAD);
  const [one, other] = [storeOn(await devices[0]!.openDevice()), storeOn(await devices[0]!.openDevice())];
  const queue = new SharedArrayBuffer(4);
  expect(one.scan(task, queue)).toMatchObject([{ model: 0, index: BAD }]);
  expect(other.scan(task, queue)).toEqual([]);
});

it('a matrix that no thread can solve is told as such', async () => {
  const found = await findDevice(devices[0]!.name);
  const { TilePool }: typeof import('../../operators/tile-pool.ts') = await import(
    '../../dist/operators/tile-pool.js' as string
  );
  const pool = new TilePool(found, 2);
  const solvable = Float64Array.of(2, 0, 0, 3);
  const { values, vectors } = await pool.solveApart(solvable.slice(), 2, 1);
  expect(values).toEqual(found.solve(solvable, 2).values);
  expect(vectors).toEqual(found.solve(solvable, 2).vectors.slice(0, 2));
  // LAPACK says so; ml-matrix has no such check.
  if (devices[0]!.name === 'blas')
    await expect(pool.solveApart(new Float64Array(64).fill(Number.NaN), 8, 1)).rejects.toMatchObject({
      _tag: 'NumericalFailure',
    });
  await pool.close();
});

describe('what tiles keep', { timeout: 60_000 }, () => {
  const STATE = 3;
  // Arrays that differ would be compared number by number, for minutes.
  const digestOf = (part: NodeJS.TypedArray): string => createHash('sha256').update(part).digest('hex');
  const numbers = (seed: number, length: number): Float64Array => Float64Array.from({ length }, normals(seed));
  const replacement = (seed: number, m: number, n: number): Replacement => ({
    ...{ kind: 'replace', values: numbers(seed, m * n), m, n },
  });
  const fetched = async (tiles: Told, features = FEATURES): Promise<Float32Array> => {
    const out = new SharedArrayBuffer(STATE * features * 4);
    await tiles.fetch({
      slot: 0,
      from: 0,
      to: tilesOf(features).length,
      signs: Float64Array.of(1, -1),
      generation: null,
      out,
    });
    return new Float32Array(out);
  };

  type Told = Pick<Tiles, 'visit' | 'finish' | 'project' | 'save' | 'load' | 'fetch'>;
  type Story = readonly [name: string, layout: SlotLayout, all: (tiles: Told, swaps: boolean) => Promise<unknown>];

  /** Blocks after a full mixing and after rows were added, a look, a checkpoint, directions, and on from the checkpoint. */
  const stateOf = (features: number): Story => [
    `a state of ${features} weights`,
    { ...layout, features, maxRows: 3 + STATE + BLOCK, passingRows: null },
    async (tiles, swaps) => {
      const [m, n] = [1 + STATE, 1 + STATE + BLOCK];
      const exchanges = swaps ? ([[1, m + 2]] as const) : [];
      const onto = { kind: 'add' as const, values: numbers(2, m * BLOCK), m, n, exchanges };
      const task = taskOf(undefined, features);
      const later = { ...task, shift: null, stateRows: STATE };
      const visits = [
        await tiles.visit(task),
        await tiles.visit({ ...later, mix: replacement(1, m, 1 + BLOCK) }),
        await tiles.visit({ ...later, mix: onto }),
      ];
      const finish = { slot: 0, settle: null, mix: replacement(3, STATE, m), spill: null };
      const looked = await tiles.finish({ ...finish, keep: true });
      const folder = mkdtempSync(join(tmpdir(), 'weightspan-tiles-'));
      const path = join(folder, 'rows');
      const fd = openSync(path, 'wx+');
      try {
        const rows = { path, fd, at: 0 };
        const saved = await tiles.save({ slot: 0, mix: onto, stateRows: STATE, spill: null, to: rows });
        const found = await tiles.finish({ ...finish, keep: false });
        const directions = await fetched(tiles, features);
        await tiles.load({ slot: 0, stateRows: STATE, generation: null, from: rows });
        visits.push(await tiles.visit(later));
        const parts = [...visits.map(({ gram }) => gram), looked, ...saved, found, directions];
        return [...visits.map(({ shiftSum }) => shiftSum), ...parts.map(digestOf)];
      } finally {
        closeSync(fd);
        rmSync(folder, { recursive: true });
      }
    },
  ];

  const directions: Story = [
    'directions, made of rows that pass',
    { ...layout, maxRows: 2 + STATE },
    async (tiles) => {
      const { block, staged } = taskOf();
      const mix = replacement(4, STATE, 1 + BLOCK);
      const task = { slot: 0, block, staged, shift: { from: 'mean' }, mix, tiles: null, spilled: false } as const;
      const { peaks } = await tiles.project(task);
      return [peaks, await fetched(tiles)].map(digestOf);
    },
  ];

  // Of less than a panel, too.
  const stories = [stateOf(FEATURES), stateOf(300), directions];

  const alone = async ([, held, tell]: Story): Promise<unknown> => {
    const device = await devices[0]!.openDevice();
    const tiles = inlineTiles(device, device.solve);
    await tiles.open([held]);
    return tell(tiles, tiles.swapsRows);
  };

  const onBlas = it.runIf(devices[0]!.name === 'blas');
  onBlas.each(stories)('is found by the other thread: %s', async (...story) => {
    const [, held, tell] = story;
    const device = await devices[0]!.openDevice();
    const sizes = { panel: device.info.panel, floatsOf: blasFloats };
    // One tile is one thread's.
    const dealt = dealTiles([held], 2, sizes, new FloatArena()).filter(({ owned }) => owned[0]!.length > 0);
    const stores = dealt.map(({ common }) => {
      const store = new TileStore(device);
      store.open([held], () => true, common);
      return store;
    });
    // Whoever is asked first takes all tiles.
    const ask = <R>(work: (store: TileStore, queue: SharedArrayBuffer) => readonly R[]): readonly R[] => {
      stores.reverse();
      const queue = new SharedArrayBuffer(4);
      return stores.flatMap((store) => work(store, queue));
    };
    const inTurn: Told = {
      visit: async (task) => {
        const visits = ask((store, queue) => store.visit(task, null, queue));
        return addVisits(visits, task, device.multiplyDouble);
      },
      finish: async (task) => {
        const peaks = ask((store, queue) => store.finish(task, queue));
        return largestPeaks(peaks, task.mix.m - 1);
      },
      project: async (task) => {
        const projections = ask((store, queue) => store.project(task, queue));
        return projectionOf(projections, task);
      },
      save: async (task) => inTileOrder(ask((store, queue) => store.save(task, queue))),
      load: async (task) => void ask((store, queue) => [store.load(task, queue)]),
      fetch: async (task) => void ask((store, queue) => [store.fetch(task, queue)]),
    };
    expect(await tell(inTurn, device.swapRows !== undefined)).toEqual(await alone(story));
  });

  it.each(stories)('comes to the same bits on threads of a pool: %s', async (...story) => {
    const [, held, tell] = story;
    const truth = await alone(story);
    const found = await findDevice(devices[0]!.name);
    const { TilePool }: typeof import('../../operators/tile-pool.ts') = await import(
      '../../dist/operators/tile-pool.js' as string
    );
    for (const threads of [1, 2, 7]) {
      const pool = new TilePool(found, threads);
      // A group before it leaves its memory behind, and what stands there.
      await pool.open([{ ...held, features: FEATURES, maxRows: 3 + BLOCK, passingRows: null }]);
      await pool.visit(taskOf(BAD));
      await pool.open([held]);
      expect(await tell(pool, found.swapsRows), `${threads} threads`).toEqual(truth);
      await pool.close();
    }
  });
});
