// Blocks whose weights stay in their files, against the same blocks staged in memory; and what becomes of bad files. Rows that
// cannot be read are told, and are zero: nothing that was in memory before takes their place.
import {
  appendFileSync,
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
} from 'node:fs';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { RowReader, type UnreadRow } from '../../operators/row-reader.ts';
import { DirectReads } from '../../sources/direct-reads.ts';
import { bytesPerElement } from '../../sources/dtype.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import { areCold, fetchingBytes } from '../../sources/fetching.ts';
import { canStayInFiles, type OpenBlock, type OpenRows, openBlock, tileRowsBytes } from '../../sources/open-block.ts';
import { takesAdvice } from '../../sources/page-cache.ts';
import type { PlannedModel, SlotGroup } from '../../sources/reading-plan.ts';
import { SourceFiles } from '../../sources/source-files.ts';
import { stageBlock, stagingBytes } from '../../sources/staged-block.ts';
import { TILE_WIDTH, type TileRange, tilesOf } from '../../sources/tile.ts';
import { chill, hasDirectReads, shareOf } from './cold-files.ts';
import { plannedModel, plannedSlot, writeModel } from './planned-files.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { type TensorToWrite, writeSafetensors, writeSharded } from './write-safetensors.ts';

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
    const { bytes, stride } = reader.read(rows, tile, (row) => void unread.push(row));
    parts.forEach((part, i) => void part.push(bytes.slice(i * stride, i * stride + tile.width * size)));
  }
  return { bytes: parts.map((part) => Buffer.concat(part)), unread };
};

