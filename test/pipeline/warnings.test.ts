// What a run warns of, on models made to deserve it: in warnings.parquet, among the events, in the summary.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { normals } from '../operators/planted.ts';
import { type Row, readWithHyparquet } from '../sinks/parquet-readers.ts';
import { type TensorToWrite, type WriteOptions, writeSafetensors } from '../sources/write-safetensors.ts';
import { root, runCli } from './cli-process.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-warnings-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ran {
  readonly out: string;
  readonly warnings: readonly Row[];
  readonly events: readonly Record<string, unknown>[];
  readonly slots: readonly string[];
}

let runs = 0;
const run = async (source: string, ...options: string[]): Promise<Ran> => {
  const out = join(folder, `run-${runs++}`);
  const { code, stdout, stderr } = await runCli(['run', source, '--out', out, '--no-basis', '--json', ...options]);
  expect([code, stderr]).toEqual([0, '']);
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const path = join(out, 'warnings.parquet');
  const slots = (await readWithHyparquet(join(out, 'slots.parquet'))).map(({ name }) => String(name));
  return { out, warnings: existsSync(path) ? await readWithHyparquet(path) : [], events, slots };
};

const of = (warnings: readonly Row[], code: string): readonly Row[] => warnings.filter((row) => row.code === code);

const write = (set: string, name: string, tensors: readonly TensorToWrite[], options?: WriteOptions): void =>
  writeSafetensors(join(folder, set, `${name}.safetensors`), tensors, options);

const FROZEN = 40;
const frozen = Array.from({ length: FROZEN }, (_, i) => ({
  name: `frozen.${i}`,
  dtype: 'F32',
  shape: [2, 3],
  data: Float32Array.from({ length: 6 }, (_, j) => Math.sin(i + j)),
}));

/**
 * Sixteen models with forty frozen slots and two others. 05 is a giant in both; 09 is a copy of 02; 12 is 03 stored in
 * another way; 14 has the pages of 04 and differs elsewhere.
 */
beforeAll(() => {
  const normal = normals(11);
  const draw = (length: number, scale = 1) => Float32Array.from({ length }, () => scale * normal());
  const models = Array.from({ length: 16 }, (_, m) => {
    const scale = m === 5 ? 500 : 1;
    return { a: draw(150 * 200, scale), b: draw(200 * 200, scale) };
  });
  models[9] = models[2]!;
  models[12] = models[3]!;
  models[14] = { a: models[4]!.a, b: models[4]!.b.map((x, i) => (i < 400 ? x + 1 : x)) };
  for (const [m, { a, b }] of models.entries()) {
    const tensors = [
      { name: 'a', dtype: 'F32', shape: [150, 200], data: a },
      { name: 'b', dtype: 'F32', shape: [200, 200], data: b },
      ...frozen,
    ];
    const name = String(m).padStart(2, '0');
    if (m === 12) write('odd', name, tensors.reverse(), { metadata: { format: 'pt' } });
    else write('odd', name, tensors);
  }
});

