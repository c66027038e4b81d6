// One contender: a fresh process of the command line, timed by its own 'done' line and by the clock on the wall.
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readSpectra } from '../examples/read-table.mjs';
import { runWatched } from './command.mjs';
import { readTimings, sumTimings } from './timings.mjs';

function bytesBelow(folder) {
  if (!existsSync(folder)) return 0;
  return readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
}

/**
 * Runs weightspan on `device`; throws with its stderr when it fails. `out` is removed before and after. What files of basis and
 * mean take is told by a second run, without the state, which is written at the same time and twice as large.
 */
export async function runWeightspan({ folder, out, device, rank, block }) {
  const settings = ['--rank', rank, '--block', block, '--device', device, '--out', out];
  rmSync(out, { recursive: true, force: true });
  const { done, seconds } = await runWatched([folder, ...settings]);
  const [eigenvalues] = (await readSpectra(out)).values();
  const result = {
    fit_s: done.fit_s,
    tables_s: done.tables_s,
    command_s: seconds,
    flops: done.flops,
    device: JSON.parse(readFileSync(join(out, 'run.json'), 'utf8')).device ?? done.device,
    singular_values: eigenvalues.slice(0, 10).map(Math.sqrt),
  };
  rmSync(out, { recursive: true, force: true });
  await runWatched([folder, ...settings, '--drop-state']);
  const basis_bytes = bytesBelow(join(out, 'basis')) + bytesBelow(join(out, 'mean'));
  const { write_s } = sumTimings(await readTimings(out));
  rmSync(out, { recursive: true, force: true });
  return { ...result, basis_bytes, write_s };
}
