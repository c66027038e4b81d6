// The part `scale`: thousands of small models. Whether the last models take longer than the first, whether resident memory
// grows while they are folded, and whether the time grows with their number and no faster. Over a warm page cache.
// The tables of results have a row for each model and slot, written at the end: those grow with the number of models.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runWatched } from './command.mjs';
import { describeMachine } from './machine.mjs';
import { ensureModelSet, modelBytes, modelName } from './model-set.mjs';
import { printTable, writeResults } from './results.mjs';
import { median } from './statistics.mjs';
import { readTimings, sumTimings } from './timings.mjs';

const MB = 1e6;
const LATE_TARGET = 1.1;
const BLOCK = 25;
const SAMPLED_EVERY_MS = 50;
const SETTINGS = ['--rank', 32, '--block', BLOCK, '--memory', '2GiB', '--device', 'blas', '--threads', 2];

function planOfPart(quick) {
  const [side, scale] = quick ? [128, 0.2] : [256, 1];
  const count = (models) => models * scale;
  return {
    folder: quick ? 'scale-quick' : 'scale',
    set: { models: count(5000), shapes: Array.from({ length: 4 }, () => [side, side]), seed: 20255 },
    counts: [500, 1000, 2000, 5000].map(count),
    warmUp: count(250),
    window: count(500),
  };
}

/** Least squares: what y gains for one more x. */
function slopeOf(points) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = mean(points.map((point) => point.x));
  const y = mean(points.map((point) => point.y));
  const along = points.reduce((sum, point) => sum + (point.x - x) * (point.y - y), 0);
  return along / points.reduce((sum, point) => sum + (point.x - x) ** 2, 0);
}

/** Seconds a model, of the models after `from` up to `to`: the mean, and the median of the blocks. */
function secondsAModel(rows, from, to) {
  const blocks = rows.filter(({ models_seen, models }) => models_seen - models >= from && models_seen <= to);
  const models = blocks.reduce((sum, block) => sum + block.models, 0);
  return {
    mean: sumTimings(blocks).seconds / models,
    median: median(blocks.map((block) => block.seconds / block.models)),
  };
}

/** Resident memory from when so many models were folded to the last block, against time and models. */
function growthOf({ samples, events }, after) {
  const blocks = events.filter(({ type, modelsSeen }) => type === 'block' && modelsSeen >= after);
  const [first, last] = [blocks[0], blocks.at(-1)];
  const during = samples.filter(({ at }) => at >= first.at && at <= last.at);
  if (during.length < 3) return null;
  const perSecond = slopeOf(during.map(({ at, bytes }) => ({ x: at, y: bytes })));
  const modelsPerSecond = (last.modelsSeen - first.modelsSeen) / (last.at - first.at);
  return {
    after,
    samples: during.length,
    first: during[0].bytes,
    last: during.at(-1).bytes,
    bytes_per_s: perSecond,
    bytes_per_model: perSecond / modelsPerSecond,
  };
}

async function measure({ models, data, part, count }) {
  const names = Array.from({ length: count }, (_, i) => join(models, modelName(i)));
  for (const name of names) readFileSync(name);
  const list = join(data, 'scale-models.txt');
  const out = join(data, 'run-scale');
  writeFileSync(list, `${names.join('\n')}\n`);
  rmSync(out, { recursive: true, force: true });
  try {
    const run = await runWatched([`@${list}`, ...SETTINGS, '--out', out], { everyMs: SAMPLED_EVERY_MS });
    const rows = await readTimings(out);
    return {
      models: count,
      fit_s: run.done.fit_s,
      tables_s: run.done.tables_s,
      command_s: run.seconds,
      peak: run.peakBytes,
      early: secondsAModel(rows, part.warmUp, part.warmUp + part.window),
      late: secondsAModel(rows, count - part.window, count),
      sums: sumTimings(rows),
      // In the first half the heap still comes to its size.
      growth: [part.warmUp, count / 2].map((after) => growthOf(run, after)),
      samples: run.samples,
    };
  } finally {
    rmSync(out, { recursive: true, force: true });
    rmSync(list, { force: true });
  }
}

/** @returns whether all counts ran; a target that is missed is told, not failed */
export async function benchScale({ data, quick }) {
  const part = planOfPart(quick);
  const models = ensureModelSet(join(data, part.folder), part.set);
  const runs = [];
  for (const count of part.counts) {
    console.error(`  ${count} models`);
    runs.push(await measure({ models, data, part, count }));
  }
  const ms = (seconds) => (seconds * 1e3).toFixed(3);
  const perModel = (run) => run.fit_s / run.models;
  printTable(`scale: models of ${(modelBytes(part.set) / MB).toFixed(2)} MB, four slots, rank 32, block ${BLOCK}`, [
    ['models', 'fit, s', 'ms a model', 'against the fewest', 'to the last table, s', 'command, s', 'peak, MB'],
    ...runs.map((run) => [
      run.models,
      run.fit_s.toFixed(2),
      ms(perModel(run)),
      (perModel(run) / perModel(runs[0])).toFixed(2),
      run.tables_s.toFixed(2),
      run.command_s.toFixed(2),
      (run.peak / MB).toFixed(0),
    ]),
  ]);
  const longest = runs.at(-1);
  const ratios = {
    mean: longest.late.mean / longest.early.mean,
    median: longest.late.median / longest.early.median,
  };
  const { window, warmUp } = part;
  printTable(`of ${longest.models} models, the first ${window} after ${warmUp} against the last ${window}`, [
    ['ms a model', 'early', 'late', 'ratio', `at most ${LATE_TARGET}`],
    ...['mean', 'median'].map((kind) => [
      kind,
      ms(longest.early[kind]),
      ms(longest.late[kind]),
      ratios[kind].toFixed(3),
      ratios[kind] <= LATE_TARGET ? 'met' : 'MISSED',
    ]),
  ]);
  if (longest.growth.includes(null)) console.error('SKIPPED: no resident memory was sampled: its growth is not known');
  else {
    printTable('resident memory while models were folded, least squares', [
      ['models', 'first, MB', 'last, MB', 'MB a second', 'KB a model', 'samples'],
      ...longest.growth.map((growth) => [
        `${growth.after} to ${longest.models}`,
        (growth.first / MB).toFixed(1),
        (growth.last / MB).toFixed(1),
        (growth.bytes_per_s / MB).toFixed(2),
        (growth.bytes_per_model / 1e3).toFixed(2),
        growth.samples,
      ]),
    ]);
  }
  writeResults(quick ? 'scale-quick' : 'scale', { machine: describeMachine(), dataset: part.set, ratios, runs });
  return true;
}
