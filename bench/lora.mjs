// The part `lora`: 500 adapters of 32 modules of 4,096 x 4,096 at rank 16 in bfloat16, 4.2 GB. (a) Engine exact by their factors,
// the basis as coefficients, with 4 GiB: time, operations, their rate as a share of one large product of the machine (NumPy's,
// all cores), the peak of resident memory. (b) Engine incremental without a basis on four of the modules, where every ΔW is
// decoded, at rank 8: what a module then keeps still fits in the memory. One run each: they take minutes. Factors are a pool of normal draws seen from one random place after another.
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { planOf, runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureWritten, safetensorsHeader } from './model-files.mjs';
import { findPython, runPython } from './python.mjs';
import { generator } from './random.mjs';
import { printTable, writeResults } from './results.mjs';

const POOL = 2 ** 23;
const MOST_SECONDS = 1200;
const GIB = 2 ** 30;

const setOf = (quick) => ({
  adapters: quick ? 24 : 500,
  modules: quick ? 2 : 32,
  side: quick ? 1024 : 4096,
  rank: 16,
  seed: 20258,
});

const moduleName = (m) => `model.layers.${m >> 1}.self_attn.${m % 2 === 0 ? 'q' : 'v'}_proj`;

/** Normal draws in bfloat16, the upper halves of float32. */
const poolOf = (normal, std) => {
  const values = Float32Array.from({ length: POOL }, () => std * normal());
  return Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
};

function writeAdapters(folder, { adapters, modules, side, rank, seed }) {
  const normal = generator(seed);
  const pools = { A: poolOf(normal, 1 / Math.sqrt(side)), B: poolOf(normal, 0.01) };
  const entries = {};
  let end = 0;
  for (let m = 0; m < modules; m++) {
    for (const [letter, shape] of [
      ['A', [rank, side]],
      ['B', [side, rank]],
    ]) {
      const name = `base_model.model.${moduleName(m)}.lora_${letter}.weight`;
      entries[name] = { dtype: 'BF16', shape, data_offsets: [end, end + 2 * rank * side] };
      end += 2 * rank * side;
    }
  }
  const header = safetensorsHeader(entries);
  const config = JSON.stringify({ peft_type: 'LORA', base_model_name_or_path: 'bench/base', r: rank, lora_alpha: 32 });
  const length = rank * side;
  for (let i = 0; i < adapters; i++) {
    const own = join(folder, `adapter-${String(i).padStart(4, '0')}`);
    mkdirSync(own);
    writeFileSync(join(own, 'adapter_config.json'), config);
    const fd = openSync(join(own, 'adapter_model.safetensors'), 'w');
    try {
      writeSync(fd, header);
      for (let m = 0; m < modules; m++) {
        for (const letter of ['A', 'B']) {
          const at = Math.floor(Math.abs(normal()) * POOL) % (POOL - length);
          writeSync(fd, new Uint8Array(pools[letter].buffer, 2 * at, 2 * length));
        }
      }
    } finally {
      closeSync(fd);
    }
  }
}

async function measure(folder, out, flags, limit) {
  const common = ['--memory', 4 * GIB, '--device', 'blas', '--threads', 2, ...flags];
  const plan = await planOf([folder, ...common]);
  rmSync(out, { recursive: true, force: true });
  const { done, peakBytes } = await runWatched([folder, ...common, '--out', out]);
  rmSync(out, { recursive: true, force: true });
  return {
    tables_s: done.tables_s,
    flops: plan.flops,
    share: plan.flops / done.fit_s / limit,
    promised: plan.peak_memory,
    peak_bytes: peakBytes,
    estimate_s: plan.estimate.fit_s,
  };
}

/** @returns whether all of it ran; a target that is missed is told, not failed */
export async function benchLora({ data, quick }) {
  const set = setOf(quick);
  const place = join(data, quick ? 'lora-quick' : 'lora');
  const write = (folder) => {
    console.error(`writing ${folder}: ${set.adapters} adapters`);
    writeAdapters(folder, set);
  };
  const folder = ensureWritten({ folder: join(place, 'models'), marker: join(place, 'set.json'), set, write });
  const numpy = findPython('numpy');
  if (!numpy) console.error('SKIPPED: no python3 imports numpy: no GEMM limit');
  const probe = join(folder, 'adapter-0000');
  const script = join(import.meta.dirname, 'machine-limit.py');
  const limit = numpy ? runPython(numpy, script, [probe, data, 1e8]).gemm_flops_per_s : Number.NaN;
  const out = join(data, 'run-lora');
  const some = [0, 1, 2, 3].filter((m) => m < set.modules).flatMap((m) => ['--include', moduleName(m)]);
  const ways = {
    'exact, mode models, rank 32, by factors': ['--engine', 'exact', '--rank', 32],
    'exact, modes rows and cols, rank 32, by factors, 4 modules': [
      '--engine',
      'exact',
      '--mode',
      'rows,cols',
      '--rank',
      32,
      ...some,
    ],
    'incremental, rank 8, no basis, 4 modules': ['--rank', 8, '--no-basis', '--drop-state', ...some],
  };
  const results = {};
  for (const [name, flags] of Object.entries(ways)) {
    console.error(`  ${name}`);
    results[name] = await measure(folder, out, flags, limit);
  }
  const { adapters, modules, side, rank } = set;
  printTable(`lora: ${adapters} adapters, ${modules} modules of ${side} x ${side}, rank ${rank}, BF16, 4 GiB, blas`, [
    ['', 'to the last table, s', 'planned', 'GFLOP', 'of the GEMM limit', 'peak, MiB', 'promised', '20 minutes'],
    ...Object.entries(results).map(([name, it]) => [
      name,
      it.tables_s.toFixed(1),
      it.estimate_s.toFixed(1),
      (it.flops / 1e9).toFixed(0),
      it.share.toFixed(2),
      (it.peak_bytes / 2 ** 20).toFixed(0),
      (it.promised / 2 ** 20).toFixed(0),
      it.tables_s <= MOST_SECONDS ? 'met' : 'MISSED',
    ]),
  ]);
  writeResults(quick ? 'lora-quick' : 'lora', { machine: describeMachine(), set, limit, results });
  return true;
}
