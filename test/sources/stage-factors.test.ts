// Factors in a staged block: where they stand, what they multiply to, and what becomes of adapters that cannot be read.
import { truncateSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Effect } from 'effect';
import { describe, expect, it } from 'vitest';
import { SourceUnavailable } from '../../sources/errors.ts';
import { readModelHeader } from '../../sources/read-model-header.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../../sources/reading-plan.ts';
import { SourceFiles } from '../../sources/source-files.ts';
import { readingBytes, stageBlock, stagingBytes } from '../../sources/staged-block.ts';
import { factorsIn } from '../../sources/staged-factors.ts';
import { normals } from '../operators/planted.ts';
import { plannedSlot } from './planned-files.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { factorTensors, writeAdapter } from './write-adapter.ts';

const slot = (id: number, name: string, rows: number, cols: number): PlannedSlot => ({
  ...plannedSlot(id, name, rows, cols),
  isDelta: true,
});

const slots = [slot(0, 'x', 150, 140), slot(1, 'y', 30, 20)];
const group: SlotGroup = { index: 0, slots };
const scale = 2;

interface Made {
  readonly models: readonly PlannedModel[];
  readonly path: (model: number) => string;
  /** ΔW of a model and slot, an entry. */
  readonly delta: (model: number, slot: number, row: number, col: number) => number;
}

const make = async (ranks: readonly number[]): Promise<Made> => {
  const folder = temporaryFolder();
  const normal = normals(ranks.length);
  const random = (length: number): Float32Array => Float32Array.from({ length }, () => normal());
  const models: PlannedModel[] = [];
  const stored = ranks.map((rank) =>
    slots.map(({ name, rows, cols }) => ({ path: name, rank, a: random(rank * cols), b: random(rows * rank) })),
  );
  for (const [id, rank] of ranks.entries()) {
    const path = join(folder, `${id}`);
    writeAdapter(path, { r: rank, lora_alpha: scale * rank }, stored[id]!.flatMap(factorTensors));
    const entry = join(path, 'adapter_model.safetensors');
    const location = { name: `${id}`, source: path, path, layout: 'adapter', entry } as const;
    models.push({ id, name: `${id}`, header: await Effect.runPromise(readModelHeader(location)) });
  }
  const delta = (model: number, index: number, row: number, col: number): number => {
    const { rank, a, b } = stored[model]![index]!;
    let sum = 0;
    for (let l = 0; l < rank; l++) sum += b[row * rank + l]! * a[l * slots[index]!.cols + col]!;
    return scale * sum;
  };
  return { models, path: (model) => join(folder, `${model}/adapter_model.safetensors`), delta };
};

describe('a block of adapters', () => {
  it.each([
    [0, undefined],
    [192, undefined],
    [64, { from: 1, to: 2 }],
  ])('has the factors of all, from byte %i on, whatever the tiles', async (from, range) => {
    const { models, delta } = await make([4, 1, 7]);
    // A slot that comes in parts is alone in its group.
    const own = range === undefined ? group : { index: 0, slots: slots.slice(0, 1) };
    const bytes = stagingBytes(own, models, range);
    expect(bytes).toBe(stagingBytes(own, models));
    const buffer = new SharedArrayBuffer(from + bytes);
    const staged = await stageBlock(new SourceFiles(), own, models, buffer, from, range);
    expect(staged.faults).toEqual([]);
    for (const [index, { rows, models: inSlot }] of staged.slots.entries()) {
      expect(inSlot).toEqual(models);
      const [part] = rows;
      expect(part!.factors!.ranks).toEqual(Int32Array.of(4, 1, 7));
      expect([...part!.factors!.at].every((at) => at >= from && at % 64 === 0)).toBe(true);
      for (const model of models.keys()) {
        const { rank, cols, left, right } = factorsIn(buffer, part!.factors!, model);
        for (let row = 0; row < 30; row += 7)
          for (let col = 0; col < 20; col += 3) {
            let sum = 0;
            for (let l = 0; l < rank; l++) sum += left[row * rank + l]! * right[l * cols + col]!;
            expect(Math.abs(sum - delta(model, index, row, col))).toBeLessThan(1e-4);
          }
      }
    }
  });

  it('takes beside the buffer what eight of them store, and the algebra of one module', async () => {
    const { models } = await make(new Array(12).fill(4));
    const stored = (150 + 140 + 30 + 20) * 4 * 4;
    expect(readingBytes(group, models)).toBe(8 * stored + 3 * (150 + 140) * 4 * 8);
  });

  it('goes on without one whose file is gone: a fault a slot, not one a factor', async () => {
    const { models, path } = await make([4, 4, 4]);
    unlinkSync(path(1));
    const staged = await stageBlock(
      new SourceFiles(),
      group,
      models,
      new SharedArrayBuffer(stagingBytes(group, models)),
    );
    expect(staged.faults.map(({ model, slot }) => [model.id, slot.id])).toEqual([
      [1, 0],
      [1, 1],
    ]);
    expect(staged.faults[0]!.error).toBeInstanceOf(SourceUnavailable);
    expect(staged.slots.map(({ models: kept, rows }) => [kept.length, [...rows[0]!.positions]])).toEqual([
      [2, [0, -1, 1]],
      [2, [0, -1, 1]],
    ]);
  });

  it('stops where a file has changed since the plan', async () => {
    const { models, path } = await make([4, 4]);
    const buffer = new SharedArrayBuffer(stagingBytes(group, models));
    utimesSync(path(1), 1, 1);
    await expect(stageBlock(new SourceFiles(), group, models, buffer)).rejects.toMatchObject({ rule: 'changed' });
    truncateSync(path(1), 900);
    await expect(stageBlock(new SourceFiles(), group, models, buffer)).rejects.toMatchObject({ rule: 'changed' });
    writeFileSync(path(1), '');
    await expect(stageBlock(new SourceFiles(), group, models, buffer)).rejects.toMatchObject({ rule: 'changed' });
  });
});
