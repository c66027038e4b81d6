// Tiles that keep nothing between visits are visited by whichever thread is free first: each of them once, and what is made of them has
// the bits that one thread makes. Two threads are two stores here, the second of which works while the first is held up in its first tile.
import { expect, it } from 'vitest';
import type { Device } from '../../operators/devices/device.ts';
import { findDevice } from '../../operators/devices/device-spec.ts';
import { addVisits } from '../../operators/tile-pool.ts';
import { TileStore } from '../../operators/tile-store.ts';
import { keepsRows, type SlotLayout, type VisitTask } from '../../operators/tile-tasks.ts';
import type { StagedRows } from '../../sources/staged-block.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

const BLOCK = 4;
const TILES = 5;
const FEATURES = TILES * TILE_WIDTH - 1000;
const BAD = 3 * TILE_WIDTH + 17;

const layout: SlotLayout = { slot: 'w', features: FEATURES, maxRows: 0, passingRows: 3 + BLOCK, spill: null };

/** @param bad a weight of the first model that is no number */
const taskOf = (bad?: number): VisitTask => {
  const buffer = new SharedArrayBuffer(BLOCK * FEATURES * 4);
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

it('are those of slots that keep no rows', () => {
  expect(keepsRows(layout)).toBe(false);
  expect(keepsRows({ ...layout, maxRows: 3 })).toBe(true);
  expect(keepsRows({ ...layout, spill: ['a', 'b'] })).toBe(true);
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
