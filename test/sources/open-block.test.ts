// Blocks whose weights stay in their files, against the same blocks staged in memory; and what becomes of bad files. Rows that
// cannot be read are told, and are zero: nothing that was in memory before takes their place.
import { appendFileSync, closeSync, openSync, readdirSync, rmSync, truncateSync, utimesSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { RowReader, type UnreadRow } from '../../operators/row-reader.ts';
import { bytesPerElement } from '../../sources/dtype.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import { canStayInFiles, type OpenRows, openBlock, tileRowsBytes } from '../../sources/open-block.ts';
import { takesAdvice } from '../../sources/page-cache.ts';
import type { PlannedModel } from '../../sources/reading-plan.ts';
import { SourceFiles } from '../../sources/source-files.ts';
import { stageBlock, stagingBytes } from '../../sources/staged-block.ts';
import { TILE_WIDTH, tilesOf } from '../../sources/tile.ts';
import { plannedModel, plannedSlot, writeModel } from './planned-files.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { type TensorToWrite, writeSharded } from './write-safetensors.ts';

const tensor = (name: string, dtype: string, shape: readonly [number, number], seed: number): TensorToWrite => {
  const size = { F32: 4, BF16: 2, F8_E5M2: 1 }[dtype]!;
  let state = Math.imul(seed + 1, 2654435761) >>> 0;
  const data = Uint8Array.from({ length: shape[0] * shape[1] * size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
  return { name, dtype, shape, data };
};

/** Two tiles and a part of a third. */
const WIDE = [3, 12_000] as const;
const features = WIDE[0] * WIDE[1];

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

/** All tiles of some rows, model after model. */
const readAll = (rows: OpenRows, width: number): { bytes: Uint8Array[]; unread: UnreadRow[] } => {
  const reader = new RowReader();
  const unread: UnreadRow[] = [];
  const size = bytesPerElement(rows.dtype);
  const parts: Uint8Array[][] = Array.from(rows.models, () => []);
  for (const tile of tilesOf(width)) {
    const bytes = reader.read(rows, tile, (row) => void unread.push(row));
    parts.forEach((part, i) => void part.push(bytes.slice(i * tile.width * size, (i + 1) * tile.width * size)));
  }
  return { bytes: parts.map((part) => Buffer.concat(part)), unread };
};

describe('openBlock', () => {
  it('says where rows stand: every tile has the bytes that staging puts into memory', async () => {
    const folder = temporaryFolder();
    const models = [
      await writeModel(folder, 0, [tensor('w', 'F32', WIDE, 0), tensor('v', 'F32', [2, 5], 10)]),
      await writeModel(folder, 1, [tensor('v', 'BF16', [2, 5], 11), tensor('w', 'BF16', WIDE, 1)]),
      await writeModel(folder, 2, [tensor('v', 'F8_E5M2', [2, 5], 12), tensor('w', 'F32', WIDE, 2)]),
    ];
    writeSharded(`${folder}/3`, [[tensor('v', 'F32', [2, 5], 13)], [tensor('w', 'F32', WIDE, 3)]]);
    models.push(await plannedModel(3, `${folder}/3`, 'sharded'));
    const group = { index: 0, slots: [plannedSlot(0, 'w', ...WIDE), plannedSlot(1, 'v', 2, 5)] };
    const before = openDescriptors();
    const open = await openBlock(new SourceFiles(), group, models);
    expect(openDescriptors() - before).toBe(5);
    const buffer = new SharedArrayBuffer(stagingBytes(group, models));
    const staged = await stageBlock(new SourceFiles(), group, models, buffer);
    expect(open.faults).toEqual([]);
    for (const [i, slot] of open.slots.entries()) {
      const other = staged.slots[i]!;
      expect(slot.models).toEqual(models);
      expect(slot.rows.map(({ dtype }) => dtype)).toEqual(other.rows.map(({ dtype }) => dtype));
      for (const [part, rows] of slot.rows.entries()) {
        const inMemory = other.rows[part]!;
        expect([rows.models, rows.positions]).toEqual([inMemory.models, inMemory.positions]);
        const { bytes, unread } = readAll(rows, slot.slot.features);
        expect(unread).toEqual([]);
        const size = bytesPerElement(rows.dtype);
        bytes.forEach((row, m) => {
          const tiles = tilesOf(slot.slot.features).map(({ start, width }) => {
            const at = inMemory.offset + (start * rows.models.length + m * width) * size;
            return new Uint8Array(buffer, at, width * size);
          });
          expect(Buffer.compare(row, Buffer.concat(tiles)), `${slot.slot.name} ${part} ${m}`).toBe(0);
        });
      }
    }
    open.files.close();
    await expect.poll(openDescriptors).toBe(before);
  });

  const group = { index: 0, slots: [plannedSlot(0, 'w', ...WIDE)] };
  const three = (folder: string): Promise<PlannedModel[]> =>
    Promise.all([0, 1, 2].map((id) => writeModel(folder, id, [tensor('w', 'F32', WIDE, id)])));

  it('a file that is gone is a fault of its model, and the others take its place', async () => {
    const models = await three(temporaryFolder());
    rmSync(models[1]!.header.files[0]!.path);
    const { slots, faults, files } = await openBlock(new SourceFiles(), group, models);
    onTestFinished(() => files.close());
    expect(faults.map(({ model, slot }) => [model.id, slot.id])).toEqual([[1, 0]]);
    expect(faults[0]!.error).toBeInstanceOf(SourceUnavailable);
    expect(faults[0]!.error.message).toMatch(/1\.safetensors: cannot be opened: ENOENT/);
    const [rows] = slots[0]!.rows;
    expect([...rows!.positions]).toEqual([0, -1, 1]);
    expect(rows!.fds[1]).toBe(-1);
    expect(slots[0]!.models.map(({ id }) => id)).toEqual([0, 2]);
    // Nobody reads it.
    expect(readAll(rows!, features).unread).toEqual([]);
  });

  it('a file that is not the planned one any more stops the run, and leaves no file open', async () => {
    const models = await three(temporaryFolder());
    utimesSync(models[2]!.header.files[0]!.path, 1, 1);
    const before = openDescriptors();
    const error = await openBlock(new SourceFiles(), group, models).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(SourceMalformed);
    expect((error as SourceMalformed).rule).toBe('changed');
    await expect.poll(openDescriptors).toBe(before);
  });

  it('a file that is written to while it is open is found out', async () => {
    const models = await three(temporaryFolder());
    const { files } = await openBlock(new SourceFiles(), group, models);
    onTestFinished(() => files.close());
    files.check();
    appendFileSync(models[0]!.header.files[0]!.path, 'x');
    expect(() => files.check()).toThrow(/0\.safetensors: has \d+ bytes, expected the \d+ it had/);
  });
});

describe('canStayInFiles', () => {
  const model = (files: number, path = import.meta.filename): PlannedModel =>
    ({ header: { files: Array.from({ length: files }, () => ({ path })) } }) as unknown as PlannedModel;
  const models = (count: number, files: number): PlannedModel[] => Array.from({ length: count }, () => model(files));

  it.skipIf(!takesAdvice())('up to 256 files a block, the base among them', () => {
    expect(canStayInFiles({ models: models(1000, 1), base: null, block: 256 })).toBe(true);
    expect(canStayInFiles({ models: models(1000, 1), base: null, block: 257 })).toBe(false);
    expect(canStayInFiles({ models: models(257, 1), base: null, block: 1000 })).toBe(false);
    expect(canStayInFiles({ models: models(256, 1), base: model(1), block: 256 })).toBe(false);
    expect(canStayInFiles({ models: models(64, 8), base: null, block: 32 })).toBe(true);
    expect(canStayInFiles({ models: [...models(40, 8), model(9)], base: null, block: 32 })).toBe(false);
    // Wherever a block begins.
    expect(canStayInFiles({ models: [...models(40, 8), model(9), ...models(31, 8)], base: null, block: 32 })).toBe(
      false,
    );
  });
});

describe('canStayInFiles, file systems', () => {
  it('of another kind, or that cannot be asked, keep the way of reading that suits a server', () => {
    const model = (path: string): PlannedModel => ({ header: { files: [{ path }] } }) as unknown as PlannedModel;
    for (const path of ['/proc/self/status', '/nowhere/at/all'])
      expect(canStayInFiles({ models: [model(path)], base: null, block: 1 })).toBe(false);
  });
});

describe('RowReader', () => {
  const one = async (): Promise<{ path: string; rows: OpenRows }> => {
    const model = await writeModel(temporaryFolder(), 7, [tensor('w', 'F32', WIDE, 0)]);
    const { path } = model.header.files[0]!;
    const fd = openSync(path, 'r');
    onTestFinished(() => closeSync(fd));
    const at = model.header.tensors.get('w')!.offset;
    return {
      path,
      rows: {
        dtype: 'F32',
        models: Int32Array.of(7, 8),
        positions: Int32Array.of(0, 1),
        fds: Int32Array.of(fd, fd),
        at: Float64Array.of(at, at),
      },
    };
  };

  it('a file that ends too soon: how much is missing, and zeros in place of what was there before', async () => {
    const { path, rows } = await one();
    const { size } = await import('node:fs/promises').then(({ stat }) => stat(path));
    truncateSync(path, size - 10);
    const { bytes, unread } = readAll(rows, features);
    const last = tilesOf(features).at(-1)!;
    expect(unread).toEqual(
      [7, 8].map((model) => ({ model, index: last.start, at: size - 10, missing: 10, cause: null })),
    );
    expect(bytes[0]!.subarray(last.start * 4).every((byte) => byte === 0)).toBe(true);
    expect(bytes[0]!.subarray(0, last.start * 4).some((byte) => byte !== 0)).toBe(true);
  });

  it('what the system says where it cannot read', async () => {
    const { rows } = await one();
    const folder = openSync(temporaryFolder(), 'r');
    onTestFinished(() => closeSync(folder));
    rows.fds[1] = folder;
    const { unread } = readAll(rows, features);
    expect(unread.map(({ model, index }) => [model, index])).toEqual(tilesOf(features).map(({ start }) => [8, start]));
    expect(unread[0]!.cause).toMatch(/EISDIR/);
  });

  it('rows without a position are not read', async () => {
    const { rows } = await one();
    rows.positions[0] = -1;
    rows.fds[0] = -1;
    expect(readAll(rows, features).unread).toEqual([]);
  });
});

it('tileRowsBytes: a row a model and the base, a tile wide, for every dtype there is', async () => {
  const folder = temporaryFolder();
  const models = [
    await writeModel(folder, 0, [tensor('w', 'F32', WIDE, 0)]),
    await writeModel(folder, 1, [tensor('w', 'BF16', WIDE, 1)]),
    await writeModel(folder, 2, [tensor('w', 'F32', WIDE, 2)]),
  ];
  const group = { index: 0, slots: [plannedSlot(0, 'w', ...WIDE)] };
  expect(tileRowsBytes(group, { models, base: null, block: 2 })).toBe(2 * TILE_WIDTH * 6);
  expect(tileRowsBytes(group, { models, base: models[0]!, block: 9 })).toBe(3 * TILE_WIDTH * 6 + TILE_WIDTH * 4);
  expect(tileRowsBytes(group, { models: [models[0]!], base: null, block: 2 })).toBe(TILE_WIDTH * 4);
});
