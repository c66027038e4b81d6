// Staged blocks against the bytes that were written: the layout a tile at a time, and what happens to bad files.
import { truncateSync, utimesSync } from 'node:fs';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { bytesPerElement } from '../../sources/dtype.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../../sources/reading-plan.ts';
import { SourceFiles } from '../../sources/source-files.ts';
import { type StagedRows, stageBlock, stagingBytes } from '../../sources/staged-block.ts';
import { TILE_WIDTH, tilesOf } from '../../sources/tile.ts';
import { plannedModel, plannedSlot, writeModel } from './planned-files.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { type TensorToWrite, writeSharded } from './write-safetensors.ts';

/** Bytes that differ by model, tensor and place. */
const pattern = (length: number, seed: number): Uint8Array => {
  let state = Math.imul(seed + 1, 2654435761) >>> 0;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
};

const sizes: Record<string, number> = { F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, I8: 1 };

const tensor = (name: string, dtype: string, shape: readonly number[], seed: number): TensorToWrite => ({
  name,
  dtype,
  shape,
  data: pattern(
    shape.reduce((a, b) => a * b, sizes[dtype]!),
    seed,
  ),
});

const openFiles = (): SourceFiles => {
  const files = new SourceFiles();
  return files;
};

/** Row `i` of the rows, its tiles put together again. */
const rowBytes = (rows: StagedRows, features: number, i: number): Uint8Array => {
  const size = bytesPerElement(rows.dtype);
  const parts = tilesOf(features).map(({ start, width }) => {
    const at = rows.offset + start * rows.models.length * size + i * width * size;
    return new Uint8Array(rows.buffer, at, width * size);
  });
  return Buffer.concat(parts);
};

const stage = (group: SlotGroup, models: readonly PlannedModel[], from = 0) =>
  stageBlock(openFiles(), group, models, new SharedArrayBuffer(from + stagingBytes(group, models)), from);

describe('the layout', () => {
  const wide = 2 * TILE_WIDTH + 100;

  it.each([0, 128])('mixed dtypes and a tensor of three tiles, from byte %i on', async (from) => {
    const folder = temporaryFolder();
    const dtypes = ['F32', 'BF16', 'F32', 'F64', 'F8_E4M3', 'F16', 'F8_E5M2', 'BF16', 'F32', 'F32'];
    const written = dtypes.map((dtype, id) => [
      tensor('small', id === 3 ? 'F16' : 'F32', [3, 7], 100 + id),
      tensor('wide', dtype, [2, wide / 2], id),
    ]);
    const models = await Promise.all(written.map((tensors, id) => writeModel(folder, id, tensors)));
    const group = { index: 0, slots: [plannedSlot(0, 'wide', 2, wide / 2), plannedSlot(1, 'small', 3, 7)] };
    const { slots, faults } = await stage(group, models, from);
    expect(faults).toEqual([]);
    expect(slots.map((staged) => staged.slot.name)).toEqual(['wide', 'small']);
    expect(slots[0]!.rows.map((rows) => [rows.dtype, [...rows.models]])).toEqual([
      ['F32', [0, 2, 8, 9]],
      ['BF16', [1, 7]],
      ['F64', [3]],
      ['F8_E4M3', [4]],
      ['F16', [5]],
      ['F8_E5M2', [6]],
    ]);
    let end = from;
    for (const { slot: staged, rows: parts, models: kept } of slots) {
      expect(kept).toEqual(models);
      for (const rows of parts) {
        expect(rows.offset % 64).toBe(0);
        expect(rows.offset).toBeGreaterThanOrEqual(end);
        end = rows.offset + rows.models.length * staged.features * bytesPerElement(rows.dtype);
        expect([...rows.positions]).toEqual([...rows.models]);
        rows.models.forEach((id, i) => {
          const { data } = written[id]!.find(({ name }) => name === staged.name)!;
          expect(Buffer.compare(rowBytes(rows, staged.features, i), data as Uint8Array), `${staged.name} ${id}`).toBe(
            0,
          );
        });
      }
    }
    expect(end).toBeLessThanOrEqual(from + stagingBytes(group, models));
  });

  it('positions count within the block, ids within the run', async () => {
    const folder = temporaryFolder();
    const ids = [11, 12, 13];
    const models = await Promise.all(
      ids.map((id) => writeModel(folder, id, [tensor('w', id === 12 ? 'BF16' : 'F32', [2, 2], id)])),
    );
    const { slots } = await stage({ index: 0, slots: [plannedSlot(5, 'w', 2, 2)] }, models);
    expect(slots[0]!.rows.map(({ models, positions }) => [[...models], [...positions]])).toEqual([
      [
        [11, 13],
        [0, 2],
      ],
      [[12], [1]],
    ]);
  });

  it('stagingBytes: every part to 64 bytes', async () => {
    const folder = temporaryFolder();
    const models = [
      await writeModel(folder, 0, [tensor('w', 'F32', [1, 5], 0)]),
      await writeModel(folder, 1, [tensor('w', 'BF16', [1, 5], 1)]),
    ];
    expect(stagingBytes({ index: 0, slots: [plannedSlot(0, 'w', 1, 5)] }, models)).toBe(128);
    expect(stagingBytes({ index: 0, slots: [plannedSlot(0, 'w', 1, 5)] }, [])).toBe(0);
  });
});

