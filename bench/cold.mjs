// The part `cold`: models that are not in the page cache. weightspan's rate against the raw rate of the same files with the
// best of several ways to read them, in alternation, each over a cache that was emptied; and what the wall time went to. The
// disk of a virtual machine may still be cached by its host, for both alike. Such a machine may give memory that is free back
// to its host, some seconds later, and pays when it takes it again: each contender begins when that is over, or the first to
// read after the cache was emptied would read twice as fast as the next.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, setBytes } from './model-set.mjs';
import { findPython, runPython } from './python.mjs';
import { printTable, writeResults } from './results.mjs';
import { spread } from './statistics.mjs';
import { percent, readTimings, sharesOf, sumTimings } from './timings.mjs';

const MB = 1e6;
const SHARE_TARGET = 0.5;
const THREADS = 2;
const SETTINGS = ['--rank', 32, '--block', 32, '--memory', '4GiB', '--device', 'blas', '--threads', THREADS];
/** [readers, bytes a read, what the kernel is told] */
const ARRANGEMENTS = [
  [1, 2 ** 23, 'ahead'],
  [2, 2 ** 23, 'plain'],
  [4, 2 ** 23, 'ahead'],
  [8, 2 ** 20, 'ahead'],
  [8, 2 ** 23, 'plain'],
  [16, 2 ** 23, 'plain'],
  [4, 2 ** 22, 'direct'],
  [8, 2 ** 23, 'direct'],
];
/** Which of them leaves all files in the cache. */
const CACHING = ARRANGEMENTS[3];
const SETTLE_MS = 10_000;
const script = join(import.meta.dirname, 'cold-read.py');

const shown = (shares) =>
  Object.entries(shares)
    .map(([name, share]) => `${name} ${percent(share)}`)
    .join(', ');

/** Empties the page cache; returns how. */
async function empty(python, folder) {
  const { by } = runPython(python, script, [folder, 'drop']);
  await sleep(SETTLE_MS);
  return by;
}

const rateOf = ({ bytes, seconds }) => bytes / seconds;

/** Every arrangement on a part of the files, cold; the fastest. */
async function bestArrangement(python, folder, files) {
  const rates = [];
  for (const arrangement of ARRANGEMENTS) {
    await empty(python, folder);
    rates.push(rateOf(runPython(python, script, [folder, 'read', ...arrangement, files])));
  }
  printTable('raw cold reading', [
    ['readers', 'MiB a read', 'how', 'MB/s'],
    ...ARRANGEMENTS.map(([readers, bytes, how], i) => [readers, bytes / 2 ** 20, how, (rates[i] / MB).toFixed(0)]),
  ]);
  return ARRANGEMENTS[rates.indexOf(Math.max(...rates))];
}

async function runCold(folder, out) {
  rmSync(out, { recursive: true, force: true });
  try {
    const { done } = await runWatched([folder, ...SETTINGS, '--out', out]);
    const rows = await readTimings(out);
    return {
      fit_s: done.fit_s,
      tables_s: done.tables_s,
      rate: done.bytesRead / done.fit_s,
      groups: 1 + Math.max(...rows.map(({ group }) => group)),
      shares: sharesOf(rows, THREADS, done.tables_s),
      sums: sumTimings(rows),
    };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** @returns whether it ran; a target that is missed is told, not failed */
export async function benchCold({ data, quick }) {
  const set = {
    models: quick ? 64 : 128,
    shapes: Array.from({ length: 32 }, () => (quick ? [128, 128] : [512, 512])),
    seed: 20256,
  };
  const python = findPython('threading');
  if (!python) {
    console.error('SKIPPED: no python3: nothing empties the page cache or reads without weightspan');
    return true;
  }
  const folder = ensureModelSet(join(data, quick ? 'cold-quick' : 'cold'), set);
  const best = await bestArrangement(python, folder, set.models / 4);
  const repetitions = [];
  let by = null;
  for (let i = 0; i < (quick ? 1 : 3); i++) {
    console.error(`repetition ${i + 1}`);
    by = await empty(python, folder);
    const raw = rateOf(runPython(python, script, [folder, 'read', ...best]));
    await empty(python, folder);
    const cold = await runCold(folder, join(data, 'run-cold'));
    console.error(
      `  raw ${(raw / MB).toFixed(0)} MB/s, weightspan ${(cold.rate / MB).toFixed(0)} MB/s: ${shown(cold.shares)}`,
    );
    runPython(python, script, [folder, 'read', ...CACHING]);
    const warm = await runCold(folder, join(data, 'run-cold'));
    repetitions.push({ raw, cold, warm, share: cold.rate / raw });
  }
  printTable(`cold: ${(setBytes(set) / 1e9).toFixed(2)} GB, page cache emptied by ${by}; then the same run warm`, [
    ['', 'raw MB/s', 'weightspan MB/s', 'share', 'fit, s', 'groups', 'warm MB/s', 'warm fit, s'],
    ...repetitions.map(({ raw, cold, warm, share }, i) => [
      `repetition ${i + 1}`,
      (raw / MB).toFixed(0),
      (cold.rate / MB).toFixed(0),
      share.toFixed(2),
      cold.fit_s.toFixed(2),
      cold.groups,
      (warm.rate / MB).toFixed(0),
      warm.fit_s.toFixed(2),
    ]),
  ]);
  const named = Object.keys(repetitions[0].cold.shares);
  printTable('shares of the time to the last table; products and widening a thread', [
    ['', ...named],
    ...repetitions.flatMap(({ cold, warm }, i) => [
      [`repetition ${i + 1}, cold`, ...named.map((part) => percent(cold.shares[part]))],
      [`repetition ${i + 1}, warm`, ...named.map((part) => percent(warm.shares[part]))],
    ]),
  ]);
  const share = spread(repetitions.map((it) => it.share));
  const met = share.median >= SHARE_TARGET ? 'met' : 'MISSED';
  console.log(`\nshare of the raw cold rate, median ${share.median.toFixed(2)}, at least ${SHARE_TARGET}: ${met}`);
  writeResults(quick ? 'cold-quick' : 'cold', {
    machine: describeMachine(),
    dataset: set,
    by,
    best,
    share,
    repetitions,
  });
  return true;
}
