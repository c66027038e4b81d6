// Models that are not in the page cache: read past it, a run leaves the same bytes as one that finds them there.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { groupMemory, groupSlots, type MemoryNeeds, withStandby } from '../../pipeline/memory-plan.ts';
import { fetchingBytes, isFetched } from '../../sources/fetching.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../../sources/reading-plan.ts';
import { devices } from '../operators/devices.ts';
import { chill, hasDirectReads, shareOf } from '../sources/cold-files.ts';
import { memoryNeeds } from './memory-needs.ts';
import { tableDigests } from './table-digests.ts';
import { writeWideModels } from './wide-models.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-cold-models-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Some models have the wide slot as F64, and some behind a tensor that nobody asks for. */
beforeAll(() => {
  if (!hasDirectReads) return;
  writeWideModels(root, {
    isDouble: (m) => m % 4 === 3,
    spoil: (m, wide) => {
      if (m === 1 || m === 8) wide[299_990 - m] = Number.NaN;
    },
    before: (m) => (m > 5 ? [{ name: 'step', dtype: 'I64', shape: [m], data: new Uint8Array(8 * m) }] : []),
  });
});

const pathsOf = (set: string): string[] => readdirSync(join(root, set)).map((name) => join(root, set, name));

/** The share of a set's bytes that is in the page cache. */
const cachedOf = (set: string): number => {
  const paths = pathsOf(set);
  return paths.reduce((sum, path) => sum + shareOf(path, statSync(path).size), 0) / paths.length;
};

const cli = (...args: string[]) => {
  const command = [join(process.cwd(), 'dist/pipeline/cli.js'), ...args];
  const { status, stdout, stderr } = spawnSync('node', command, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 26 });
  return { code: status, stdout, stderr };
};

const fold = ['--rank', '3', '--block', '4', '--threads', '2'];

/** Whether each group of a plan is read past the cache, and what stands by in memory. */
const groupsOf = (set: string, ...args: string[]) => {
  const { groups } = JSON.parse(cli('plan', set, ...fold, '--no-probe', '--json', ...args).stdout);
  return {
    past: groups.map(({ past_cache }: { past_cache: boolean }) => past_cache),
    parts: groups.map(({ tiles_at_once }: { tiles_at_once: number | null }) => tiles_at_once !== null),
    staging: groups.reduce((sum: number, { memory }: { memory: { staging: number } }) => sum + memory.staging, 0),
  };
};

let runs = 0;
const runOf = (set: string, ...args: string[]) => {
  const out = `run-${runs++}`;
  const { code, stderr } = cli('run', set, ...fold, '--out', out, ...args);
  return { code, stderr, digests: code === 0 ? tableDigests(join(root, out)) : {} };
};

const warm = (set: string): void => {
  for (const path of pathsOf(set)) readFileSync(path);
};