describe.each([
  ['truncated', '3', '4'],
  ['exact', '14', '4'],
  ['one block', '8', '16'],
] as const)('odd models, %s (rank %s, block %s)', (_, rank, block) => {
  const options = ['--rank', rank, '--block', block];
  let odd: Ran;
  beforeAll(async () => {
    odd = await run(join(folder, 'odd'), ...options);
  }, 60_000);

  it('names every frozen slot', () => {
    const rows = of(odd.warnings, 'identical');
    expect(rows.map(({ slot_id }) => odd.slots[Number(slot_id)])).toEqual(frozen.map(({ name }) => name));
    expect(rows[7]).toMatchObject({ mode: 'models', model_id: null });
    expect(rows[7]!.text).toBe('slot frozen.7: the 16 models are identical up to rounding');
  });

  it('names the giant, in each slot', () => {
    const rows = of(odd.warnings, 'giant-norm');
    expect(rows.map(({ slot_id, model_id }) => [odd.slots[Number(slot_id)], model_id])).toEqual([
      ['a', 5],
      ['b', 5],
    ]);
    // The giant draws the mean to itself: about 15/16 of it is its own distance, 1/16 everybody else's.
    for (const { value } of rows) expect(Math.abs(Number(value) / 15 - 1)).toBeLessThan(0.05);
    expect(rows[0]!.text).toBe('slot a: model 05 is beyond 10 times the median distance from the mean');
  });

  it('names models that nothing tells apart, and none that differs anywhere', () => {
    const rows = of(odd.warnings, 'indistinguishable-models');
    expect(rows.map(({ model_id, value }) => [model_id, value])).toEqual([
      [9, 2],
      [12, 3],
    ]);
    expect(rows[0]!.text).toBe('model 09: nothing tells it apart from model 02');
    expect(of(odd.warnings, 'identical-models')).toEqual([]);
  });

  it('warns of nothing else', () => expect(odd.warnings).toHaveLength(FROZEN + 2 + 2));

  it('says the same in events, and counts together at the end', () => {
    const said = odd.events.filter(({ type }) => type === 'warning').map(({ warning }) => warning as Row);
    expect(said.map(({ code, value }) => [code, value])).toEqual(odd.warnings.map((row) => [row.code, row.value]));
    expect(said.find(({ code }) => code === 'giant-norm')).toMatchObject({ slot: 'a', model: '05' });
    const groups = odd.events.at(-1)!.warnings as Row[];
    expect(groups.map(({ code, of: what, count }) => [code, what, count])).toEqual(
      expect.arrayContaining([
        ['identical', 'slot', FROZEN],
        ['giant-norm', 'slot', 2],
        ['indistinguishable-models', 'model', 1],
      ]),
    );
    expect(groups).toHaveLength(4);
  });
});

it('warnings depend on neither threads nor memory', async () => {
  const options = ['--rank', '3', '--block', '4'];
  const bytes = ({ out }: Ran) => readFileSync(join(out, 'warnings.parquet'));
  const odd = await run(join(folder, 'odd'), ...options, '--threads', '1');
  const plan = ['plan', join(folder, 'odd'), '--no-basis', '--quiet', ...options, '--threads', '2'];
  let memory = '1MiB';
  for (let tries = 0; tries < 20; tries++) {
    const { code, stderr } = await runCli([...plan, '--memory', memory]);
    if (code === 0) break;
    memory = /give --memory (\S+),/.exec(stderr)![1]!;
  }
  const small = await run(join(folder, 'odd'), ...options, '--threads', '2', '--memory', memory);
  expect(JSON.parse(readFileSync(join(small.out, 'run.json'), 'utf8')).groups.length).toBeGreaterThan(1);
  expect(bytes(small).equals(bytes(odd))).toBe(true);
}, 120_000);

it('the summary counts together', async () => {
  const args = [
    'run',
    join(folder, 'odd'),
    '--out',
    join(folder, 'summary'),
    '--no-basis',
    '--rank',
    '3',
    '--block',
    '4',
  ];
  const { code, stdout } = await runCli(args);
  expect(code).toBe(0);
  const lines = stdout.split('\n');
  const start = lines.indexOf(`${FROZEN + 4} warnings`);
  expect(lines.slice(start + 1, lines.indexOf('', start)).sort()).toEqual([
    '  giant-norm  2 slots (a, b): model 05 is beyond 10 times the median distance from the mean',
    '  identical  40 slots (frozen.0, frozen.1, frozen.2 and 37 more): the 16 models are identical up to rounding',
    '  indistinguishable-models  1 model (09): nothing tells it apart from model 02',
    '  indistinguishable-models  1 model (12): nothing tells it apart from model 03',
  ]);
});

it('--verify proves which files are the same, and says so of no others', async () => {
  const { out, warnings } = await run(join(folder, 'odd'), '--verify', '--rank', '3', '--block', '4');
  const [proven, likely] = ['identical-models', 'indistinguishable-models'].map((code) => of(warnings, code));
  expect(proven!.map(({ model_id, value }) => [model_id, value])).toEqual([[9, 2]]);
  expect(proven![0]!.text).toBe('model 09: the same content as model 02');
  expect(likely!.map(({ model_id, value }) => [model_id, value])).toEqual([[12, 3]]);
  const models = await readWithHyparquet(join(out, 'models.parquet'));
  expect(models.map(({ duplicate_of }) => duplicate_of)).toEqual(models.map((_, id) => (id === 9 ? 2 : null)));
});

