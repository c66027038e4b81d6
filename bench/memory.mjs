// The part `memory`: models far larger than --memory, and one slot whose state alone is. How far the peak of resident
// memory, as the kernel reports it, lies above --memory, and how far the payload lies from what `plan` promised.
// Payload is the peak less the peak of an idle process: the same command on two models of one 64 x 64 slot, which loads
// all code, threads and libraries and holds next to no weights. The promise is what a plan says is held, and what it says
// heaps grow by.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { planOf, runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, modelBytes } from './model-set.mjs';
import { printTable, writeResults } from './results.mjs';

const MIB = 2 ** 20;
const OVER_TARGET = 256 * MIB;
const PROMISE_TARGET = 0.25;
const TINY = { models: 2, shapes: [[64, 64]], seed: 20254 };

function manySlots(divisor) {
  const shapes = [
    [256, 256],
    [512, 384],
    [512, 1024],
    [1024, 1024],
    [320, 2048],
  ].map((shape) => shape.map((length) => length / divisor));
  return Array.from({ length: 100 }, (_, i) => shapes[i % shapes.length]);
}

function casesOf(quick) {
  const large = quick ? 1024 : 8192;
  const memory = (quick ? 64 : 512) * MIB;
  return [
    {
      name: 'many slots',
      folder: quick ? 'memory-slots-quick' : 'memory-slots',
      set: { models: 24, shapes: manySlots(quick ? 4 : 1), seed: 20252 },
      settings: ['--rank', 16, '--block', 8],
      memory,
    },
    {
      name: 'one large slot',
      folder: quick ? 'memory-large-quick' : 'memory-large',
      set: { models: 12, shapes: [[large, large]], seed: 20253 },
      settings: ['--rank', 8, '--block', 4],
      memory,
    },
  ];
}

async function measure(wanted, data) {
  const models = ensureModelSet(join(data, wanted.folder), wanted.set);
  const tiny = ensureModelSet(join(data, 'memory-tiny'), TINY);
  const out = join(data, 'run-memory');
  const budget = ['--memory', wanted.memory, '--scratch', data];
  const flags = [...wanted.settings, '--device', 'blas', '--threads', 2, ...budget];
  const fresh = async (folder) => {
    rmSync(out, { recursive: true, force: true });
    return runWatched([folder, ...flags, '--out', out]);
  };
  try {
    const plan = await planOf([models, ...flags]);
    console.error(`  ${wanted.name}: ${plan.groups.length} groups`);
    const idle = (await fresh(tiny)).peakBytes;
    const { peakBytes: peak, done } = await fresh(models);
    const promised = plan.peak_memory + plan.heap_memory;
    return {
      name: wanted.name,
      model_bytes: modelBytes(wanted.set),
      models: wanted.set.models,
      groups: plan.groups.length,
      state_bytes: plan.groups.reduce((sum, { memory }) => sum + memory.state, 0),
      memory: wanted.memory,
      promised,
      idle,
      peak,
      over: peak - wanted.memory,
      payload: peak - idle,
      payload_of_promise: (peak - idle) / promised,
      fit_s: done.fit_s,
    };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** @returns whether all cases ran; a target that is missed is told, not failed */
export async function benchMemory({ data, quick }) {
  const cases = [];
  for (const wanted of casesOf(quick)) cases.push(await measure(wanted, data));
  const mebibytes = (bytes) => (bytes / MIB).toFixed(0);
  printTable('memory, MiB', [
    ['', 'a model', 'models', 'groups', '--memory', 'promised', 'idle', 'peak', 'payload', 'fit, s'],
    ...cases.map((it) => [
      it.name,
      mebibytes(it.model_bytes),
      it.models,
      it.groups,
      ...[it.memory, it.promised, it.idle, it.peak, it.payload].map(mebibytes),
      it.fit_s.toFixed(1),
    ]),
  ]);
  const told = (met) => (met ? 'met' : 'MISSED');
  printTable('against the targets', [
    ['', 'peak - --memory', 'at most 256 MiB', 'payload / promised', 'within 25%'],
    ...cases.map((it) => [
      it.name,
      `${mebibytes(it.over)} MiB`,
      told(it.over <= OVER_TARGET),
      it.payload_of_promise.toFixed(2),
      told(Math.abs(it.payload_of_promise - 1) <= PROMISE_TARGET),
    ]),
  ]);
  writeResults(quick ? 'memory-quick' : 'memory', { machine: describeMachine(), cases });
  return true;
}