describe('reads', () => {
  /** Position and length of every read that staging one model takes. */
  const readsOf = async (tensors: readonly TensorToWrite[], wanted: readonly PlannedSlot[]) => {
    const model = await writeModel(temporaryFolder(), 0, tensors);
    const spy = vi.spyOn(SourceFiles.prototype, 'read');
    onTestFinished(() => spy.mockRestore());
    const { slots, faults } = await stage({ index: 0, slots: wanted }, [model]);
    expect(faults).toEqual([]);
    for (const { slot: staged, rows } of slots) {
      const { data } = tensors.find(({ name }) => name === staged.name)!;
      expect(Buffer.compare(rowBytes(rows[0]!, staged.features, 0), data as Uint8Array), staged.name).toBe(0);
    }
    const reads = spy.mock.calls.map(([, at, buffers]) => [at, buffers.reduce((sum, b) => sum + b.byteLength, 0)]);
    const at = (name: string): number => model.header.tensors.get(name)!.offset;
    return { reads, at };
  };

  it('neighbours come in one, in whatever order the slots stand', async () => {
    const tensors = ['a', 'b', 'c'].map((name, i) => tensor(name, 'F32', [4, 4], i));
    const { reads, at } = await readsOf(tensors, [
      plannedSlot(0, 'c', 4, 4),
      plannedSlot(1, 'a', 4, 4),
      plannedSlot(2, 'b', 4, 4),
    ]);
    expect(reads).toEqual([[at('a'), 192]]);
  });

  it.each([
    [16_384, 1],
    [16_385, 2],
  ])('a gap of %i bytes: %i reads', async (gap, count) => {
    const tensors = [tensor('a', 'F32', [2, 2], 0), tensor('gap', 'I8', [gap], 1), tensor('z', 'F32', [2, 2], 2)];
    const { reads, at } = await readsOf(tensors, [plannedSlot(0, 'a', 2, 2), plannedSlot(1, 'z', 2, 2)]);
    const two = [
      [at('a'), 16],
      [at('z'), 16],
    ];
    expect(reads).toEqual(count === 1 ? [[at('a'), 32 + gap]] : two);
  });

  it('no more than 16 MiB in one, where the tensors are smaller', async () => {
    const names = ['a', 'b', 'c'];
    const tensors = names.map((name, i) => tensor(name, 'F32', [1536, 1024], i));
    const { reads, at } = await readsOf(
      tensors,
      names.map((name, i) => plannedSlot(i, name, 1536, 1024)),
    );
    const each = 1536 * 1024 * 4;
    expect(reads).toEqual([
      [at('a'), 2 * each],
      [at('c'), each],
    ]);
  });

  it('more tiles than one readv takes', async () => {
    const cols = 1100 * 16_384;
    const { reads } = await readsOf([tensor('w', 'F8_E4M3', [1, cols], 3)], [plannedSlot(0, 'w', 1, cols)]);
    expect(reads).toHaveLength(1);
  });

  it('each shard for itself', async () => {
    const folder = temporaryFolder();
    const shards = [[tensor('a', 'F32', [2, 3], 0)], [tensor('b', 'F32', [2, 3], 1)]];
    writeSharded(folder, shards);
    const model = await plannedModel(0, folder, 'sharded');
    const { slots } = await stage({ index: 0, slots: [plannedSlot(0, 'a', 2, 3), plannedSlot(1, 'b', 2, 3)] }, [model]);
    for (const [i, staged] of slots.entries()) {
      expect([...rowBytes(staged.rows[0]!, 6, 0)]).toEqual([...(shards[i]![0]!.data as Uint8Array)]);
    }
  });
});