/** All that is open and staged of some models, compared byte by byte. */
const expectSame = async (open: OpenBlock, group: SlotGroup, models: readonly PlannedModel[]): Promise<void> => {
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
    await expectSame(open, group, models);
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

const pathsOf = (models: readonly PlannedModel[]): string[] =>
  models.flatMap(({ header }) => header.files.map(({ path }) => path));

/** Opens a block with memory for what the page cache has not got. */
const openCold = async (group: SlotGroup, models: readonly PlannedModel[], range?: TileRange): Promise<OpenBlock> => {
  const buffer = new SharedArrayBuffer(fetchingBytes(group, { models, block: models.length }, range));
  const open = await openBlock(new SourceFiles(), group, models, range, buffer);
  onTestFinished(() => open.files.close());
  return open;
};

/** Which rows of each slot were fetched, in the order of dtypes. */
const fetchedRows = ({ slots }: OpenBlock): boolean[][] =>
  slots.map(({ rows }) =>
    rows.flatMap(({ models, fetched }) => Array.from(models, (_, i) => !Number.isNaN(fetched?.at[i] ?? Number.NaN))),
  );

/** 400 kB as F32. */
const LARGE = [40, 2500] as const;

describe.skipIf(!hasDirectReads)('openBlock, of cold files', () => {
  const slots = [plannedSlot(0, 'w', ...LARGE), plannedSlot(1, 'v', 2, 5)];
  const group = { index: 0, slots };
  const four = (folder: string): Promise<PlannedModel[]> =>
    Promise.all(
      [0, 1, 2, 3].map((id) => writeModel(folder, id, [tensor('w', 'F32', LARGE, id), tensor('v', 'F32', [2, 5], id)])),
    );

  it('fetches models that are alike to places evenly spaced, which readers look at without a copy', async () => {
    const models = await four(temporaryFolder());
    expect(areCold(models)).toBe(false);
    await chill(pathsOf(models));
    expect(areCold(models)).toBe(true);
    const open = await openCold(group, models);
    expect(fetchedRows(open)).toEqual(slots.map(() => [true, true, true, true]));
    expect(shareOf(pathsOf(models)[0]!, 400_000)).toBeLessThan(0.1);
    const [rows] = open.slots[0]!.rows;
    const { bytes } = new RowReader().read(rows!, tilesOf(LARGE[0] * LARGE[1])[1]!, () => {});
    expect(bytes.buffer).toBe(rows!.fetched!.buffer);
    // A device that lends memory gets the rows there.
    const lent = new Uint8Array(2 ** 20);
    const memory = { take: (length: number) => lent.subarray(0, length), close: () => {} };
    const taken = new RowReader(() => memory).read(rows!, tilesOf(LARGE[0] * LARGE[1])[1]!, () => {});
    expect(taken.bytes.buffer).toBe(lent.buffer);
    expect(Buffer.from(taken.bytes.subarray(0, 65_536)).equals(bytes.subarray(0, 65_536))).toBe(true);
    await expectSame(open, group, models);
  });

  it('fetches what is there to fetch: of any dtype and at any byte, but not small runs, nor what the cache has', async () => {
    const folder = temporaryFolder();
    const odd = { name: 'a', dtype: 'F8_E5M2', shape: [1, 3], data: new Uint8Array(3) };
    const models = [
      await writeModel(folder, 0, [tensor('w', 'F32', LARGE, 0), tensor('v', 'F32', [2, 5], 10)]),
      await writeModel(folder, 1, [odd, tensor('w', 'F32', LARGE, 1), tensor('v', 'F32', [2, 5], 11)]),
      await writeModel(folder, 2, [tensor('w', 'BF16', LARGE, 2), tensor('v', 'BF16', [2, 5], 12)]),
      await writeModel(folder, 3, [tensor('w', 'F32', LARGE, 3), tensor('v', 'F32', [2, 5], 13)]),
    ];
    writeSafetensors(`${folder}/4`, [tensor('w', 'F32', LARGE, 4), tensor('v', 'F32', [2, 5], 14)], { align: 1 });
    models.push(await plannedModel(4, `${folder}/4`));
    writeSharded(`${folder}/5`, [[tensor('v', 'F32', [2, 5], 15)], [tensor('w', 'F32', LARGE, 5)]]);
    models.push(await plannedModel(5, `${folder}/5`, 'sharded'));
    await chill(pathsOf(models));
    readFileSync(pathsOf(models)[3]!);
    const open = await openCold(group, models);
    // Models 0, 1, 3, 4 and 5 are F32, model 2 is BF16: 200 kB.
    expect(fetchedRows(open)).toEqual([
      [true, true, false, true, true, false],
      [true, true, false, true, false, false],
    ]);
    await expectSame(open, group, models);
  });

  it('of models whose headers differ, each row is found where it stands', async () => {
    const folder = temporaryFolder();
    const models = await Promise.all(
      [0, 1, 2, 3].map((id) =>
        writeModel(folder, id, [
          ...(id === 2 ? [tensor('a', 'F32', [1, 3], 9)] : []),
          tensor('w', 'F32', LARGE, id),
          tensor('v', 'F32', [2, 5], id),
        ]),
      ),
    );
    await chill(pathsOf(models));
    const open = await openCold(group, models);
    expect(fetchedRows(open)).toEqual(slots.map(() => [true, true, true, true]));
    await expectSame(open, group, models);
  });

  it('fetches the tiles of a part', async () => {
    const models = await four(temporaryFolder());
    await chill(pathsOf(models));
    const whole = fetchingBytes(group, { models, block: 4 });
    const wide = { index: 0, slots: [slots[0]!] };
    const range = { from: 2, to: 6 };
    expect(fetchingBytes(wide, { models, block: 4 }, range)).toBeLessThan(whole * 0.75);
    const open = await openCold(wide, models, range);
    expect(fetchedRows(open)).toEqual([[true, true, true, true]]);
    const [rows] = open.slots[0]!.rows;
    const [reader, other] = [new RowReader(), new RowReader()];
    for (const tile of tilesOf(LARGE[0] * LARGE[1]).slice(2, 6)) {
      const { bytes, stride } = reader.read(rows!, tile, () => {});
      const { fetched: _, ...inFiles } = rows!;
      const want = other.read(inFiles, tile, () => {});
      for (let i = 0; i < 4; i++) {
        const row = bytes.subarray(i * stride, i * stride + tile.width * 4);
        expect(Buffer.compare(row, want.bytes.subarray(i * want.stride, (i + 1) * want.stride))).toBe(0);
      }
    }
  });

  it('leaves to whoever reads the rows what did not come whole', async () => {
    const models = await four(temporaryFolder());
    await chill(pathsOf(models));
    const real = DirectReads.prototype.read;
    let reads = 0;
    vi.spyOn(DirectReads.prototype, 'read').mockImplementation(async function (this: DirectReads, memory, read) {
      const came = await real.call(this, memory, read);
      return reads++ === 1 ? came - 8192 : came;
    });
    onTestFinished(() => void vi.restoreAllMocks());
    const open = await openCold(group, models);
    expect(fetchedRows(open)[0]!.filter((isFetched) => isFetched)).toHaveLength(3);
    await expectSame(open, group, models);
  });

  it('two blocks at once, each into memory of its own', async () => {
    const [some, others] = [await four(temporaryFolder()), await four(temporaryFolder())];
    await chill(pathsOf([...some, ...others]));
    const [one, other] = await Promise.all([openCold(group, some), openCold(group, others)]);
    for (const open of [one, other]) expect(fetchedRows(open)[0]).toEqual([true, true, true, true]);
    await expectSame(one, group, some);
    await expectSame(other, group, others);
  });

  it('has the kernel fetch what no file system reads past the cache', async () => {
    const models = await four(temporaryFolder());
    await chill(pathsOf(models));
    vi.spyOn(DirectReads.prototype, 'read').mockResolvedValue(0);
    onTestFinished(() => void vi.restoreAllMocks());
    const open = await openCold(group, models);
    expect(fetchedRows(open)[0]).toEqual([false, false, false, false]);
    for (const path of pathsOf(models)) await expect.poll(() => shareOf(path, 400_000)).toBeGreaterThan(0.9);
    await expectSame(open, group, models);
  });

  it('memory that is too small for a block is left alone', async () => {
    const models = await four(temporaryFolder());
    await chill(pathsOf(models));
    const buffer = new SharedArrayBuffer(fetchingBytes(group, { models, block: 4 }) - 1);
    const open = await openBlock(new SourceFiles(), group, models, undefined, buffer);
    onTestFinished(() => open.files.close());
    expect(fetchedRows(open)[0]).toEqual([false, false, false, false]);
    expect(new Uint8Array(buffer).every((byte) => byte === 0)).toBe(true);
    await expectSame(open, group, models);
  });

  it('a file that is gone, and one that is not the planned one any more: as ever', async () => {
    const models = await four(temporaryFolder());
    await chill(pathsOf(models));
    rmSync(pathsOf(models)[1]!);
    const open = await openCold(group, models);
    expect(open.faults.map(({ model, slot }) => [model.id, slot.id])).toEqual([
      [1, 0],
      [1, 1],
    ]);
    expect(fetchedRows(open)[0]).toEqual([true, false, true, true]);
    utimesSync(pathsOf(models)[2]!, 1, 1);
    const before = openDescriptors();
    await expect(openCold(group, models)).rejects.toMatchObject({ rule: 'changed' });
    await expect.poll(openDescriptors).toBe(before);
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
