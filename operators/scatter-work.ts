// One thread's work for the modes rows and cols; what the tasks mean stands in scatter-tasks.ts.
import { firstBadWeight, LARGEST_WEIGHT } from '../sources/bad-weight.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { widenRow } from '../sources/weight-batch.ts';
import type { Device, Samples } from './devices/device.ts';
import { multiplyStrip, stripValues } from './linalg/packed-strips.ts';
import { placeRows } from './placed-rows.ts';
import type {
  EnergyTask,
  FoldTask,
  MultiplyTask,
  OriginTask,
  SampleTask,
  ScatterAnswers,
  ScatterTask,
  SideSamples,
  StagedTiles,
  Survey,
  SurveyTask,
} from './scatter-tasks.ts';

export const performScatterTask = (device: Device, task: ScatterTask): ScatterAnswers[ScatterTask['kind']] => {
  switch (task.kind) {
    case 'survey':
      return survey(task);
    case 'origin':
      return widenOrigin(task);
    case 'sample':
      return sample(task);
    case 'fold':
      return fold(device, task);
    case 'multiply':
      return multiply(device, task);
    case 'energy':
      return energies(device, task);
  }
};

const survey = (task: SurveyTask): Survey => {
  const { models, origin } = task;
  const norms2 = new Float64Array(models);
  const sums = new Float64Array(models);
  const bad = new Map<number, Survey['bad'][number]>();
  const zero = origin === null ? null : new Float32Array(origin);
  eachRow(task, (tile, position, x) => {
    let raw = 0;
    let sum = 0;
    for (let i = 0; i < x.length; i++) {
      raw += x[i]! * x[i]!;
      sum += x[i]!;
    }
    // A weight too large makes the sum of squares too large; NaN makes it NaN.
    if (!(raw <= LARGEST_WEIGHT ** 2) && !bad.has(position)) {
      const index = firstBadWeight(x);
      if (index >= 0) bad.set(position, { position, index: tile.start + index, value: x[index]! });
    }
    if (zero !== null) {
      raw = 0;
      for (let i = 0; i < x.length; i++) raw += (x[i]! - zero[tile.start + i]!) ** 2;
    }
    norms2[position] = norms2[position]! + raw;
    sums[position] = sums[position]! + sum;
  });
  return { norms2, sums, bad: [...bad.values()] };
};

const widenOrigin = (task: OriginTask): null => {
  const origin = new Float32Array(task.origin);
  eachRow(task, (tile, _position, x) => origin.set(x, tile.start));
  return null;
};

const sample = (task: SampleTask): Float64Array => {
  const { from, to, about, seen, features } = task;
  const mean = task.mean === null ? null : new Float64Array(task.mean);
  const origin = task.origin === null ? null : new Float32Array(task.origin);
  const samples = new Float32Array(task.samples);
  const norms2 = new Float64Array(to - from);
  eachRow(task, (tile, position, x) => {
    if (position < from || position >= to) return;
    const i = position - from;
    const out = samples.subarray(i * features + tile.start, i * features + tile.start + x.length);
    if (mean === null) subtract(x, origin, tile.start, out);
    else if (about === 'fixed') subtract(x, mean, tile.start, out);
    else takeIn(x, mean, tile.start, seen + i, out);
    let sum = 0;
    for (let l = 0; l < out.length; l++) sum += out[l]! * out[l]!;
    norms2[i] = norms2[i]! + sum;
  });
  return norms2;
};

const subtract = (
  x: Float32Array,
  other: Float32Array | Float64Array | null,
  start: number,
  out: Float32Array,
): void => {
  if (other === null) out.set(x);
  else for (let i = 0; i < x.length; i++) out[i] = x[i]! - other[start + i]!;
};

/** out = sqrt(n / (n + 1)) (x − mean), and the mean of n models becomes that of n + 1. */
const takeIn = (x: Float32Array, mean: Float64Array, start: number, n: number, out: Float32Array): void => {
  const scale = Math.sqrt(n / (n + 1));
  const step = 1 / (n + 1);
  for (let i = 0; i < x.length; i++) {
    const apart = x[i]! - mean[start + i]!;
    out[i] = scale * apart;
    mean[start + i] = mean[start + i]! + step * apart;
  }
};

const fold = (device: Device, task: FoldTask): null => {
  const { strip } = task;
  const out = stripValues(new Float64Array(task.scatter), strip);
  for (const samples of sideSamples(task)) device.addScatter(samples, strip.from, strip.to, out);
  return null;
};

const multiply = (device: Device, task: MultiplyTask): null => {
  const scatter = new Float64Array(task.scatter);
  const x = new Float64Array(task.x);
  const y = new Float64Array(task.y).fill(0);
  for (const strip of task.strips)
    multiplyStrip(device.multiplyDouble, strip, stripValues(scatter, strip), x, y, task.p, task.side);
  return null;
};

const energies = (device: Device, task: EnergyTask): Float64Array => {
  const { pieces, rank, mode, rows, cols, samples } = task;
  const directions = new Float32Array(task.directions);
  const all = new Float64Array(pieces.length * rank);
  pieces.forEach(({ model, from, to }, i) => {
    const values = new Float32Array(samples, model * rows * cols * 4, rows * cols);
    const one = { ...task, models: 1 };
    device.addEnergies(
      { values, ...shapeOf(one, mode === 'rows' ? rows : cols) },
      from,
      to,
      directions,
      all.subarray(i * rank, (i + 1) * rank),
    );
  });
  return all;
};

/** All rows of all models are neighbours; columns are so within a model. */
const sideSamples = (task: SideSamples): readonly Samples[] => {
  const { mode, rows, cols, models, samples } = task;
  const values = new Float32Array(samples, 0, models * rows * cols);
  if (mode === 'rows') return [{ values, ...shapeOf(task, models * rows) }];
  return Array.from({ length: models }, (_, i) => ({
    values: values.subarray(i * rows * cols, (i + 1) * rows * cols),
    ...shapeOf(task, cols),
  }));
};

const shapeOf = ({ mode, rows, cols }: SideSamples, count: number): Omit<Samples, 'values'> =>
  mode === 'rows' ? { stand: 'rows', side: cols, count } : { stand: 'columns', side: rows, count };

let widened = new Float32Array(0);

/** Calls `use` with each model's widened weights of each tile, positions ascending within a tile; valid for the call. */
const eachRow = (
  { slot, features, staged, tiles }: StagedTiles,
  use: (tile: Tile, position: number, x: Float32Array) => void,
): void => {
  for (const tile of tilesOf(features).slice(tiles.from, tiles.to)) {
    if (widened.length < tile.width) widened = new Float32Array(tile.width);
    const x = widened.subarray(0, tile.width);
    const placed = placeRows(slot, tile, staged, 0).flatMap(({ batch, rows, at }) =>
      rows.map((row, i) => ({ batch, row, position: at[i]! })),
    );
    placed.sort((a, b) => a.position - b.position);
    for (const { batch, row, position } of placed) {
      widenRow(batch, row, 0, x);
      use(tile, position, x);
    }
  }
};
