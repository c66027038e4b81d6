// Which engine `--engine auto` takes, on shapes where it is plain which one costs less; and what the engine exact leaves.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parquetReadObjects } from 'hyparquet';
import { describe, expect, it } from 'vitest';
import type { RunConfig } from '../../configs/run-config.ts';
import { prefixesOf } from '../../operators/exact-spectrum.ts';
import { chooseEngine } from '../../pipeline/choose-engine.ts';
import type { PlannedModel, PlannedSlot } from '../../sources/reading-plan.ts';
import { runCli, temporaryFolder } from './cli-process.ts';
import { memoryNeeds } from './memory-needs.ts';

const zoo = 'examples/zoo/full';

const read = async (run: string, table: string) => {
  const bytes = readFileSync(join(run, `${table}.parquet`));
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
  return parquetReadObjects({ file });
};

const choose = (
  models: number,
  features: number,
  rank: number,
  memory: number,
  { engine = 'auto', basis = true }: Partial<Pick<RunConfig, 'engine' | 'basis'>> = {},
) => {
  const tensor = { name: 'w', dtype: 'F32', shape: [1, features], file: 0, offset: 0, byteLength: features * 4 };
  const slot: PlannedSlot = { id: 0, name: 'w', rows: 1, cols: features, features, tensorIn: () => tensor };
  const header = { files: [], headerDigests: [], tensors: new Map() };
  const stream = Array.from({ length: models }, (_, id): PlannedModel => ({ id, name: `m${id}`, header }));
  const config = { engine, rank, block: 32, basis, center: true } as RunConfig;
  const needs = { ...memoryNeeds, models: stream, block: 32, rank, memory };
  return chooseEngine(config, [slot], needs);
};

describe('chooseEngine', () => {
  it('auto takes exact for a few models, and says what it compared', () => {
    const { engine, reason } = choose(64, 2 ** 22, 32, 2 ** 32, { basis: false });
    expect(engine).toBe('exact');
    expect(reason).toMatch(/^fits the memory and costs less, about .* against /);
  });

  it('auto takes incremental where the second reading for a basis costs more than its products', () => {
    expect(choose(64, 2 ** 22, 32, 2 ** 32).engine).toBe('incremental');
  });

  it('auto takes incremental for thousands of models at a small rank', () => {
    const { engine, reason } = choose(4000, 2 ** 20, 4, 2 ** 34);
    expect(engine).toBe('incremental');
    expect(reason).toMatch(/^costs less than exact, /);
  });

  it('auto takes incremental where all models of a tile do not fit the memory', () => {
    // One tile of 200 models, twice, is 26 MB.
    const { engine, reason } = choose(200, 2 ** 20, 4, 16 * 2 ** 20);
    expect([engine, reason]).toEqual(['incremental', 'exact does not fit the memory']);
  });

  it('an engine that was asked for is taken, or refused with what would do', () => {
    expect(choose(4000, 2 ** 20, 4, 2 ** 34, { engine: 'exact' })).toMatchObject({ engine: 'exact', reason: null });
    expect(() => choose(200, 2 ** 20, 4, 16 * 2 ** 20, { engine: 'exact' })).toThrow(
      /give --memory \d+MiB, --engine incremental/,
    );
  });
});

describe('prefixesOf', () => {
  it('is every end of a block, up to 64 of them', () => {
    expect(prefixesOf(10, 4)).toEqual([
      { models: 4, block: 0 },
      { models: 8, block: 1 },
      { models: 10, block: 2 },
    ]);
    expect(prefixesOf(64, 1)).toHaveLength(64);
  });

  it('is 64 ends at most, closer at the beginning, the last one the end', () => {
    const ends = prefixesOf(100_000, 32);
    expect(ends.length).toBeLessThanOrEqual(64);
    expect(ends.length).toBeGreaterThan(48);
    expect(ends[0]).toEqual({ models: 32, block: 0 });
    expect(ends.at(-1)).toEqual({ models: 100_000, block: 3124 });
    const steps = ends.slice(1).map(({ models }, i) => models - ends[i]!.models);
    expect(Math.min(...steps)).toBeGreaterThan(0);
    expect(steps.at(-1)!).toBeGreaterThan(20 * steps[0]!);
  });
});

