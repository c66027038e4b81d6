// One contender: a fresh process of the command line, timed by its own 'done' line and by the clock on the wall.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readSpectra, readTable } from '../examples/read-table.mjs';
import { cleanEnvironment } from './python.mjs';

const cli = join(import.meta.dirname, '../dist/pipeline/cli.js');

function bytesBelow(folder) {
  if (!existsSync(folder)) return 0;
  return readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
}

async function writeSeconds(out) {
  const rows = await readTable(join(out, 'timings.parquet'));
  return rows.reduce((sum, row) => sum + (row.write_s ?? 0), 0);
}

/** Runs weightspan on `device`; throws with its stderr when it fails. `out` is removed before and after. */
export async function runWeightspan({ folder, out, device, rank, block }) {
  rmSync(out, { recursive: true, force: true });
  const settings = ['--rank', rank, '--block', block, '--device', device, '--json', '--out', out].map(String);
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, 'run', folder, ...settings], {
    env: cleanEnvironment(),
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const command_s = (performance.now() - start) / 1000;
  if (status !== 0) throw new Error(`weightspan --device ${device} ended with ${status}\n${stderr.trim()}`);
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const done = events.find((event) => event.type === 'done');
  if (!done) throw new Error(`weightspan --device ${device} printed no 'done' line`);
  const [eigenvalues] = (await readSpectra(out)).values();
  const result = {
    fit_s: done.fit_s,
    tables_s: done.tables_s,
    command_s,
    flops: done.flops,
    device: JSON.parse(readFileSync(join(out, 'run.json'), 'utf8')).device ?? done.device,
    singular_values: eigenvalues.slice(0, 10).map(Math.sqrt),
    basis_bytes: bytesBelow(join(out, 'basis')) + bytesBelow(join(out, 'mean')),
    write_s: await writeSeconds(out),
  };
  rmSync(out, { recursive: true, force: true });
  return result;
}
