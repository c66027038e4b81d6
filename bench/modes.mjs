// The part `modes`: the modes rows and cols at size. (a) 50 matrices of 4,096 x 4,096 in bfloat16, mode rows, with 2 GiB: time,
// operations, their rate as a share of one large product of the machine (NumPy's, all cores), the peak of resident memory.
// (b) 16 models of one slot of 4.2 million weights, all three modes, against NumPy in float64.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { readSpectra } from '../examples/read-table.mjs';
import { planOf, runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet } from './model-set.mjs';
import { findPython, runPython } from './python.mjs';
import { printTable, writeResults } from './results.mjs';
import { median } from './statistics.mjs';
import { readTimings } from './timings.mjs';

const GIB = 2 ** 30;
const SHARE_TARGET = 0.6;
const ERROR_TARGET = 1e-6;

const script = (name) => join(import.meta.dirname, name);

async function measureRows({ data, quick, numpy }) {
  const side = quick ? 1024 : 4096;
  const set = { models: quick ? 8 : 50, shapes: [[side, side]], dtype: 'BF16', seed: 20255 };
  const folder = ensureModelSet(join(data, quick ? 'modes-rows-quick' : 'modes-rows'), set);
  const out = join(data, 'run-modes');
  const flags = ['--mode', 'rows', '--rank', 32, '--memory', 2 * GIB, '--device', 'blas', '--threads', 2];
  const plan = await planOf([folder, ...flags]);
  const limit = numpy ? runPython(numpy, script('machine-limit.py'), [folder, data, 1e8]).gemm_flops_per_s : Number.NaN;
  const repetitions = [];
  for (let i = 0; i < (quick ? 1 : 3); i++) {
    rmSync(out, { recursive: true, force: true });
    const { done, peakBytes } = await runWatched([folder, ...flags, '--out', out]);
    // The first half of the parts adds up the scatter matrix; the second measures the models along its directions.
    const parts = await readTimings(out);
    const pass = parts.slice(0, parts.length / 2).reduce((sum, { seconds }) => sum + seconds, 0);
    repetitions.push({ fit_s: done.fit_s, pass_s: pass, peak_bytes: peakBytes });
  }
  rmSync(out, { recursive: true, force: true });
  const of = (name) => median(repetitions.map((rep) => rep[name]));
  const scatterFlops = set.models * side * side * (side + 1);
  return {
    ...{ models: set.models, side, flops: plan.flops, scatter_flops: scatterFlops, promised: plan.peak_memory, limit },
    ...{ fit_s: of('fit_s'), pass_s: of('pass_s'), peak_bytes: of('peak_bytes'), repetitions },
    share: plan.flops / of('fit_s') / limit,
    pass_share: scatterFlops / of('pass_s') / limit,
    estimate_s: plan.estimate.fit_s,
  };
}

async function measureErrors({ data, quick, numpy }) {
  const side = quick ? 256 : 2048;
  const set = { models: 16, shapes: [[side, side]], seed: 20257 };
  const folder = ensureModelSet(join(data, quick ? 'modes-errors-quick' : 'modes-errors'), set);
  const exact = runPython(numpy, script('references/modes.py'), [folder, side, side]);
  const errors = {};
  for (const device of ['blas', 'tfjs']) {
    const out = join(data, 'run-modes');
    rmSync(out, { recursive: true, force: true });
    const flags = ['--engine', 'exact', '--mode', 'models,rows,cols', '--rank', 64, '--no-basis', '--no-energies'];
    await runWatched([folder, ...flags, '--device', device, '--threads', 2, '--out', out]);
    errors[device] = {};
    for (const [mode, truth] of Object.entries(exact)) {
      const [found] = (await readSpectra(out, mode)).values();
      const differences = truth.slice(0, found.length).map((value, j) => Math.abs(found[j] - value) / truth[0]);
      errors[device][mode] = Math.max(...differences);
    }
    rmSync(out, { recursive: true, force: true });
  }
  return { side, models: set.models, errors };
}

/** @returns whether all of it ran */
export async function benchModes({ data, quick }) {
  const numpy = findPython('numpy');
  if (!numpy) console.error('SKIPPED: no python3 imports numpy: no GEMM limit, no exact values');
  const rows = await measureRows({ data, quick, numpy });
  const told = (met) => (met ? 'met' : 'MISSED');
  const mebibytes = (bytes) => (bytes / 2 ** 20).toFixed(0);
  const gigaflops = (rate) => (rate / 1e9).toFixed(0);
  printTable(`modes: ${rows.models} matrices of ${rows.side} x ${rows.side} bfloat16, mode rows, 2 GiB, blas`, [
    ['', 's', 'GFLOP', 'GFLOP/s', 'of the GEMM limit', 'aim 60%'],
    ...[
      ['scatter matrix', rows.pass_s, rows.scatter_flops, rows.pass_share],
      ['all, with eigenpairs and energies', rows.fit_s, rows.flops, rows.share],
    ].map(([name, seconds, flops, share]) => [
      name,
      seconds.toFixed(1),
      gigaflops(flops),
      gigaflops(flops / seconds),
      share.toFixed(2),
      told(share >= SHARE_TARGET),
    ]),
  ]);
  console.log(
    `peak ${mebibytes(rows.peak_bytes)} MiB of 2,048 (promised ${mebibytes(rows.promised)} and an idle process); ` +
      `one large product ${gigaflops(rows.limit)} GFLOP/s; the plan said ${rows.estimate_s.toFixed(1)} s`,
  );
  const errors = numpy ? await measureErrors({ data, quick, numpy }) : null;
  if (errors !== null) {
    printTable(`errors: ${errors.models} models of ${errors.side} x ${errors.side}, 64 eigenvalues, of the largest`, [
      ['', 'models', 'rows', 'cols', 'at most 1e-6 (tfjs 5e-6)'],
      ...Object.entries(errors.errors).map(([device, of]) => [
        device,
        ...['models', 'rows', 'cols'].map((mode) => of[mode].toExponential(1)),
        told(Math.max(...Object.values(of)) <= (device === 'tfjs' ? 5 : 1) * ERROR_TARGET),
      ]),
    ]);
  }
  writeResults(quick ? 'modes-quick' : 'modes', { machine: describeMachine(), rows, errors });
  return true;
}