describe('weightspan --engine', () => {
  it('plan says which engine auto takes and why, and that exact reads twice for a basis', async () => {
    const text = await runCli([
      'plan',
      zoo,
      '--engine',
      'auto',
      '--block',
      '2',
      '--no-basis',
      '--device',
      'tfjs',
      '--no-probe',
    ]);
    expect(text.stdout).toMatch(/\nengine {5}exact, .*\(auto: fits the memory and costs less, /);
    const twiceRead = await runCli(['plan', zoo, '--engine', 'exact', '--device', 'tfjs', '--no-probe']);
    expect(twiceRead.stdout).toContain('each byte twice');
    const plans = await Promise.all(
      [[], ['--no-basis']].map((options) =>
        runCli(['plan', zoo, '--engine', 'exact', '--device', 'tfjs', '--no-probe', '--json', ...options]),
      ),
    );
    const [twice, once] = plans.map(({ stdout }) => JSON.parse(stdout));
    expect([twice.passes, once.passes]).toEqual([2, 1]);
    expect(twice.bytes_to_read).toBe(2 * once.bytes_to_read);
    expect(twice.engine).toEqual({ name: 'exact', reason: null });
  });

  it('exact leaves whole spectra, coordinates of k directions, and one pass where no basis is wanted', async () => {
    const folder = temporaryFolder();
    const [with_, without] = ['with', 'without'].map((name) => join(folder, name)) as [string, string];
    const options = ['run', zoo, '--engine', 'exact', '--rank', '3', '--block', '5', '--device', 'tfjs', '--quiet'];
    for (const [out, more] of [
      [with_, []],
      [without, ['--no-basis']],
    ] as const) {
      expect((await runCli([...options, '--out', out, ...more])).code).toBe(0);
    }
    const [spectrum, subspaces, coefficients] = await Promise.all(
      ['spectrum', 'subspaces', 'coefficients'].map((table) => read(with_, table)),
    );
    for (const { slot_id, rank, exactness, engine, passes, lost } of subspaces!) {
      expect([rank, exactness, engine, Number(passes), lost]).toEqual([3, 'exact', 'exact', 2, 0]);
      const rows = spectrum!.filter((row) => row.slot_id === slot_id);
      expect(rows).toHaveLength(13);
      expect(rows.at(-1)!.cumulative_evr).toBeCloseTo(1, 5);
      expect(new Set(rows.map((row) => row.bound_kind))).toEqual(new Set(['exact']));
    }
    expect(Object.keys(coefficients![0]!).filter((name) => name.startsWith('c_'))).toEqual(['c_0', 'c_1', 'c_2']);
    expect(await read(without, 'spectrum')).toEqual(spectrum);
    const again = await read(without, 'subspaces');
    expect(again.map(({ passes }) => Number(passes))).toEqual(again.map(() => 1));
    expect(JSON.parse(readFileSync(join(with_, 'run.json'), 'utf8')).config.engine).toBe('exact');
  });

  it('refuses snapshots with exact, and an engine that does not exist', async () => {
    const snapshots = await runCli(['plan', zoo, '--engine', 'exact', '--snapshot-every', '2']);
    expect(snapshots.code).toBe(64);
    expect(snapshots.stderr).toMatch(/snapshot-every: the engine exact has nothing to show .* found engine exact/);
    const unknown = await runCli(['plan', zoo, '--engine', 'fast']);
    expect(unknown.code).toBe(64);
    expect(unknown.stderr).toMatch(
      /engine: expected one of incremental, frequent-directions, randomized, exact, auto, found "fast"/,
    );
  });
});
