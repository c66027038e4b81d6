// npm run bench [-- --quick]: 256 models x 262,144 float32 on disk, rank 32, block 32. Five interleaved repetitions,
// every contender in a fresh process over a warm page cache; ratios are taken within a repetition.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { DATASET, DATASET_BYTES, ensureDataset, FEATURES } from './dataset.mjs';
import { findPython, runPython } from './python.mjs';
import { differencesOf, printSpread, ratiosOf, secondsOf } from './summary.mjs';
import { runWeightspan } from './weightspan.mjs';

const RANK = 32;
const BLOCK = 32;
const BASIS_BYTES = (RANK + 1) * FEATURES * 4;
const here = import.meta.dirname;
const data = join(here, 'data');
const quick = process.argv.includes('--quick');

if (!existsSync(join(here, '../dist/pipeline/cli.js'))) {
  console.error('bench: dist/pipeline/cli.js is missing; npm run build makes it');
  process.exit(64);
}
console.error(`data set: ${DATASET.models} models, ${(DATASET_BYTES / 1e6).toFixed(0)} MB`);
const folder = ensureDataset(join(data, 'models'));
const numpy = findPython('numpy');
const sklearn = findPython('sklearn');
if (!numpy) console.error('SKIPPED: no python3 imports numpy: no limit, no in-memory Gram, no exact values');
if (!sklearn) console.error('SKIPPED: no python3 imports sklearn: no comparison with scikit-learn');

const script = (name) => join(here, name);
const contenders = {
  limit: numpy && (() => runPython(numpy, script('machine-limit.py'), [folder, data, BASIS_BYTES])),
  blas: () => runWeightspan({ folder, out: join(data, 'run-blas'), device: 'blas', rank: RANK, block: BLOCK }),
  sklearn: sklearn && (() => runPython(sklearn, script('references/sklearn-incremental.py'), [folder, RANK, BLOCK])),
  tfjs: () => runWeightspan({ folder, out: join(data, 'run-tfjs'), device: 'tfjs', rank: RANK, block: BLOCK }),
  numpy: numpy && (() => runPython(numpy, script('references/numpy-gram.py'), [folder, RANK])),
};

function warmPageCache() {
  for (const name of readdirSync(folder)) readFileSync(join(folder, name));
}

const failed = new Set();

async function repetition() {
  const results = {};
  for (const [name, run] of Object.entries(contenders)) {
    if (!run || failed.has(name)) continue;
    warmPageCache();
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

const exact = numpy ? runPython(numpy, script('references/exact.py'), [folder]).singular_values : null;
const repetitions = [];
for (let i = 0; i < (quick ? 1 : 5); i++) {
  console.error(`repetition ${i + 1}`);
  repetitions.push(await repetition());
}

const first = repetitions[0];
const machine = {
  cpu: cpus()[0]?.model,
  cores: first.limit?.cores ?? cpus().length,
  system: `${process.platform} ${release()}`,
  node: process.version,
  devices: { blas: first.blas?.device, tfjs: first.tfjs?.device },
  references: { sklearn: first.sklearn?.versions, numpy: first.numpy?.versions },
};
const seconds = secondsOf(repetitions);
const ratios = ratiosOf(repetitions);
const differences = differencesOf(repetitions, exact);

console.log(`${machine.cpu}, ${machine.cores} cores, Node ${process.version}`);
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

mkdirSync(join(here, 'results'), { recursive: true });
const result = {
  machine,
  rank: RANK,
  block: BLOCK,
  dataset: DATASET,
  seconds,
  ratios,
  differences,
  exact,
  repetitions,
};
writeFileSync(join(here, 'results/latest.json'), `${JSON.stringify(result, null, 2)}\n`);
if (failed.size > 0) process.exitCode = 70;
