// Rows of float32 that pass are read to where they are multiplied, a part of a tile at a time, on devices that can; all others come through
// the reader's memory. Either way the bits are those of rows staged in memory.
import { closeSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import type { Device } from '../../operators/devices/device.ts';
import { isFiniteVisit } from '../../operators/find-faults.ts';
import { addVisits } from '../../operators/tile-pool.ts';
import { TileStore, type TileVisit } from '../../operators/tile-store.ts';
import type { SlotLayout, VisitTask } from '../../operators/tile-tasks.ts';
import type { OpenRows } from '../../sources/open-block.ts';
import type { StagedRows } from '../../sources/staged-block.ts';
import { stretchWidth, TILE_WIDTH, tilesOf } from '../../sources/tile.ts';
import { temporaryFolder } from '../sources/temporary-folder.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

/** So many that a tile is read in two halves. */
const BLOCK = 100;
const STRETCH = TILE_WIDTH / 2;
/** A tile, and a half with two panels and a bit. */
const FEATURES = 3 * STRETCH + 5000;
/** Bytes before a slot's weights in its file. */
const HEAD = 64;

const layouts: readonly SlotLayout[] = [FEATURES, 21].map((features, i) => ({
  ...{ slot: `s${i}`, features, maxRows: 0, passingRows: 3 + BLOCK, spill: null },
}));

const weights = layouts.map(({ features }, i) => {
  const normal = normals(11 + i);
  return Array.from({ length: BLOCK }, () => Float32Array.from({ length: features }, normal));
});

const task = (slot: number, staged: VisitTask['staged']): VisitTask => ({
  ...{ slot, mix: null, stateRows: 0, block: BLOCK, staged, shift: { from: 'mean' } },
  ...{ full: true, tiles: null, spill: null },
});

/** @param positions of the models in their block */
const inFiles = (slot: number, positions: readonly number[], rows = weights[slot]!): OpenRows => {
  const folder = temporaryFolder();
  const fds = rows.map((row, i) => {
    const path = join(folder, `${i}`);
    writeFileSync(path, Buffer.concat([Buffer.alloc(HEAD), Buffer.from(row.buffer)]));
    return openSync(path, 'r+');
  });
  onTestFinished(() => {
    for (const fd of fds) closeSync(fd);
  });
  return {
    dtype: 'F32',
    models: Int32Array.from({ length: rows.length }, (_, i) => i),
    positions: Int32Array.from(positions),
    fds: Int32Array.from(fds),
    at: new Float64Array(rows.length).fill(HEAD),
  };
};

const inMemory = (slot: number, positions: readonly number[], rows = weights[slot]!): StagedRows => {
  const { features } = layouts[slot]!;
  const buffer = new SharedArrayBuffer(rows.length * features * 4);
  const values = new Float32Array(buffer);
  for (const { start, width } of tilesOf(features))
    rows.forEach((row, i) => {
      values.set(row.subarray(start, start + width), start * rows.length + i * width);
    });
  const models = Int32Array.from({ length: rows.length }, (_, i) => i);
  return { dtype: 'F32', models, positions: Int32Array.from(positions), buffer, offset: 0, start: 0 };
};

/** A store on a device whose calls are counted. */
const storeOn = (device: Device, inPlace: boolean, maxRows = 0) => {
  const found = { places: [] as (readonly [number, number])[], panels: 0 };
  const { inPlace: places } = device;
  const gramOfAll = device.gramOfAll.bind(device);
  const watched: Pick<Device, 'gramOfAll' | 'inPlace'> = {
    gramOfAll: (...args) => {
      found.panels++;
      gramOfAll(...args);
    },
    ...(places && {
      inPlace: {
        window: places.window,
        rowsAt: (matrix, at, rows) => {
          found.places.push([at, rows]);
          return places.rowsAt(matrix, at, rows);
        },
      },
    }),
  };
  const store = new TileStore(Object.assign(device, watched));
  store.open(
    layouts.map((layout) => ({ ...layout, inPlace, maxRows })),
    () => true,
  );
  return { store, found };
};

/** Visits without what stands below the diagonals of their Grams, which means nothing. */
const uppers = (visits: readonly TileVisit[]) =>
  visits.map(({ gram, ...visit }) => {
    const rows = Math.sqrt(gram.length);
    return { ...visit, gram: gram.filter((_, cell) => cell % rows >= Math.floor(cell / rows)) };
  });

const everyDevice = devices.map(({ name, openDevice }) => [name, openDevice] as const);

const IN_ORDER = [...Array(BLOCK).keys()];
const stretches = (slot: number): number => Math.ceil(layouts[slot]!.features / STRETCH);

it('half a tile is read at once, or a quarter where that is more than 4 MiB', () => {
  const widths = [0, 1, 100, 128, 129, 256, 20_000].map(stretchWidth);
  expect(widths).toEqual([8192, 8192, 8192, 8192, 4096, 4096, 4096]);
});

it.each(everyDevice)('%s: the bits of rows staged in memory, slot after slot in one matrix', async (name, open) => {
  const { store, found } = storeOn(await open(), true);
  const { store: other, found: others } = storeOn(await open(), false);
  // The first once more: nothing of the second is left in its rows.
  for (const slot of [0, 1, 0]) {
    const before = found.places.length;
    const visits = store.visit(task(slot, [inFiles(slot, IN_ORDER)]));
    expect(uppers(visits)).toEqual(uppers(other.visit(task(slot, [inMemory(slot, IN_ORDER)]))));
    // After the rows [ones; −shift; mean], all of a stretch at once.
    const expected = name === 'blas' ? Array.from({ length: stretches(slot) }, () => [3, BLOCK]) : [];
    expect(found.places.slice(before)).toEqual(expected);
  }
  expect(others.places).toEqual([]);
  expect(found.panels).toBe(others.panels);
});

it.each(everyDevice)('%s: rows in another order, and those of a block that some are left out of', async (_, open) => {
  const { store, found } = storeOn(await open(), true);
  const { store: other } = storeOn(await open(), false);
  for (const positions of [
    [1, 0, ...IN_ORDER.slice(2)],
    [-1, ...IN_ORDER.slice(0, -1)],
    [0, 1, -1, ...IN_ORDER.slice(2, -1)],
    [...IN_ORDER.slice(0, -1), -1],
  ]) {
    const block = positions.includes(-1) ? BLOCK - 1 : BLOCK;
    const visits = store.visit({ ...task(0, [inFiles(0, positions)]), block });
    expect(uppers(visits)).toEqual(uppers(other.visit({ ...task(0, [inMemory(0, positions)]), block })));
  }
  expect(found.places).toEqual([]);
});

it.each(everyDevice)('%s: a base, which stands beside the models', async (_, open) => {
  const { store } = storeOn(await open(), true);
  const { store: other } = storeOn(await open(), false);
  const base = [Float32Array.from(weights[0]![7]!, (value) => value / 3)];
  const both = [inFiles(0, [0], base), inMemory(0, [0], base)].map((staged) => ({ from: 'base', staged }) as const);
  const visits = store.visit({ ...task(0, [inFiles(0, IN_ORDER)]), shift: both[0]! });
  expect(uppers(visits)).toEqual(uppers(other.visit({ ...task(0, [inMemory(0, IN_ORDER)]), shift: both[1]! })));
});

it.each(everyDevice)('%s: the directions that are made of them', async (_, open) => {
  const directions = 2;
  const maxRows = 3 + directions;
  const { store, found } = storeOn(await open(), true, maxRows);
  const { store: other } = storeOn(await open(), false, maxRows);
  const normal = normals(3);
  const values = Float64Array.from({ length: (1 + directions) * (1 + BLOCK) }, normal);
  const mix = { kind: 'replace', values, m: 1 + directions, n: 1 + BLOCK } as const;
  for (const slot of [0, 1]) {
    const { features } = layouts[slot]!;
    const made = [[store, inFiles(slot, IN_ORDER)] as const, [other, inMemory(slot, IN_ORDER)] as const].map(
      ([held, staged]) => {
        const shift = { from: 'mean' } as const;
        const peaks = held.project({ slot, block: BLOCK, staged: [staged], shift, mix, tiles: null, spilled: false });
        const out = new SharedArrayBuffer((1 + directions) * features * 4);
        const signs = Float64Array.of(1, -1);
        held.fetch({ slot, from: 0, to: tilesOf(features).length, signs, generation: null, out });
        return { peaks, values: new Float32Array(out) };
      },
    );
    expect(made[0]).toEqual(made[1]);
    expect(made[0]!.values.every((value) => value !== 0)).toBe(true);
  }
  expect(found.panels).toBe(0);
});

it.each(everyDevice)('%s: what is no number is seen, and gone with its model', async (_, open) => {
  const device = await open();
  const { store } = storeOn(device, true);
  const bad = weights[0]!.map((row, i) => (i === 40 ? row.with(STRETCH + 9, Number.NaN) : row));
  const rows = inFiles(0, IN_ORDER, bad);
  const bad40 = task(0, [rows]);
  expect(isFiniteVisit(addVisits(store.visit(bad40), bad40, device.multiplyDouble), device.multiplyDouble)).toBe(false);
  const without = IN_ORDER.map((i) => (i === 40 ? -1 : i - (i > 40 ? 1 : 0)));
  const again = { ...task(0, [{ ...rows, positions: Int32Array.from(without) }]), block: BLOCK - 1 };
  const visit = addVisits(store.visit(again), again, device.multiplyDouble);
  expect(isFiniteVisit(visit, device.multiplyDouble)).toBe(true);
  const { store: fresh } = storeOn(await open(), false);
  const clean = { ...again, staged: [inMemory(0, without)] };
  expect(visit).toEqual(addVisits(fresh.visit(clean), clean, device.multiplyDouble));
});

it.each(everyDevice)('%s: a file that ends in a tile, and a weight that is no number', async (name, open) => {
  const { store } = storeOn(await open(), true);
  const rows = inFiles(0, IN_ORDER);
  const bad = STRETCH + 3;
  writeSync(rows.fds[1]!, Buffer.from(Float32Array.of(Number.NaN).buffer), 0, 4, HEAD + bad * 4);
  // In the second half of the first tile.
  ftruncateSync(rows.fds[2]!, HEAD + (STRETCH + 10) * 4);
  const [first, second] = store.visit(task(0, [rows])).map(({ unread }) => unread);
  const [half, rest] = [STRETCH, FEATURES - 2 * STRETCH];
  const whole = name !== 'blas';
  expect(first).toMatchObject([{ model: 2, index: whole ? 0 : half, at: HEAD + (half + 10) * 4, cause: null }]);
  expect(second!.map(({ model, index, missing }) => [model, index, missing])).toEqual(
    whole
      ? [[2, 2 * half, rest * 4]]
      : [
          [2, 2 * half, half * 4],
          [2, 3 * half, (rest - half) * 4],
        ],
  );
  const found = store.scan({ slot: 0, staged: [rows], tiles: null });
  expect(found).toContainEqual({ model: 1, index: bad, value: Number.NaN });
  expect(found.filter(({ model }) => model !== 1).map(({ model }) => model)).toEqual(whole ? [2, 2] : [2, 2, 2]);
});