describe.skipIf(!hasDirectReads)('memory that stands by', () => {
  const MiB = 2 ** 20;
  /** Slots of a model, one behind the other, in 64 models that all are one cold file. */
  const shapes = [
    [512, 512],
    [512, 512],
    [2048, 1024],
    [40, 40],
  ] as const;
  const slots = shapes.map(([rows, cols], id): PlannedSlot => {
    const before = shapes.slice(0, id).reduce((sum, [r, c]) => sum + r * c * 4, 104);
    const tensor = {
      name: `w${id}`,
      dtype: 'F32',
      shape: [rows, cols],
      file: 0,
      offset: before,
      byteLength: rows * cols * 4,
    };
    return { id, name: `w${id}`, rows, cols, features: rows * cols, tensorIn: () => tensor };
  });
  const needsOf = async (memory: number): Promise<MemoryNeeds> => {
    const path = join(root, 'cold');
    writeFileSync(path, new Uint8Array(MiB));
    await chill([path]);
    const models = Array.from({ length: 64 }, (_, id) => ({
      id,
      name: `m${id}`,
      header: { files: [{ path, size: MiB }] },
    }));
    return {
      ...memoryNeeds,
      engine: 'incremental',
      models: models as unknown as PlannedModel[],
      block: 32,
      rank: 32,
      memory,
      basis: true,
    };
  };

  it.each([22, 24, 60, 100, 170, 270, 400, 600, 2000])(
    'is no more than %i MiB leave, whatever the groups',
    async (mebibytes) => {
      const needs = await needsOf(mebibytes * MiB);
      const before = groupSlots(slots, needs);
      const groups = withStandby(before, needs);
      expect(groups.map(({ standby: _, ...group }) => group)).toEqual(before);
      for (const group of groups) {
        const { state, staging, rest } = groupMemory(needs, group);
        expect(state + staging + rest).toBeLessThanOrEqual(needs.memory);
      }
      // One size for all: they take turns with the same buffers.
      for (const { standby } of groups) expect(standby).toEqual(groups[0]!.standby);
      const most = Math.max(...groups.map((group) => fetchingBytes(group, needs)));
      if (mebibytes === 2000) expect(groups[0]!.standby).toEqual({ buffers: 3, bytes: most });
      expect(groups.some((group) => isFetched(group, needs))).toBe(groups[0]!.standby !== undefined);
    },
  );

  it('is two where two serve a large group and three only a small one, or where blocks have many files', async () => {
    const needs = await needsOf(2000 * MiB);
    const groups = slots.map((slot, index): SlotGroup => ({ index, slots: [slot], inFiles: true }));
    const total = (group: SlotGroup): number => {
      const { state, staging, rest } = groupMemory(needs, group);
      return state + staging + rest;
    };
    const fullest = Math.max(...groups.map(total));
    const largest = Math.max(...groups.map((group) => fetchingBytes(group, needs)));
    const standbyOf = (memory: number, more: Partial<MemoryNeeds> = {}) =>
      withStandby(groups, { ...needs, memory, ...more })[0]!.standby;
    expect(standbyOf(fullest + 3 * largest)).toEqual({ buffers: 3, bytes: largest });
    expect(standbyOf(fullest + 3 * largest - 1)).toEqual({ buffers: 2, bytes: largest });
    expect(standbyOf(fullest + 2 * largest - 1)!.bytes).toBeLessThan(largest);
    const sharded = needs.models.map((model) => ({
      ...model,
      header: { ...model.header, files: Array(6).fill(model.header.files[0]) },
    }));
    expect(standbyOf(fullest + 3 * largest, { models: sharded as unknown as PlannedModel[] })).toMatchObject({
      buffers: 2,
    });
  });

  it('is none where the models are cached, and none for engine exact', async () => {
    const needs = await needsOf(2000 * MiB);
    const groups = groupSlots(slots, needs);
    expect(withStandby(groups, { ...needs, engine: 'exact' })).toEqual(groups);
    readFileSync(join(root, 'cold'));
    expect(withStandby(groups, needs)).toEqual(groups);
  });
});

describe.skipIf(!hasDirectReads)('models out of the page cache', () => {
  it('are planned with three blocks of memory for them, where there is room, and cached ones without', async () => {
    warm('good');
    const cached = groupsOf('good');
    await chill(pathsOf('good'));
    const cold = groupsOf('good');
    expect([cached.past, cold.past]).toEqual([[false], [true]]);
    // Four models of at most 2.4 MB, three times.
    expect(cold.staging - cached.staging).toBeGreaterThan(3 * 4 * 2.4e6);
    expect(cold.staging - cached.staging).toBeLessThan(3 * 4 * 2.5e6);
    expect(groupsOf('good', '--memory', '8MiB').past).toEqual([false, false]);
    const inParts = groupsOf('good', '--memory', '24MiB');
    expect([inParts.past, inParts.parts]).toEqual([
      [false, true],
      [false, true],
    ]);
    expect(groupsOf('good', '--engine', 'exact').past).toEqual([false]);
  });

  describe.each(devices.map(({ name }) => name))('on %s', (device) => {
    it.each([
      ['whole', []],
      ['with a base', ['--base', 'good/m10.safetensors']],
      ['in two passes', ['--engine', 'randomized', '--passes', '2', '--seed', '3']],
      ['in parts', ['--memory', '24MiB']],
    ])('%s: the same tables, and the cache is left alone', async (_, more) => {
      const args = ['--device', device, ...more];
      await chill(pathsOf('good'));
      const cold = runOf('good', ...args);
      expect(cold.code, cold.stderr).toBe(0);
      expect(cachedOf('good')).toBeLessThan(0.5);
      warm('good');
      expect(runOf('good', ...args).digests).toEqual(cold.digests);
    });

    it.each([
      ['whole', []],
      ['in parts', ['--memory', '24MiB']],
    ])('%s: weights that cannot be folded are found there too', async (_, more) => {
      const args = ['--device', device, ...more];
      await chill(pathsOf('bad'));
      const stopped = runOf('bad', ...args);
      expect(stopped.code).toBe(65);
      expect(stopped.stderr).toMatch(/m01\.safetensors.*wide/s);
      await chill(pathsOf('bad'));
      const cold = runOf('bad', ...args, '--on-bad-source', 'skip');
      expect(cold.code, cold.stderr).toBe(0);
      expect(cachedOf('bad')).toBeLessThan(0.5);
      warm('bad');
      expect(runOf('bad', ...args, '--on-bad-source', 'skip').digests).toEqual(cold.digests);
    });
  });
});
