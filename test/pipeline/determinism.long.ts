// A table depends on the models and the options that decide a result, never on how the work was cut up: threads and memory
// change nothing, to the last bit.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-determinism-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const MODELS = 7;
const tiled = join(root, 'tiled');
beforeAll(() => {
  // mulberry32: any fixed noise will do.
  let seed = 1;
  const noise = (): number => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32 - 0.5;
  };
  // 40,000 weights are two whole tiles of 16,384 and a part of a third.
  const tensor = (name: string, rows: number, cols: number) => ({
    name,
    dtype: 'F32',
    shape: [rows, cols],
    data: Float32Array.from({ length: rows * cols }, noise),
  });
  for (let model = 0; model < MODELS; model++) {
    const tensors = [
      tensor('wide', 200, 200),
      tensor('other', 160, 210),
      tensor('small', 12, 12),
      tensor('long', 40, 600),
    ];
    writeSafetensors(join(tiled, `model-${model}`, 'model.safetensors'), tensors);
  }
});

interface RunJson {
  readonly groups: readonly (readonly number[])[];
}

let runs = 0;
async function runWith(source: string, ...options: string[]) {
  const out = join(root, `run-${runs++}`);
  const { code, stderr } = await runCli([
    'run',
    source,
    '--out',
    out,
    '--rank',
    '4',
    '--block',
    '3',
    '--quiet',
    ...options,
  ]);
  expect([code, stderr]).toEqual([0, '']);
  const { groups } = JSON.parse(readFileSync(join(out, 'run.json'), 'utf8')) as RunJson;
  return { files: tableDigests(out), groups: groups.length };
}

/** What the command says a run needs at least. */
async function smallestMemory(source: string, ...options: string[]): Promise<string> {
  for (let memory = '1MiB', tries = 0; tries < 20; tries++) {
    const plan = ['plan', source, '--rank', '4', '--block', '3', '--memory', memory, '--quiet', ...options];
    const { code, stderr } = await runCli(plan);
    if (code === 0) return memory;
    memory = /give --memory (\S+),/.exec(stderr)?.[1] ?? '';
    expect(memory, stderr).not.toBe('');
  }
  throw new Error('no memory is enough');
}

const cases: readonly (readonly [what: string, engine: string, source: string, mode: string])[] = [
  ['really trained models', 'incremental', 'examples/zoo/full', 'models'],
  ['slots of several tiles', 'incremental', tiled, 'models'],
  ['slots of several tiles', 'frequent-directions', tiled, 'models'],
  ['slots of several tiles', 'randomized', tiled, 'models'],
  ['slots of several tiles', 'exact', tiled, 'models'],
  // Long has a side whose matrix comes in blocks, and whose eigenpairs come from products.
  ['the modes rows and cols', 'exact', tiled, 'rows,cols'],
  // With enough memory they share the reading with mode models; with little they read for themselves.
  ['all modes', 'incremental', tiled, 'models,rows,cols'],
];

describe.each(devices)('on $name', ({ name: device }) => {
  it.each(cases)(
    'threads and memory change no byte: %s, engine %s',
    async (_, engine, source, mode) => {
      const on = ['--device', device, '--engine', engine, '--mode', mode];
      const reference = await runWith(source, ...on, '--threads', '1', '--memory', '4GiB');
      expect(reference.groups).toBe(1);
      expect(Object.keys(reference.files)).toContain(
        mode.includes('models') ? 'coefficients.parquet' : 'energies.parquet',
      );
      expect(Object.keys(reference.files).filter((file) => /^(basis|mean)\//.test(file)).length).toBeGreaterThan(2);

      for (const threads of ['2', '4']) {
        const other = await runWith(source, ...on, '--threads', threads, '--memory', '4GiB');
        expect(other.files, `${threads} threads`).toEqual(reference.files);
      }
      for (const threads of ['1', '2', '4']) {
        const memory = await smallestMemory(source, ...on, '--threads', threads);
        const other = await runWith(source, ...on, '--threads', threads, '--memory', memory);
        expect(other.groups).toBeGreaterThan(1);
        expect(other.files, `${memory}, ${threads} threads`).toEqual(reference.files);
      }
    },
    240_000,
  );
});
