// The part `fit`: 256 models x 262,144 float32 on disk, rank 32, block 32, against other programs and the machine's own
// limit. Five interleaved repetitions, every contender in a fresh process over a warm page cache; ratios are taken within
// a repetition.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DATASET, DATASET_BYTES, ensureDataset, FEATURES } from './dataset.mjs';
import { describeMachine } from './machine.mjs';
import { findPython, runPython } from './python.mjs';
import { writeResults } from './results.mjs';
import { differencesOf, printSpread, ratiosOf, secondsOf } from './summary.mjs';
import { runWeightspan } from './weightspan.mjs';

const RANK = 32;
const BLOCK = 32;
const BASIS_BYTES = (RANK + 1) * FEATURES * 4;

const script = (name) => join(import.meta.dirname, name);

function contendersOf(folder, data, { numpy, sklearn }) {
  const settings = { folder, rank: RANK, block: BLOCK };
  return {
    limit: numpy && (() => runPython(numpy, script('machine-limit.py'), [folder, data, BASIS_BYTES])),
    blas: () => runWeightspan({ ...settings, out: join(data, 'run-blas'), device: 'blas' }),
    sklearn: sklearn && (() => runPython(sklearn, script('references/sklearn-incremental.py'), [folder, RANK, BLOCK])),
    tfjs: () => runWeightspan({ ...settings, out: join(data, 'run-tfjs'), device: 'tfjs' }),
    numpy: numpy && (() => runPython(numpy, script('references/numpy-gram.py'), [folder, RANK])),
  };
}

function warmPageCache(folder) {
  for (const name of readdirSync(folder)) readFileSync(join(folder, name));
}

async function repetition(contenders, folder, failed) {
  const results = {};
  for (const [name, run] of Object.entries(contenders)) {
    if (!run || failed.has(name)) continue;
    warmPageCache(folder);
    console.error(`  ${name}`);
    try {
      results[name] = await run();
    } catch (error) {
      failed.add(name);
      console.error(`FAILED: ${name}: ${error.message}`);
    }
  }
  return results;
}

function print(machine, repetitions, { seconds, ratios, differences }) {
  console.log(`${machine.cpu}, ${machine.cores} cores, Node ${machine.node}`);
  console.log(`devices: ${JSON.stringify(machine.devices)}`);
  for (const { limit } of repetitions.filter((rep) => rep.limit)) {
    const [read, gemm, write] = [
      limit.read_bytes_per_s / 1e6,
      limit.gemm_flops_per_s / 1e9,
      limit.write_bytes_per_s / 1e6,
    ];
    console.log(
      `limit: read ${read.toFixed(0)} MB/s, product ${gemm.toFixed(0)} GFLOP/s, synced write ${write.toFixed(0)} MB/s`,
    );
  }
  printSpread('seconds', seconds, 3);
  printSpread('ratios (higher is better)', ratios, 2);
  console.log('\nfirst ten singular values, largest relative difference');
  for (const [name, worst] of differences) console.log(`  ${name.padEnd(56)}${worst.toExponential(1).padStart(9)}`);
}

/** @returns whether every contender that could run did */
export async function benchFit({ data, quick }) {
  console.error(`data set: ${DATASET.models} models, ${(DATASET_BYTES / 1e6).toFixed(0)} MB`);
  const folder = ensureDataset(join(data, 'models'));
  const numpy = findPython('numpy');
  const sklearn = findPython('sklearn');
  if (!numpy) console.error('SKIPPED: no python3 imports numpy: no limit, no in-memory Gram, no exact values');
  if (!sklearn) console.error('SKIPPED: no python3 imports sklearn: no comparison with scikit-learn');
  const contenders = contendersOf(folder, data, { numpy, sklearn });
  const failed = new Set();
  const exact = numpy ? runPython(numpy, script('references/exact.py'), [folder]).singular_values : null;
  const repetitions = [];
  for (let i = 0; i < (quick ? 1 : 5); i++) {
    console.error(`repetition ${i + 1}`);
    repetitions.push(await repetition(contenders, folder, failed));
  }
  const [{ limit, blas, tfjs, sklearn: bySklearn, numpy: byNumpy }] = repetitions;
  const known = describeMachine();
  const machine = {
    ...known,
    cores: limit?.cores ?? known.cores,
    devices: { blas: blas?.device, tfjs: tfjs?.device },
    references: { sklearn: bySklearn?.versions, numpy: byNumpy?.versions },
  };
  const figures = {
    seconds: secondsOf(repetitions),
    ratios: ratiosOf(repetitions),
    differences: differencesOf(repetitions, exact),
  };
  print(machine, repetitions, figures);
  writeResults('latest', { machine, rank: RANK, block: BLOCK, dataset: DATASET, ...figures, exact, repetitions });
  return failed.size === 0;
}
