// The part `checkpoints`: what they cost a run that takes a minute, at the pace it chooses by itself, and how fast one large
// state is written, against a file of the same size written and synced on the same disk. Over a warm page cache. The states
// are not equally large: a run of a minute would not write a GB even once by itself.
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, modelBytes, modelName } from './model-set.mjs';
import { printTable, writeResults } from './results.mjs';
import { median } from './statistics.mjs';

const MB = 1e6;
const COST_TARGET = 0.05;
const RATE_TARGET = 0.5;

function planOfPart(quick) {
  const setOf = (side) => ({ models: 16, shapes: [[side, side]], seed: 20256 });
  return {
    folder: quick ? 'checkpoints-quick' : 'checkpoints',
    set: setOf(quick ? 1024 : 2048),
    large: setOf(quick ? 1024 : 4096),
    /** Names for the models: each is folded as often as it has names. */
    names: quick ? 160 : 2560,
    settings: [
      '--rank',
      8,
      '--block',
      16,
      '--memory',
      '4GiB',
      '--device',
      'blas',
      '--threads',
      2,
      '--no-basis',
      '--drop-state',
    ],
    repetitions: quick ? 1 : 3,
  };
}

/** More names for the same files. */
function withMoreNames(models, count, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const names = Array.from({ length: count }, (_, i) => join(folder, `${String(i).padStart(5, '0')}.safetensors`));
  for (const [i, name] of names.entries()) linkSync(join(models, modelName(i % 16)), name);
  return folder;
}

/** A new file of zeros, 4 MiB a write, then one sync. */
function syncedWriteSeconds(folder, bytes) {
  const path = join(folder, 'write-probe');
  const piece = new Uint8Array(4 << 20);
  const start = performance.now();
  const fd = openSync(path, 'wx');
  try {
    for (let at = 0; at < bytes; at += piece.length) writeSync(fd, piece, 0, Math.min(piece.length, bytes - at));
    fsyncSync(fd);
    return (performance.now() - start) / 1000;
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}

/** @returns whether all ran; a target that is missed is told, not failed */
export async function benchCheckpoints({ data, quick }) {
  const part = planOfPart(quick);
  const models = ensureModelSet(join(data, part.folder, 'run'), part.set);
  const large = ensureModelSet(join(data, part.folder, 'large'), part.large);
  const many = withMoreNames(models, part.names, join(data, 'checkpoints-names'));
  const out = join(data, 'run-checkpoints');
  const measure = async (folder, every) => {
    rmSync(out, { recursive: true, force: true });
    const flags = every === null ? [] : ['--checkpoint-every', every];
    const { done, events } = await runWatched([folder, ...part.settings, ...flags, '--out', out]);
    // The first says what the run is, the last that it is finished.
    const written = events.filter(({ type }) => type === 'checkpoint').slice(1, -1);
    return { fit_s: done.fit_s, seconds: written.map(({ seconds }) => seconds) };
  };
  try {
    const runs = { none: [], pace: [] };
    for (let i = 0; i < part.repetitions; i++) {
      console.error(`  repetition ${i + 1}`);
      runs.none.push(await measure(many, '24h'));
      runs.pace.push(await measure(many, null));
    }
    const [none, pace] = [runs.none, runs.pace].map((some) => median(some.map(({ fit_s }) => fit_s)));
    // Pair by pair: a machine's speed drifts by more than what is looked for.
    const cost = median(runs.pace.map(({ fit_s }, i) => fit_s / runs.none[i].fit_s)) - 1;
    const features = part.large.shapes[0][0] * part.large.shapes[0][1];
    const bytes = features * 4 * (2 + Math.min(16, part.large.models - 1));
    const each = [];
    // Turn by turn: pages that the kernel has to find first cost a write more than the disk does.
    const raw = [];
    for (let i = 0; i < part.repetitions; i++) {
      raw.push(syncedWriteSeconds(data, bytes));
      each.push(...(await measure(large, part.large.models)).seconds);
    }
    const [rate, limit] = [bytes / median(each), bytes / median(raw)];
    const share = rate / limit;
    printTable(`checkpoints: ${part.names} models of ${(modelBytes(part.set) / MB).toFixed(0)} MB, one slot, rank 8`, [
      ['', 'without, s', 'as chosen, s', 'checkpoints a run', 'cost', `at most ${COST_TARGET * 100}%`],
      [
        'fit',
        none.toFixed(2),
        pace.toFixed(2),
        runs.pace.map(({ seconds }) => seconds.length).join(', '),
        `${(cost * 100).toFixed(1)}%`,
        cost <= COST_TARGET ? 'met' : 'MISSED',
      ],
    ]);
    printTable('one checkpoint, from the first byte to a durable manifest', [
      ['state, MB', 'seconds (median)', 'MB/s', 'a synced file, MB/s', 'share', `at least ${RATE_TARGET}`],
      [
        (bytes / MB).toFixed(0),
        median(each).toFixed(2),
        (rate / MB).toFixed(0),
        (limit / MB).toFixed(0),
        share.toFixed(2),
        share >= RATE_TARGET ? 'met' : 'MISSED',
      ],
    ]);
    writeResults(quick ? 'checkpoints-quick' : 'checkpoints', {
      machine: describeMachine(),
      cost,
      share,
      bytes,
      runs,
      each,
      raw,
    });
  } finally {
    rmSync(out, { recursive: true, force: true });
    rmSync(join(data, 'checkpoints-names'), { recursive: true, force: true });
  }
  return true;
}
