// The engine exact over adapters by their factors, from the command line to the tables: as the dense way finds it, whatever the
// memory; who shares a start, who is a copy, and what is left out.
// Tolerance between the ways: 1e-6 of the largest eigenvalue (both are float32 products with float64 sums).
import { linkSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { normals } from '../operators/planted.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { factorTensors, writeAdapter } from '../sources/write-adapter.ts';
import { root as repository, runCli } from './cli-process.ts';
import { runKilled } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-factored-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const at = (...parts: string[]): string => join(root, ...parts);
const table = (run: string, name: string) => readWithHyparquet(at(run, `${name}.parquet`));
const exact = ['--engine', 'exact', '--mode', 'models,rows,cols', '--rank', '5', '--block', '4'];

const run = async (out: string, ...args: string[]): Promise<string> => {
  const { code, stderr } = await runCli(['run', '--out', at(out), '--quiet', ...args]);
  expect(code, stderr).toBe(0);
  return out;
};

const planOf = async (...args: string[]) => {
  const { code, stdout, stderr } = await runCli(['plan', ...args, '--json', '--no-probe']);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
};

const spectra = async (out: string): Promise<Map<string, number[]>> => {
  const found = new Map<string, number[]>();
  for (const { slot_id, mode, eigenvalue } of await table(out, 'spectrum'))
    found.set(`${slot_id} ${mode}`, [...(found.get(`${slot_id} ${mode}`) ?? []), Number(eigenvalue)]);
  return found;
};

const SHARED = 9;
const MODELS = 20;
const COPY = 'x-copy';
const name = (model: number): string => `m${String(model).padStart(2, '0')}`;
const modules = [
  { path: 'layers.0.q', rows: 72, cols: 96 },
  { path: 'layers.1.v', rows: 120, cols: 64 },
];

/** The bits of a bfloat16 of a float32, rounded to the nearest even. */
const bfloat16 = (values: Float32Array): Uint8Array => {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = Uint16Array.from(bits, (x) => (x + 0x7fff + ((x >>> 16) & 1)) >>> 16);
  return new Uint8Array(out.buffer);
};

/** Twenty adapters of rank 3, nine of which began at one A, and a copy of the fifth in bfloat16. */
beforeAll(() => {
  const normal = normals(23);
  const random = (length: number, size = 1) => Float32Array.from({ length }, () => size * normal());
  const rank = 3;
  const start = modules.map(({ cols }) => random(rank * cols));
  for (let m = 0; m < MODELS; m++) {
    const factors = modules.map(({ path, rows, cols }, i) => {
      const own = random(rank * cols);
      const a = m < SHARED ? start[i]!.map((x, j) => x + 0.2 * own[j]!) : own;
      return { path, rank, a, b: random(rows * rank, 0.1) };
    });
    const config = { base_model_name_or_path: 'org/base', r: rank, lora_alpha: 6 };
    writeAdapter(at('adapters', name(m)), config, factors.flatMap(factorTensors));
    if (m !== 4) continue;
    const tensors = factors.flatMap(factorTensors);
    const halved = tensors.map((tensor) => ({ ...tensor, dtype: 'BF16', data: bfloat16(tensor.data as Float32Array) }));
    writeAdapter(at('adapters', COPY), config, halved);
  }
});

/** Many names for five adapters of one wide module: 42 MB of factors. */
const writeLarge = (folder: string): void => {
  const normal = normals(41);
  const side = 8192;
  const factor = (): Float32Array => Float32Array.from({ length: side * 4 }, () => normal());
  for (let m = 0; m < 160; m++) {
    const tensors = m < 5 ? factorTensors({ path: 'wide', rank: 4, a: factor(), b: factor() }) : null;
    const config = { r: 4, lora_alpha: 4 };
    if (tensors !== null) {
      writeAdapter(join(folder, `m${m}`), config, tensors);
      continue;
    }
    mkdirSync(join(folder, `m${m}`));
    for (const file of ['adapter_config.json', 'adapter_model.safetensors'])
      linkSync(join(folder, `m${m % 5}`, file), join(folder, `m${m}`, file));
  }
};

describe.each(devices)('on $name', ({ name: device }) => {
  const args = (...more: string[]): string[] => [at('adapters'), '--device', device, ...exact, ...more];

  it('finds what the dense way finds', async () => {
    const [factored, dense] = [await planOf(...args()), await planOf(...args('--basis', 'dense'))];
    expect(factored.groups.every((group: { factored: unknown }) => group.factored !== null)).toBe(true);
    expect(dense.groups.every((group: { factored: unknown }) => group.factored === null)).toBe(true);
    expect(factored.flops).toBeLessThan(dense.flops);
    const [a, b] = [
      await spectra(await run(`${device}-factored`, ...args())),
      await spectra(await run(`${device}-dense`, ...args('--basis', 'dense'))),
    ];
    expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
    for (const [key, values] of b) {
      const found = a.get(key)!;
      for (const [j, value] of values.entries())
        expect(Math.abs((found[j] ?? 0) - value) / values[0]!, `${key} ${j}`).toBeLessThan(1e-6);
    }
    for (const out of [`${device}-factored`, `${device}-dense`]) {
      const energies = await table(out, 'energies');
      expect(energies).toHaveLength(2 * modules.length * (MODELS + 1));
    }
  });

  it('gives the same tables where factors do not stay in memory', async () => {
    const large = at(`large-${device}`);
    writeLarge(large);
    const of = (...more: string[]) => [large, '--device', device, '--engine', 'exact', '--rank', '5', ...more];
    const [little, much] = [await planOf(...of('--memory', '112MiB')), await planOf(...of('--memory', '1GiB'))];
    expect([little.groups[0].factored, much.groups[0].factored]).toEqual([{ holds: false }, { holds: true }]);
    expect(little.bytes_to_read).toBe(2 * much.bytes_to_read);
    await run(`${device}-little`, ...of('--memory', '112MiB', '--threads', '1'));
    await run(`${device}-much`, ...of('--memory', '1GiB', '--threads', '2'));
    expect(tableDigests(at(`${device}-little`))).toEqual(tableDigests(at(`${device}-much`)));
  });

  it('goes on to the same tables when it is killed', async () => {
    const whole = await run(`${device}-whole`, ...args());
    const out = at(`${device}-killed`);
    await runKilled(args('--checkpoint-every', '1'), out, { kills: 4, span: 0.5, seed: 3 });
    expect(tableDigests(out)).toEqual(tableDigests(at(whole)));
  });
});

it('names those that share a start, and copies, and says how many models that leaves', async () => {
  const out = await run('named', at('adapters'), ...exact);
  const models = await table(out, 'models');
  const group = models.filter(({ seed_group }) => seed_group === 'start-1').map((row) => row.name);
  const expected = [...Array.from({ length: SHARED }, (_, m) => name(m)), COPY];
  expect(group).toEqual(expected.map((one) => expect.stringContaining(one)));
  expect(models.filter(({ seed_group }) => seed_group !== null)).toHaveLength(SHARED + 1);
  const copy = models.find(({ name: own }) => String(own).includes(COPY))!;
  const original = models.find(({ name: own }) => String(own).includes(name(4)))!;
  expect(copy.duplicate_of).toBe(original.model_id);
  expect(models.filter(({ duplicate_of }) => duplicate_of !== null)).toHaveLength(1);
  // 21 models: one start of ten, and eleven of their own.
  const effective = 21 ** 2 / (10 ** 2 + 11);
  for (const row of await table(out, 'subspaces')) expect(row.n_effective).toBeCloseTo(effective, 10);
  const warnings = await table(out, 'warnings');
  const [shared] = warnings.filter(({ code }) => code === 'shared-start');
  expect(shared!.text).toContain('10 of 21 adapters (48%) share one initialisation of A');
  expect(warnings.filter(({ code }) => code === 'near-duplicate').map(({ value }) => value)).toEqual([
    Number(original.model_id),
  ]);
});

it('leaves an adapter with a NaN out of the module it is in, or refuses it', async () => {
  const normal = normals(5);
  const bad = (path: string, cols: number, rows: number, nan: boolean) => {
    const b = Float32Array.from({ length: rows * 3 }, () => normal());
    if (nan) b[7] = Number.NaN;
    return factorTensors({ path, rank: 3, a: Float32Array.from({ length: 3 * cols }, () => normal()), b });
  };
  for (let m = 0; m < 5; m++) {
    const tensors = modules.flatMap(({ path, rows, cols }, i) => bad(path, cols, rows, m === 2 && i === 1));
    writeAdapter(at('bad', name(m)), { r: 3, lora_alpha: 3 }, tensors);
  }
  const refused = await runCli(['run', at('bad'), ...exact, '--out', at('refused'), '--quiet']);
  expect(refused.code).toBe(65);
  expect(refused.stderr).toMatch(/m02.*layers\.1\.v.*NaN/);
  const out = await run('skipped', at('bad'), ...exact, '--on-bad-source', 'skip');
  const counts = (await table(out, 'subspaces')).map(({ slot_id, mode, n_models }) => [
    slot_id,
    mode,
    Number(n_models),
  ]);
  expect(counts).toContainEqual([0, 'models', 5]);
  expect(counts).toContainEqual([1, 'models', 4]);
  expect(counts).toContainEqual([1, 'rows', 4]);
  // The sum is over models that are in every slot.
  expect(counts.find(([slot]) => slot === 2)![2]).toBe(4);
});

it('takes the real adapters by their factors, and finds who shares a start', async () => {
  const zoo = join(repository, 'examples/zoo/lora');
  const out = await run('zoo', zoo, '--engine', 'exact', '--mode', 'rows,cols');
  const models = await table(out, 'models');
  const shared = models.filter(({ seed_group }) => seed_group === 'start-1');
  expect(shared).toHaveLength(6);
});
