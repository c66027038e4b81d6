// The part `cuda`: device cuda on a card, against others on the same card and against what the card and the files allow, all
// in one run. (a) models of 4,096 x 4,096 bfloat16, rank 64, block 64: share of the slower of reading and copying up. (b) rank 256, and
// (c) mode rows: share of one large float32 product. References that the machine lacks are named and left out.
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { readSpectra } from '../examples/read-table.mjs';
import { runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, setBytes } from './model-set.mjs';
import { cleanEnvironment, findPython, runPython } from './python.mjs';
import { printTable, writeResults } from './results.mjs';
import { worstDifference } from './statistics.mjs';
import { readTimings } from './timings.mjs';

const MOVE_TARGET = 0.8;
const GEMM_TARGET = 0.5;
const GIB = 2 ** 30;

const script = (name) => join(import.meta.dirname, name);

const cardLimit = (quick) =>
  JSON.parse(
    execFileSync(process.execPath, [script('card-limit.mjs'), ...(quick ? ['--quick'] : [])], {
      env: cleanEnvironment(),
      encoding: 'utf8',
    }),
  );

async function measure(folder, data, flags) {
  const out = join(data, 'run-cuda');
  rmSync(out, { recursive: true, force: true });
  const where = ['--device', 'cuda', '--memory', 48 * GIB, '--threads', 4, '--no-basis', '--drop-state'];
  const { done } = await runWatched([folder, ...flags, ...where, '--out', out]);
  const mode = flags.includes('rows') ? 'rows' : 'models';
  const [eigenvalues] = (await readSpectra(out, mode)).values();
  const parts = await readTimings(out);
  rmSync(out, { recursive: true, force: true });
  return { fit_s: done.fit_s, flops: done.flops, parts, singular_values: eigenvalues.slice(0, 10).map(Math.sqrt) };
}

/** What others make of the same files; null where they cannot. */
function reference(folder, rank, block, what, module) {
  const python = findPython(module);
  if (python === null) {
    console.error(`SKIPPED: ${what}: no python3 imports ${module}`);
    return null;
  }
  try {
    return runPython(python, script('references/cuda.py'), [folder, rank, block, what]);
  } catch (error) {
    console.error(`FAILED: ${what}: ${error.message.split('\n')[0]}`);
    return null;
  }
}

const gigabytes = (rate) => (rate / 1e9).toFixed(2);
const told = (met) => (met ? 'met' : 'MISSED');

/** @returns whether all of it ran */
export async function benchCuda({ data, quick }) {
  const side = quick ? 128 : 4096;
  const set = { models: quick ? 24 : 128, shapes: [[side, side]], dtype: 'BF16', seed: 20261 };
  const bytes = setBytes(set);
  const folder = ensureModelSet(join(data, quick ? 'cuda-quick' : 'cuda'), set);
  const [rank, block] = quick ? [4, 8] : [64, 64];
  const card = cardLimit(quick);
  const numpy = findPython('numpy');
  const read =
    numpy === null ? Number.NaN : runPython(numpy, script('machine-limit.py'), [folder, data, 1e7]).read_bytes_per_s;
  const move = Math.min(read, card.up_bytes_per_s);
  const [streamed, wide, rows] = [
    await measure(folder, data, ['--rank', rank, '--block', block]),
    await measure(folder, data, ['--rank', quick ? 8 : 256, '--block', block]),
    await measure(folder, data, ['--mode', 'rows', '--rank', 32, '--no-energies']),
  ];
  const others = Object.fromEntries(
    [
      ['exact', 'torch'],
      ['torch-gram', 'torch'],
      ['torch-svd', 'torch'],
      ['cupy-ipca', 'cupy'],
      ['sklearn', 'sklearn'],
    ].map(([what, module]) => [what, reference(folder, rank, block, what, module)]),
  );
  const exact = others.exact?.singular_values ?? null;
  const error = (values) => (exact === null ? '-' : worstDifference(values, exact).toExponential(1));
  const own = bytes / streamed.fit_s;
  console.log(
    `${card.name}, sm_${card.capability}, cuBLAS ${card.blas}, CUDA ${card.runtime}, driver for CUDA ${card.driver}`,
  );
  console.log(
    `limits: read ${gigabytes(read)} GB/s, up ${gigabytes(card.up_bytes_per_s)} GB/s, product ${(card.gemm_flops_per_s / 1e9).toFixed(0)} GFLOP/s`,
  );
  printTable(`cuda: ${set.models} models of ${side} x ${side} bfloat16, rank ${rank}, block ${block}`, [
    ['', 's', 'GB/s', 'weightspan is faster by', 'error of 10 singular values'],
    ['weightspan cuda', streamed.fit_s.toFixed(2), gigabytes(own), '', error(streamed.singular_values)],
    ...Object.entries(others)
      .filter(([, found]) => found !== null)
      .map(([what, found]) => {
        const rate = found.bytes / found.seconds;
        const apart = what === 'sklearn' ? '- (a part of the weights)' : error(found.singular_values);
        return [
          `${what} (${found.versions})`,
          found.seconds.toFixed(2),
          gigabytes(rate),
          (own / rate).toFixed(2),
          apart,
        ];
      }),
  ]);
  console.log(
    `share of the slower of reading and copying up: ${(own / move).toFixed(2)}, aim ${MOVE_TARGET}: ${told(own / move >= MOVE_TARGET)}`,
  );
  const scatterFlops = set.models * side * side * (side + 1);
  const shares = [
    [`rank ${quick ? 8 : 256}`, wide.fit_s, wide.flops],
    ['mode rows', rows.fit_s, scatterFlops],
  ].map(([name, seconds, flops]) => ({ name, seconds, flops, share: flops / seconds / card.gemm_flops_per_s }));
  printTable('where arithmetic binds', [
    ['', 's', 'GFLOP', 'of the float32 product', `aim ${GEMM_TARGET}`],
    ...shares.map(({ name, seconds, flops, share }) => [
      name,
      seconds.toFixed(2),
      (flops / 1e9).toFixed(0),
      share.toFixed(2),
      told(share >= GEMM_TARGET),
    ]),
  ]);
  writeResults(quick ? 'cuda-quick' : 'cuda', {
    machine: describeMachine(),
    ...{ card, read_bytes_per_s: read, set, rank, block, streamed, wide, rows, others, shares },
  });
  return true;
}
