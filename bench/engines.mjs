// The part `engines`: the set of the part `fit` with 512 MiB, a line an engine: time, the peak of resident memory, the
// largest relative difference of the first ten singular values from NumPy's in float64, how far above them the stored bound
// lies at most, and how the time compares with NumPy's Gram, eigh and basis in memory, measured in the same repetition.
// Medians of five interleaved repetitions.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readTable } from '../examples/read-table.mjs';
import { runWatched } from './command.mjs';
import { DATASET, ensureDataset } from './dataset.mjs';
import { describeMachine } from './machine.mjs';
import { findPython, runPython } from './python.mjs';
import { printTable, writeResults } from './results.mjs';
import { median, worstDifference } from './statistics.mjs';

const RANK = 32;
const SETTINGS = ['--rank', RANK, '--block', 32, '--memory', '512MiB', '--device', 'blas', '--threads', 2];
const ENGINES = {
  incremental: ['--engine', 'incremental'],
  'frequent-directions': ['--engine', 'frequent-directions'],
  randomized: ['--engine', 'randomized'],
  'randomized, two passes': ['--engine', 'randomized', '--passes', '2'],
  exact: ['--engine', 'exact'],
  'exact, no basis': ['--engine', 'exact', '--no-basis'],
};

const script = (name) => join(import.meta.dirname, 'references', name);

async function runEngine(folder, out, flags, exact) {
  rmSync(out, { recursive: true, force: true });
  for (const name of readdirSync(folder)) readFileSync(join(folder, name));
  const { done, peakBytes } = await runWatched([folder, ...SETTINGS, ...flags, '--out', out]);
  // The set has one slot.
  const spectrum = (await readTable(join(out, 'spectrum.parquet'))).filter(({ slot_id }) => slot_id === 0).slice(0, 10);
  rmSync(out, { recursive: true, force: true });
  const found = spectrum.map(({ singular_value }) => singular_value);
  const highest = spectrum.map(({ bound_high }) => Math.sqrt(bound_high));
  return {
    fit_s: done.fit_s,
    tables_s: done.tables_s,
    peak_bytes: peakBytes,
    error: exact === null ? Number.NaN : worstDifference(found, exact),
    bound: exact === null ? Number.NaN : worstDifference(highest, exact),
  };
}

/** @returns whether all of it ran */
export async function benchEngines({ data, quick }) {
  const folder = ensureDataset(join(data, 'models'));
  const numpy = findPython('numpy');
  if (!numpy) console.error('SKIPPED: no python3 imports numpy: no in-memory Gram, no exact values');
  const exact = numpy ? runPython(numpy, script('exact.py'), [folder]).singular_values : null;
  const repetitions = [];
  for (let i = 0; i < (quick ? 1 : 5); i++) {
    console.error(`repetition ${i + 1}`);
    const reference = numpy ? runPython(numpy, script('numpy-gram.py'), [folder, RANK]) : null;
    const engines = {};
    for (const [name, flags] of Object.entries(ENGINES)) {
      engines[name] = await runEngine(folder, join(data, 'run-engines'), flags, exact);
    }
    repetitions.push({ numpy_s: reference && reference.arithmetic_s + reference.centre_s, engines });
  }
  const rows = Object.keys(ENGINES).map((name) => {
    const of = (value) => median(repetitions.map((rep) => value(rep.engines[name], rep)));
    return {
      name,
      fit_s: of((it) => it.fit_s),
      tables_s: of((it) => it.tables_s),
      peak_bytes: of((it) => it.peak_bytes),
      error: of((it) => it.error),
      bound: of((it) => it.bound),
      against_numpy: of((it, { numpy_s }) => (numpy_s ?? Number.NaN) / it.fit_s),
    };
  });
  printTable(`engines: ${DATASET.models} models of 1.05 MB, rank ${RANK}, 512 MiB, blas`, [
    ['', 'fit, s', 'to the last table, s', 'peak, MB', 'error against exact', 'bound', "of NumPy's Gram in memory"],
    ...rows.map((row) => [
      row.name,
      row.fit_s.toFixed(3),
      row.tables_s.toFixed(3),
      (row.peak_bytes / 1e6).toFixed(0),
      row.error.toExponential(1),
      row.bound.toExponential(1),
      row.against_numpy.toFixed(2),
    ]),
  ]);
  writeResults('engines', { machine: describeMachine(), dataset: DATASET, rows, repetitions });
  return true;
}
