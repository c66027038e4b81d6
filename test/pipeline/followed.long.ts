// A side that is too wide for a scatter matrix, from the command line to the tables: its directions are followed. Truth: the Gram
// matrix of all columns, in float64. Tolerance: 1e-5 of the largest eigenvalue where nothing is forgotten, what is promised of
// the engine incremental.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { devices } from '../operators/devices.ts';
import { normals } from '../operators/planted.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { runCli, startCli } from './cli-process.ts';
import { runKilled } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-followed-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const at = (name: string): string => join(root, name);
const ROWS = 16_500;
const COLS = 5;
const MODELS = 8;
const weights: Float32Array[] = [];

beforeAll(() => {
  const normal = normals(13);
  const base = Float32Array.from({ length: ROWS * COLS }, () => normal());
  for (let m = 0; m < MODELS; m++) {
    const data = base.map((x) => x + 0.01 * normal());
    weights.push(data);
    const small = Float32Array.from({ length: 12 * 7 }, () => normal());
    writeSafetensors(join(at('models'), `m${m}`, 'model.safetensors'), [
      { name: 'embed', dtype: 'F32', shape: [ROWS, COLS], data },
      { name: 'other', dtype: 'F32', shape: [12, 7], data: small },
    ]);
  }
});

/** Eigenvalues of the scatter of all columns about their means over the models. */
const truth = (): Float64Array => {
  const columns = weights.flatMap((w) =>
    Array.from({ length: COLS }, (_, c) =>
      Float64Array.from({ length: ROWS }, (_, r) => {
        let mean = 0;
        for (const other of weights) mean += other[r * COLS + c]! / MODELS;
        return w[r * COLS + c]! - mean;
      }),
    ),
  );
  const n = columns.length;
  const gram = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) for (let l = 0; l < ROWS; l++) gram[i * n + j]! += columns[i]![l]! * columns[j]![l]!;
  return jsEigenSolver(gram, n).values;
};

describe.each(devices)('on $name', ({ name: device }) => {
  const args = (...more: string[]): string[] => [
    ...[at('models'), '--device', device, '--mode', 'models,rows,cols', '--block', '2'],
    ...more,
  ];

  it('finds what there is where nothing is forgotten, whatever the threads, and goes on when it is killed', async () => {
    const out = at(`${device}-whole`);
    const { code, stderr } = await runCli(['run', ...args('--rank', '20'), '--out', out, '--quiet']);
    expect(code, stderr).toBe(0);
    const subspaces = await readWithHyparquet(join(out, 'subspaces.parquet'));
    const of = (mode: string) => subspaces.find((row) => row.slot_id === 0 && row.mode === mode)!;
    expect([of('rows').engine, of('cols').engine]).toEqual(['exact', 'incremental']);
    const values = truth();
    const total = values.reduce((a, b) => a + b, 0);
    expect(Math.abs(Number(of('cols').total) / total - 1)).toBeLessThan(1e-5);
    const rows = (await readWithHyparquet(join(out, 'spectrum.parquet'))).filter(
      ({ slot_id, mode }) => slot_id === 0 && mode === 'cols',
    );
    expect(rows).toHaveLength(20);
    rows.forEach((row, j) => {
      expect(Math.abs(Number(row.eigenvalue) - values[j]!) / values[0]!).toBeLessThan(1e-5);
      expect(Number(row.bound_low)).toBeLessThanOrEqual(values[j]!);
      expect(Number(row.bound_high)).toBeGreaterThanOrEqual(values[j]!);
    });
    const killed = at(`${device}-killed`);
    await runKilled(args('--rank', '20', '--threads', '1', '--checkpoint-every', '2'), killed, {
      kills: 4,
      span: 1,
      seed: 5,
    });
    expect(tableDigests(killed)).toEqual(tableDigests(out));
  }, 240_000);

  it.each([
    ['incremental', 'truncation'],
    ['frequent-directions', 'frequent-directions'],
    ['randomized', 'truncation'],
  ])('says how far off it can be where something is, beside mode models of engine %s', async (engine, kind) => {
    const out = at(`${device}-${engine}-low`);
    const { code, stderr } = await runCli(['run', ...args('--rank', '4'), '--engine', engine, '--out', out, '--quiet']);
    expect(code, stderr).toBe(0);
    const subspaces = await readWithHyparquet(join(out, 'subspaces.parquet'));
    expect(subspaces.find((row) => row.slot_id === 0 && row.mode === 'cols')!.engine).toBe(
      kind === 'truncation' ? 'incremental' : kind,
    );
    const values = truth();
    const rows = (await readWithHyparquet(join(out, 'spectrum.parquet'))).filter(
      ({ slot_id, mode }) => slot_id === 0 && mode === 'cols',
    );
    expect(rows.map(({ bound_kind }) => bound_kind)).toEqual(Array(rows.length).fill(kind));
    expect(rows.length).toBeGreaterThan(0);
    rows.forEach((row, j) => {
      expect(Number(row.bound_low)).toBeLessThanOrEqual(values[j]!);
      expect(Number(row.bound_high)).toBeGreaterThanOrEqual(values[j]!);
    });
  });
});

it('a run by itself follows as it was asked to when it is resumed, and keeps its id when it is extended', async () => {
  const [device] = devices;
  const args = ['--device', device!.name, '--mode', 'cols', '--rank', '4', '--block', '2', '--no-energies'];
  const [whole, killed] = [at('cols-whole'), at('cols-killed')];
  const plain = await runCli(['run', at('models'), ...args, '--out', whole, '--quiet']);
  expect(plain.code, plain.stderr).toBe(0);
  const { child, ended, seen } = startCli(['run', at('models'), ...args, '--out', killed, '--json']);
  // Once it is written down what the run is, long before it is done.
  await seen('stdout', '"checkpoint":1');
  child.kill('SIGKILL');
  expect((await ended).code).toBeNull();
  const { code, stdout, stderr } = await runCli(['resume', killed, '--json']);
  expect(code, stderr).toBe(0);
  expect(stdout).toContain('"type":"resumed"');
  expect(tableDigests(killed)).toEqual(tableDigests(whole));
  const described = (run: string) => JSON.parse(readFileSync(join(run, 'run.json'), 'utf8'));
  const { run_id, config_hash } = described(whole);
  expect(described(killed)).toMatchObject({ run_id, config_hash });

  const data = weights[0]!.map((x) => x + 0.01);
  writeSafetensors(join(at('more'), 'm8', 'model.safetensors'), [
    { name: 'embed', dtype: 'F32', shape: [ROWS, COLS], data },
    { name: 'other', dtype: 'F32', shape: [12, 7], data: data.slice(0, 12 * 7) },
  ]);
  const extended = await runCli(['extend', killed, at('more'), '--quiet']);
  expect(extended.code, extended.stderr).toBe(0);
  expect(described(killed).lineage[0].run_id).toBe(run_id);
  const [embed] = await readWithHyparquet(join(killed, 'subspaces.parquet'));
  expect(embed!.engine).toBe('incremental');
});

it('the plan names what is followed', async () => {
  const { stdout } = await runCli(['plan', at('models'), '--mode', 'rows,cols', '--no-probe']);
  expect(stdout).toMatch(
    /exact, modes rows and cols.*incremental where a side is beyond 16,384: embed; --engine exact/,
  );
  const exact = await runCli(['plan', at('models'), '--mode', 'rows,cols', '--engine', 'exact', '--no-probe']);
  expect(exact.stdout).not.toContain('beyond');
});