describe('bad files', () => {
  const group = { index: 0, slots: [plannedSlot(0, 'a', 4, 4), plannedSlot(1, 'z', 4, 4)] };
  const tensors = (id: number) => [
    tensor('a', 'F32', [4, 4], id),
    tensor('gap', 'I8', [20_000], 50 + id),
    tensor('z', 'F32', [4, 4], 100 + id),
  ];
  const three = (folder: string) => Promise.all([0, 1, 2].map((id) => writeModel(folder, id, tensors(id))));

  it('cut while it is open: a fault of what is behind the cut, the others go on', async () => {
    const models = await three(temporaryFolder());
    const files = openFiles();
    const file = models[1]!.header.files[0]!;
    files.hold(file);
    onTestFinished(() => files.release(file));
    await files.read(file, 0, [new Uint8Array(8)]);
    truncateSync(file.path, file.size - 8);
    const buffer = new SharedArrayBuffer(stagingBytes(group, models));
    const { slots, faults } = await stageBlock(files, group, models, buffer);
    expect(faults).toHaveLength(1);
    const [{ model, slot: at, error }] = faults as [(typeof faults)[0]];
    expect([model.id, at.name]).toEqual([1, 'z']);
    expect(error).toBeInstanceOf(SourceMalformed);
    expect(error).toMatchObject({ rule: 'short-read', path: file.path });
    expect(error.message).toContain(`ends at byte ${file.size - 8}, expected 8 more`);
    expect(slots.map(({ models }) => models.map(({ id }) => id))).toEqual([
      [0, 1, 2],
      [0, 2],
    ]);
    expect([...slots[0]!.rows[0]!.positions]).toEqual([0, 1, 2]);
    expect([...slots[1]!.rows[0]!.positions]).toEqual([0, -1, 1]);
    expect([...rowBytes(slots[1]!.rows[0]!, 16, 2)]).toEqual([...(tensors(2)[2]!.data as Uint8Array)]);
  });

  it('gone: a fault of every slot, by model and slot', async () => {
    const models = await three(temporaryFolder());
    const lost = models.map((model) =>
      model.id === 1
        ? model
        : {
            ...model,
            header: {
              ...model.header,
              files: [{ ...model.header.files[0]!, path: `${model.header.files[0]!.path}.gone` }],
            },
          },
    );
    const { slots, faults } = await stage(group, lost);
    expect(faults.map(({ model, slot: at }) => [model.id, at.id])).toEqual([
      [0, 0],
      [0, 1],
      [2, 0],
      [2, 1],
    ]);
    for (const { error } of faults) {
      expect(error).toBeInstanceOf(SourceUnavailable);
      expect(error.message).toContain('cannot be opened');
    }
    expect(slots.map(({ models }) => models.map(({ id }) => id))).toEqual([[1], [1]]);
  });

  it('of another size than planned: stops', async () => {
    const models = await three(temporaryFolder());
    const { path, size } = models[2]!.header.files[0]!;
    truncateSync(path, size - 4);
    const error = await stage(group, models).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SourceMalformed);
    expect(error).toMatchObject({ rule: 'changed', path });
    expect((error as Error).message).toContain(`has ${size - 4} bytes, expected the ${size}`);
  });

  it('written to since the plan: stops', async () => {
    const models = await three(temporaryFolder());
    const { path } = models[0]!.header.files[0]!;
    utimesSync(path, new Date(), new Date(Date.now() + 5000));
    const error = await stage(group, models).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SourceMalformed);
    expect(error).toMatchObject({ rule: 'changed', path });
  });
});
