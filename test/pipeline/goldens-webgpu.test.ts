// The goldens (float64, NumPy) on a GPU, from the command line to the tables: 5e-6 of the largest eigenvalue where nothing is
// truncated, in all modes. A few slots, since the adapter is software; goldens.test.ts has all of them on the processor.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { hasSoftwareAdapter, softwareAdapter } from '../software-adapter.ts';
import { runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-goldens-gpu-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const golden = (name: string) => JSON.parse(readFileSync(`examples/zoo/golden/${name}.json`, 'utf8'));

describe.runIf(hasSoftwareAdapter)('on tfjs:webgpu', { timeout: 300_000 }, () => {
  it.each([
    ['full', 'incremental', '*layer.?.output.dense*'],
    ['scratch', 'exact', '*layer.?.output.dense*'],
    // Adapters expanded as they come, and by their factors.
    ['lora', 'incremental', '*layer.1.*query*'],
    ['lora', 'exact', '*layer.1.*query*'],
  ] as const)('%s, engine %s: modes models, rows and cols equal the exact spectra', async (kind, engine, slot) => {
    const out = join(folder, `${kind}-${engine}`);
    const fold = ['--engine', engine, '--mode', 'models,rows,cols', '--rank', '64', '--block', '8'];
    const some = ['--include', slot, '--device', 'tfjs:webgpu'];
    const { code, stderr } = await runCli(
      ['run', `examples/zoo/${kind}`, '--out', out, ...fold, ...some, '--quiet'],
      softwareAdapter,
    );
    expect(code, stderr).toBe(0);
    expect(JSON.parse(readFileSync(join(out, 'run.json'), 'utf8')).device.library).toBe('tfjs-webgpu');
    const slots = (await readWithHyparquet(join(out, 'slots.parquet'))).filter((slot) => slot.status === 'used');
    const spectrum = await readWithHyparquet(join(out, 'spectrum.parquet'));
    const subspaces = await readWithHyparquet(join(out, 'subspaces.parquet'));
    const energies = await readWithHyparquet(join(out, 'energies.parquet'));
    expect(slots.length).toBeGreaterThan(0);
    for (const { slot_id, name } of slots) {
      const exact = golden(kind).slots[String(name)];
      for (const mode of ['models', 'rows', 'cols']) {
        const rows = spectrum.filter((row) => row.slot_id === slot_id && row.mode === mode);
        expect(rows.length).toBeGreaterThan(3);
        const rankOf = (of: string) =>
          subspaces.find((subspace) => subspace.slot_id === slot_id && subspace.mode === of)?.rank;
        const measured = energies.filter((row) => row.slot_id === slot_id && row.mode === mode);
        for (const row of rows) {
          // What the models have together along a direction is its eigenvalue.
          if (mode !== 'models' && Number(row.component) < Number(rankOf(mode))) {
            const along = measured.reduce((sum, { [`e_${row.component}`]: energy }) => sum + Number(energy), 0);
            expect(Math.abs(along - Number(row.eigenvalue)) / exact.eig[mode][0]).toBeLessThan(5e-6);
          }
          const truth = exact.eig[mode][Number(row.component)];
          if (truth === undefined) continue;
          expect(Math.abs(Number(row.eigenvalue) - truth) / exact.eig[mode][0]).toBeLessThan(5e-6);
          expect(Number(row.bound_low)).toBeLessThanOrEqual(truth);
          expect(Number(row.bound_high)).toBeGreaterThanOrEqual(truth);
        }
      }
    }
  });

  it('gives the same bits for any number of threads and any memory', async () => {
    const ways = [
      ['--threads', '1', '--memory', '1GiB'],
      // Each slot is a group of its own.
      ['--threads', '2', '--memory', '2MiB'],
    ];
    const [one, other] = await Promise.all(
      ways.map(async (way, i) => {
        const out = join(folder, `way-${i}`);
        const fold = ['--rank', '4', '--block', '4', '--include', '*layer.2.output*', '--device', 'tfjs:webgpu'];
        const { code, stderr } = await runCli(
          ['run', 'examples/zoo/full', '--out', out, ...fold, ...way, '--quiet'],
          softwareAdapter,
        );
        expect(code, stderr).toBe(0);
        return tableDigests(out);
      }),
    );
    expect(other).toEqual(one);
  });
});
