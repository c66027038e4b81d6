// Grams of many tiles stand in shared memory and are added by all threads: bit for bit what one thread makes of them, whole or part
// by part, for any number of threads. The pool is the build's: Node 20 cannot load TypeScript in a thread.
import { expect, it } from 'vitest';
import { findDevice, openDevice } from '../../operators/devices/device-spec.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import type { VisitTask } from '../../operators/tile-tasks.ts';
import { TILE_WIDTH, type TileRange } from '../../sources/tile.ts';
import { devices } from './devices.ts';

const BLOCK = 128;
const TILES = 34;
/** The last tile is a short one. */
const FEATURES = TILES * TILE_WIDTH - 5000;

/**
 * float8 numbers: of each tile BLOCK rows, one after the other. Tiles are of very different sizes, so that float64 sums depend on
 * their order.
 */
const staged = () => {
  const buffer = new SharedArrayBuffer(BLOCK * FEATURES);
  const bytes = new Uint8Array(buffer);
  let state = 3;
  for (let i = 0; i < bytes.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const exponent = 1 + ((Math.floor(i / (BLOCK * TILE_WIDTH)) * 11) % 29);
    bytes[i] = ((state >>> 24) & 0x83) | (exponent << 2);
  }
  const models = Int32Array.from({ length: BLOCK }, (_, i) => i);
  return { dtype: 'F8_E5M2' as const, models, positions: models, buffer, offset: 0, start: 0 };
};

it.each([
  ['threads hold their tiles', { maxRows: 3 + BLOCK, passingRows: null }],
  ['tiles are whoever is first to take them', { maxRows: 0, passingRows: 3 + BLOCK }],
])('adds them to the same bits where %s', { timeout: 120_000 }, async (_, kept) => {
  const rows = staged();
  const layout = { slot: 'w', features: FEATURES, spill: null, ...kept };
  const visit = (tiles: TileRange | null): VisitTask => ({
    ...{ slot: 0, mix: null, stateRows: 0, block: BLOCK, shift: { from: 'mean' }, full: true, tiles, spill: null },
    staged: [
      tiles === null ? rows : { ...rows, offset: tiles.from * TILE_WIDTH * BLOCK, start: tiles.from * TILE_WIDTH },
    ],
  });
  const whole = async (tiles: Tiles) => {
    await tiles.open([layout]);
    const found = await tiles.visit(visit(null));
    await tiles.close();
    return found;
  };
  const found = await findDevice(devices[0]!.name);
  const truth = await whole(inlineTiles(await openDevice(found.spec), found.solve));
  const { TilePool }: typeof import('../../operators/tile-pool.ts') = await import(
    '../../dist/operators/tile-pool.js' as string
  );
  for (const threads of [1, 3]) {
    const { gram, shiftSum } = await whole(new TilePool(found, threads));
    expect(Buffer.from(gram.buffer).equals(Buffer.from(truth.gram.buffer)), `${threads} threads`).toBe(true);
    expect(shiftSum).toBe(truth.shiftSum);
  }
  const pool = new TilePool(found, 2);
  await pool.open([layout]);
  // Where they stood before.
  for (let turn = 0; turn < 2; turn++) {
    const { gram } = await pool.visit(visit(null));
    expect(Buffer.from(gram.buffer).equals(Buffer.from(truth.gram.buffer)), `turn ${turn}`).toBe(true);
  }
  const first = await pool.visit(visit({ from: 0, to: 32 }));
  const both = await pool.visit(visit({ from: 32, to: TILES }), first);
  expect(Buffer.from(both.gram.buffer).equals(Buffer.from(truth.gram.buffer))).toBe(true);
  expect(both.shiftSum).toBe(truth.shiftSum);
  await pool.close();
});
