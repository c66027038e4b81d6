// The part `cuda`: device cuda on a card, against others on the same card and against what the card and the files allow, all
// in one run. (a) models of 4,096 x 4,096 bfloat16, rank 64, block 64, which moving weights binds: share of the slower of reading and
// copying up, of the whole fit and of its blocks after the first. (b) rank 256 on more and smaller models, and (c) mode rows, which
// arithmetic binds: share of what both limits allow. References that the machine lacks are named and left out.
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
  const where = ['--device', 'cuda', '--memory', 48 * GIB, '--no-basis', '--drop-state'];
  const { done } = await runWatched([folder, ...flags, ...where, '--out', out]);
  const mode = flags.includes('rows') ? 'rows' : 'models';
  const [eigenvalues] = (await readSpectra(out, mode)).values();
  const blocks = await readTimings(out);
  rmSync(out, { recursive: true, force: true });
  return { fit_s: done.fit_s, flops: done.flops, blocks, singular_values: eigenvalues.slice(0, 10).map(Math.sqrt) };
}

/** What others make of the same files; null where they cannot. */
function reference(folder, rank, block, what, module) {
  const python = findPython(module);
  if (python === null) {
    console.error(`SKIPPED: ${what}: no python3 imports ${module}`);
    return null;
  }
  try {
    return runPython(python, script('references/on-card.py'), [folder, rank, block, what]);
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
  const set = { models: quick ? 24 : 256, shapes: [[side, side]], dtype: 'BF16', seed: 20261 };
  const many = { models: quick ? 48 : 512, shapes: [[side / 2, side / 2]], dtype: 'BF16', seed: 20262 };
  const bytes = setBytes(set);
  const folder = ensureModelSet(join(data, quick ? 'cuda-quick' : 'cuda'), set);
  const manyFolder = ensureModelSet(join(data, quick ? 'cuda-many-quick' : 'cuda-many'), many);
  const [rank, block] = quick ? [4, 8] : [64, 64];
  const card = cardLimit(quick);
  const numpy = findPython('numpy');
  const read =
    numpy === null ? Number.NaN : runPython(numpy, script('machine-limit.py'), [folder, data, 1e7]).read_bytes_per_s;
  const move = Math.min(read, card.up_bytes_per_s);
  const [streamed, wide, rows] = [
    await measure(folder, data, ['--rank', rank, '--block', block]),
    await measure(manyFolder, data, ['--rank', quick ? 16 : 256, '--block', block]),
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
  const later = streamed.blocks.slice(1);
  const steady =
    later.reduce((sum, { bytes }) => sum + bytes, 0) / later.reduce((sum, { seconds }) => sum + seconds, 0);
  console.log(
    `blocks after the first: ${gigabytes(steady)} GB/s, ${(steady / move).toFixed(2)} of it (models are ${(bytes / 1e9).toFixed(1)} GB: what a run does once weighs)`,
  );
  const scatterFlops = set.models * side * side * (side + 1);
  const shares = [
    [`rank ${quick ? 16 : 256}, ${many.models} models`, wide.fit_s, wide.flops, setBytes(many)],
    ['mode rows', rows.fit_s, scatterFlops, bytes],
  ].map(([name, seconds, flops, size]) => {
    const [multiplied, moved] = [flops / card.gemm_flops_per_s, size / move];
    const limit = Math.max(multiplied, moved);
    return { name, seconds, flops, binds: multiplied > moved ? 'products' : 'moving', share: limit / seconds };
  });
  printTable('more arithmetic', [
    ['', 's', 'GFLOP', 'GFLOP/s', 'limit', 'share', `aim ${GEMM_TARGET}`],
    ...shares.map(({ name, seconds, flops, binds, share }) => [
      name,
      seconds.toFixed(2),
      (flops / 1e9).toFixed(0),
      (flops / 1e9 / seconds).toFixed(0),
      binds,
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
