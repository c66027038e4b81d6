// Weights that cannot be folded: a NaN, an infinity. The run ends and names the entry; with --on-bad-source skip the model
// is out of that slot alone and the numbers are those of a run without it; with --verify it is found before anything is made.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetReadObjects } from 'hyparquet';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { normals } from '../operators/planted.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-bad-data-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const readTable = async (run: string, name: string) => {
  const bytes = readFileSync(join(folder, run, `${name}.parquet`));
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
  return (await parquetReadObjects({ file })) as Record<string, unknown>[];
};

const cli = (...args: string[]) => {
  const child = spawnSync('node', [join(process.cwd(), 'dist/pipeline/cli.js'), ...args], {
    cwd: folder,
    encoding: 'utf8',
  });
  return { code: child.status, stdout: child.stdout, stderr: child.stderr };
};

/** Nine models of two slots; in `bad` model 5 has a NaN in slot b; `without` lacks model 5 altogether. */
beforeAll(() => {
  const normal = normals(3);
  for (let m = 0; m < 9; m++) {
    const a = Float32Array.from({ length: 600 }, () => normal());
    const b = Float32Array.from({ length: 40_000 }, () => normal());
    const tensors = (weights: Float32Array) => [
      { name: 'a', dtype: 'F32', shape: [20, 30], data: a },
      { name: 'b', dtype: 'F32', shape: [200, 200], data: weights },
    ];
    const poisoned = b.slice();
    if (m === 5) poisoned[33_333] = Number.NaN;
    for (const set of ['good', 'bad', 'without']) mkdirSync(join(folder, set), { recursive: true });
    writeSafetensors(join(folder, 'good', `m${m}.safetensors`), tensors(b));
    writeSafetensors(join(folder, 'bad', `m${m}.safetensors`), tensors(poisoned));
    if (m !== 5) writeSafetensors(join(folder, 'without', `m${m}.safetensors`), tensors(b));
  }
});

const spectrumOf = async (run: string, slot: number) =>
  (await readTable(run, 'spectrum')).filter((row) => row.slot_id === slot).map((row) => Number(row.eigenvalue));

describe.each([4, 1, 9])('a NaN in one tensor, block %i', (block) => {
  const options = ['--rank', '4', '--block', String(block), '--quiet'];

  it('ends the run, names file, tensor and entry, and leaves nothing', () => {
    const { code, stdout, stderr } = cli('run', 'bad', '--out', `error-${block}`, ...options);
    expect(code).toBe(65);
    expect(stdout).toBe('');
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(/m5\.safetensors: tensor b: entry 33333 is NaN, expected finite/);
    expect(existsSync(join(folder, `error-${block}`))).toBe(false);
  });

  it('with skip, the model is out of that slot alone', async () => {
    const run = `skip-${block}`;
    expect(cli('run', 'bad', '--out', run, '--on-bad-source', 'skip', ...options).code).toBe(0);
    expect(cli('run', 'good', '--out', `good-${block}`, ...options).code).toBe(0);
    expect(await spectrumOf(run, 0)).toEqual(await spectrumOf(`good-${block}`, 0));
    const rows = (await readTable(run, 'model_slots')).filter((row) => row.status !== 'used');
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ slot_id: 1, model_id: 5, status: 'skipped', raw_norm2: null });
    expect(rows[0]!.reason).toMatch(/entry 33333 is NaN/);
    const subspaces = await readTable(run, 'subspaces');
    expect(subspaces.map((row) => Number(row.n_models))).toEqual([9, 8]);
    const coefficients = (await readTable(run, 'coefficients')).filter((row) => row.slot_id === 1);
    expect(coefficients.map((row) => row.model_id)).toEqual([0, 1, 2, 3, 4, 6, 7, 8]);
  });
});

it('with skip, the numbers are those of a run without the model, where the blocks are the same', async () => {
  // One block holds all: then leaving the model out of the block is leaving it out of the run.
  const options = ['--rank', '4', '--block', '9', '--quiet'];
  expect(cli('run', 'without', '--out', 'without-run', ...options).code).toBe(0);
  const expected = await spectrumOf('without-run', 1);
  expect(await spectrumOf('skip-9', 1)).toEqual(expected);
});

describe('--verify', () => {
  const options = ['--verify', '--rank', '4', '--quiet'];

  it.each(['models', 'rows'])('finds the fault before anything is made, in mode %s', (mode) => {
    const { code, stderr } = cli('run', 'bad', '--out', 'verify', '--mode', mode, ...options);
    expect(code).toBe(65);
    expect(stderr).toMatch(/m5\.safetensors: tensor b: entry 33333 is NaN/);
    expect(existsSync(join(folder, 'verify'))).toBe(false);
  });

  it('with skip, leaves the model out altogether, and knows the contents of the others', async () => {
    expect(cli('run', 'bad', '--out', 'verify-skip', '--on-bad-source', 'skip', ...options).code).toBe(0);
    const models = await readTable('verify-skip', 'models');
    expect(models.map((row) => row.status)).toEqual(models.map((row) => (row.model_id === 5 ? 'skipped' : 'used')));
    for (const row of models.filter(({ status }) => status === 'used')) {
      const bytes = readFileSync(join(folder, 'bad', `m${row.model_id}.safetensors`));
      expect(row.content_sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
    }
    expect((await readTable('verify-skip', 'subspaces')).map((row) => Number(row.n_models))).toEqual([8, 8]);
  });
});
