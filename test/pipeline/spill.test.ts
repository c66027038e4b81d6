// A slot too large for the memory: its rows go through files, part by part, and every table is what enough memory makes.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { tableDigests } from './table-digests.ts';
import { COLS, MODELS, ROWS, writeWideModels } from './wide-models.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-spill-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Half of the models have the wide slot as F64. */
beforeAll(() =>
  writeWideModels(root, {
    isDouble: (m) => m % 2 === 1,
    spoil: (m, wide) => {
      if (m === 1 || m === 8 || m === 9) wide[299_990 - m] = Number.NaN;
      if (m === 6) wide[3] = 1e30;
    },
  }),
);

const cli = (...args: string[]) => {
  const command = [join(process.cwd(), 'dist/pipeline/cli.js'), ...args];
  const { status, stdout, stderr } = spawnSync('node', command, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 26 });
  return { code: status, stdout, stderr };
};

const fold = ['--rank', '3', '--block', '4', '--threads', '2'];
const enough = ['--memory', '4GiB'];
const little = ['--memory', '8MiB'];

const planOf = (...args: string[]) => JSON.parse(cli('plan', 'good', ...fold, '--json', ...args).stdout);

const suites = (['incremental', 'exact'] as const).flatMap((engine) => devices.map(({ name }) => ({ name, engine })));

describe.each(suites)('engine $engine on $name', ({ name, engine }) => {
  const device = `${name}-${engine}`;
  const on = ['--device', name, '--engine', engine];
  let runs = 0;
  const both = (source: string, ...args: string[]) => {
    const [large, small] = [enough, little].map((memory) => {
      const out = `${device}-${runs++}`;
      const { code, stderr } = cli('run', source, '--out', out, ...on, ...fold, ...memory, '--quiet', ...args);
      expect(code, stderr).toBe(0);
      expect(existsSync(join(root, out, 'spill'))).toBe(false);
      return out;
    }) as [string, string];
    return { large, small };
  };

  it('the tables are those of a run with enough memory', () => {
    expect(planOf(...on, ...enough).bytes_to_spill).toBe(0);
    const plan = planOf(...on, ...little);
    // Several parts; the small slot is not spilled. All models of a part are there at once in the engine exact.
    const parts = plan.groups.map(({ tiles_at_once }: { tiles_at_once: number | null }) => tiles_at_once);
    expect(parts).toEqual([null, engine === 'exact' ? 1 : 4]);
    // Two generations of 3 + ℓ + b rows of float32, ℓ no more than the models allow; or 3 + k rows once.
    const rows = 3 + Math.min(16, MODELS - 1) + 4;
    expect(plan.bytes_to_spill).toBe((engine === 'exact' ? 3 + 3 : 2 * rows) * ROWS * COLS * 4);
    const { large, small } = both('good');
    expect(tableDigests(join(root, small))).toEqual(tableDigests(join(root, large)));
  }, 60_000);

  it('also with a base, uncentred, and with a scratch folder elsewhere, which is left as it was', () => {
    mkdirSync(join(root, `scratch-${device}`));
    const base = ['--base', join('good', 'm00.safetensors'), '--no-center', '--scratch', `scratch-${device}`];
    const { large, small } = both('good', ...base);
    expect(tableDigests(join(root, small))).toEqual(tableDigests(join(root, large)));
    expect(readdirSync(join(root, `scratch-${device}`))).toEqual([]);
  }, 60_000);

  it('models with bad weights, found late in a block, stay out of it', () => {
    const { large, small } = both('bad', '--on-bad-source', 'skip');
    expect(tableDigests(join(root, small))).toEqual(tableDigests(join(root, large)));
  }, 60_000);

  // The same four models as one block either way: what was left out before them changes nothing.
  it.runIf(engine === 'incremental')(
    'also relative to a base where a whole block at the beginning stays out',
    async () => {
      const [late, good] = [
        { name: 'late', models: [1, 6, 8, 9, 2, 3, 4, 5], memory: little },
        { name: 'early', models: [2, 3, 4, 5], memory: enough },
      ].map(({ name, models, memory }) => {
        const out = `${device}-${name}`;
        const sources = models.map((m) => join('bad', `m0${m}.safetensors`));
        const base = ['--base', join('bad', 'm00.safetensors'), '--no-center', '--on-bad-source', 'skip'];
        const { code, stderr } = cli('run', ...sources, '--out', out, ...on, ...fold, ...memory, ...base, '--quiet');
        expect(code, stderr).toBe(0);
        return out;
      }) as [string, string];
      const [found, expected] = await Promise.all(
        [late, good].map(async (out) =>
          (await readWithHyparquet(join(root, out, 'spectrum.parquet')))
            .filter(({ slot_id }) => slot_id === 1)
            .map(({ eigenvalue }) => eigenvalue),
        ),
      );
      expect(found).toHaveLength(3);
      expect(found).toEqual(expected);
    },
    60_000,
  );

  it('a bad weight ends the run and is named', () => {
    const { code, stderr } = cli('run', 'bad', '--out', `error-${device}`, ...on, ...fold, ...little, '--quiet');
    expect(code).toBe(65);
    // The engine exact sees the first tile of all models before the last of any.
    const first =
      engine === 'exact'
        ? /m06\.safetensors: tensor wide: entry 3 is 1/
        : /m01\.safetensors: tensor wide: entry 299989 is NaN/;
    expect(stderr).toMatch(first);
    expect(existsSync(join(root, `error-${device}`))).toBe(false);
  }, 60_000);
});

it.each(devices.flatMap(({ name }) => ['good', 'bad'].map((source) => ({ name, source }))))(
  'engine randomized in two passes on $name, $source models: the tables are those of a run with enough memory',
  ({ name, source }) => {
    const on = ['--device', name, '--engine', 'randomized', '--passes', '2', '--on-bad-source', 'skip'];
    expect(planOf('--engine', 'randomized', '--memory', '16MiB').bytes_to_spill).toBeGreaterThan(0);
    const [large, small] = [enough, ['--memory', '16MiB']].map((memory, i) => {
      const out = `randomized-${name}-${source}-${i}`;
      const { code, stderr } = cli('run', source, '--out', out, ...on, ...fold, ...memory, '--quiet');
      expect(code, stderr).toBe(0);
      return tableDigests(join(root, out));
    });
    expect(small).toEqual(large);
  },
  60_000,
);

it('the smallest memory is refused with what one tile needs', () => {
  const { code, stderr } = cli('plan', 'good', '--rank', '400', '--block', '4', '--threads', '2', '--memory', '1MiB');
  expect(code).toBe(64);
  expect(stderr).toMatch(/slot wide \(500 x 600\) needs .*give --memory \d+MiB/);
});

it('a scratch folder that is not there is an error before the work starts', () => {
  const { code, stderr } = cli(
    'run',
    'good',
    '--out',
    'nowhere',
    ...fold,
    ...little,
    '--scratch',
    'not/there',
    '--quiet',
  );
  expect(code).toBe(74);
  expect(stderr).toMatch(/not\/there/);
  expect(existsSync(join(root, 'nowhere'))).toBe(false);
});
