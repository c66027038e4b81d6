// By hand: the engine randomized over many seeds on really trained models, against exact spectra. A run a seed; in how many of
// them all eigenvalues of all slots lie in their interval, and how far any lies above exact, as a share of the largest.
//   node bench/seeds.mjs FOLDER GOLDEN.json [RANK [SEEDS]]
// GOLDEN.json is what test/reference/golden.py makes of FOLDER. Some 2 s a seed.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readTable } from '../examples/read-table.mjs';
import { runWatched } from './command.mjs';

const [folder, golden, rank = '32', seeds = '100'] = process.argv.slice(2);
if (golden === undefined) {
  console.error('expected FOLDER GOLDEN.json [RANK [SEEDS]]');
  process.exit(64);
}
const exact = JSON.parse(readFileSync(golden, 'utf8')).slots;
const root = mkdtempSync(join(tmpdir(), 'weightspan-seeds-'));
let [inside, slotsOutside, intervals, estimated] = [0, 0, 0, 0];
let highest = -Infinity;
try {
  for (let seed = 0; seed < Number(seeds); seed++) {
    const out = join(root, String(seed));
    const settings = ['--engine', 'randomized', '--rank', rank, '--seed', seed, '--no-basis', '--drop-state'];
    await runWatched([folder, ...settings, '--out', out]);
    const [slots, spectrum, subspaces] = await Promise.all(
      ['slots', 'spectrum', 'subspaces'].map((name) => readTable(join(out, `${name}.parquet`))),
    );
    rmSync(out, { recursive: true });
    const names = new Map(slots.map(({ slot_id, name }) => [slot_id, name]));
    const outside = new Set();
    for (const { slot_id, component, eigenvalue, bound_high } of spectrum) {
      const { models } = exact[names.get(slot_id)].eig;
      highest = Math.max(highest, (eigenvalue - models[component]) / models[0]);
      intervals++;
      if (bound_high < models[component]) outside.add(slot_id);
    }
    estimated += subspaces.filter(({ exactness }) => exactness === 'estimated').length;
    slotsOutside += outside.size;
    if (outside.size === 0) inside++;
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
console.log(
  `${folder}, rank ${rank}: in ${inside} of ${seeds} seeds all intervals hold (${intervals} in all; ${slotsOutside} of ` +
    `${estimated} estimated slots have one that does not); highest above exact ${highest.toExponential(1)} of the largest`,
);