describe('storage', () => {
  /** Fine-tunes that differ from their base by `fine` and `coarse` times its weights, in the dtypes given. */
  const fineTunes = (set: string, dtypes: readonly string[]): string => {
    const normal = normals(5);
    const draw = () => Float32Array.from({ length: 128 * 128 }, () => 0.02 * normal());
    const base = draw();
    const near = (share: number) => {
      const noise = draw();
      return base.map((x, i) => x + share * noise[i]!);
    };
    const tensors = (dtype: string, fine: Float32Array, coarse: Float32Array) => [
      { name: 'fine', dtype, shape: [128, 128], data: fine },
      { name: 'coarse', dtype, shape: [128, 128], data: coarse },
    ];
    write(`${set}-base`, 'base', tensors('F32', base, base));
    for (const [m, dtype] of dtypes.entries()) write(set, `m${m}`, tensors(dtype, near(1e-3), near(0.1)));
    return join(folder, set);
  };
  const options = ['--rank', '4', '--block', '4'];
  const base = (set: string) => ['--base', join(folder, `${set}-base`, 'base.safetensors')];

  it('differences below what bfloat16 can hold: rounding-floor; and so with a base', async () => {
    const source = fineTunes('bf16', new Array(8).fill('BF16'));
    const values: number[] = [];
    for (const more of [[], base('bf16')]) {
      const { warnings, slots } = await run(source, ...options, ...more);
      expect(warnings.map(({ code, slot_id }) => [code, slots[Number(slot_id)]])).toEqual([['rounding-floor', 'fine']]);
      expect(warnings[0]!.text).toBe('slot fine: the scatter is less than 4 times what rounding to BF16 leaves');
      values.push(Number(warnings[0]!.value));
    }
    // 1e-3 of a weight is a quarter of the roundoff: most weights round as their base does.
    expect(values[0]).toBeGreaterThan(0.1);
    expect(values[0]).toBeLessThan(2);
    expect(values[1]! / values[0]!).toBeCloseTo(1, 3);
  });

  it('the same differences in float16 and float32 are seen as they are', async () => {
    for (const dtype of ['F16', 'F32']) {
      expect((await run(fineTunes(dtype, new Array(8).fill(dtype)), ...options)).warnings).toEqual([]);
    }
  });

  it('several dtypes: mixed-dtypes, with how many models have each', async () => {
    const dtypes = ['F32', 'BF16', 'F16', 'F32', 'BF16', 'F32', 'F32', 'F32'];
    const { warnings, slots } = await run(fineTunes('mixed', dtypes), ...options);
    const mixed = of(warnings, 'mixed-dtypes');
    expect(mixed.map(({ slot_id, value }) => [slots[Number(slot_id)], value])).toEqual([
      ['coarse', 3],
      ['fine', 3],
    ]);
    expect(mixed[0]!.text).toBe('slot coarse: BF16 in 2 models, F16 in 1, F32 in 5');
    expect(of(warnings, 'rounding-floor').map(({ slot_id }) => slots[Number(slot_id)])).toEqual(['fine']);
  });
});

describe('really trained models', () => {
  it('of one dtype: no warning', async () => {
    const { warnings, events } = await run(join(root, 'examples/zoo/scratch'), '--rank', '8', '--block', '8');
    expect(warnings).toEqual([]);
    expect(events.filter(({ type }) => type === 'warning')).toEqual([]);
    expect(events.at(-1)!.warnings).toEqual([]);
  });

  it('of several dtypes: that, and nothing else', async () => {
    const { warnings, events } = await run(join(root, 'examples/zoo/full'), '--rank', '8', '--block', '8', '--verify');
    expect(warnings.map(({ code, text }) => [code, String(text).split(': ')[1]])).toEqual(
      new Array(22).fill(['mixed-dtypes', 'BF16 in 5 models, F16 in 4, F32 in 5']),
    );
    expect(events.at(-1)!.warnings).toHaveLength(1);
  });
});
