// One thread's work for the modes rows and cols; what the tasks mean stands in scatter-tasks.ts.
import { firstBadWeight, hasBadWeight } from '../sources/bad-weight.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { storedRow, type WeightRows } from '../sources/weight-rows.ts';
import type { Device, Samples } from './devices/device.ts';
import { performFactorTask } from './factor-work.ts';
import { follow, turn } from './follow-work.ts';
import { blockValues, multiplyBlock } from './linalg/packed-blocks.ts';
import { placeRows, placesOf } from './placed-rows.ts';
import type {
  CoreTask,
  EnergyTask,
  FoldTask,
  MultiplyTask,
  OriginTask,
  Sampled,
  SampleShape,
  SampleTask,
  ScatterAnswers,
  ScatterTask,
  SideSamples,
  StagedTiles,
  SurveyTask,
} from './scatter-tasks.ts';
import type { BadValue } from './tile-tasks.ts';

export const performScatterTask = (device: Device, task: ScatterTask): ScatterAnswers[ScatterTask['kind']] => {
  switch (task.kind) {
    case 'survey':
      return survey(device, task);
    case 'origin':
      return widenOrigin(device, task);
    case 'sample':
      return sample(device, task);
    case 'fold':
      return fold(device, task);
    case 'follow':
      return follow(device, task);
    case 'turn':
      return turn(device, task);
    case 'multiply':
      return multiply(device, task);
    case 'energy':
      return energies(device, task);
    case 'core':
      return core(device, task);
    default:
      return performFactorTask(device, task);
  }
};

const survey = (device: Device, task: SurveyTask): readonly BadValue[] => {
  const bad = new Map<number, BadValue>();
  eachStored(task, (tile, _position, batch, row) => {
    const model = batch.models[row]!;
    // Factors were looked at when they were staged, and their product is bounded.
    if (batch.kind === 'factored' || bad.has(model) || !hasBadWeight(batch.dtype, storedRow(batch, row))) return;
    const x = new Float32Array(tile.width);
    device.widenRow(batch, row, 0, x);
    // A float64 just beyond the limit may be rounded back to it.
    const index = firstBadWeight(x);
    if (index >= 0) bad.set(model, { model, index: tile.start + index, value: x[index]! });
  });
  return [...bad.values()];
};

const widenOrigin = (device: Device, task: OriginTask): null => {
  const origin = new Float32Array(task.origin);
  eachRow(device, task, (tile, _position, x) => origin.set(x, tile.start));
  return null;
};

const sample = (device: Device, task: SampleTask): Sampled => {
  const { from, to, about, seen, shape } = task;
  const mean = task.mean === null ? null : new Float64Array(task.mean);
  const origin = task.origin === null ? null : new Float32Array(task.origin);
  const samples = new Float32Array(task.samples);
  const norms2 = new Float64Array(to - from);
  const sums = new Float64Array(to - from);
  eachRow(device, task, (tile, position, x) => {
    if (position < from || position >= to) return;
    const i = position - from;
    if (about === 'running') {
      const own =
        origin === null ? sumOfSquares(x) : squaredDistance(x, origin.subarray(tile.start, tile.start + x.length));
      norms2[i] = norms2[i]! + own;
      sums[i] = sums[i]! + sumOf(x);
    }
    eachPiece(shape, tile, (start, stop, at) => {
      const values = x.subarray(start - tile.start, stop - tile.start);
      const out = samples.subarray(i * lengthOf(shape) + at, i * lengthOf(shape) + at + values.length);
      if (mean !== null && about === 'running') takeIn(values, mean.subarray(start, stop), seen + i, out);
      else if (mean !== null) subtractMean(values, mean.subarray(start, stop), out);
      else if (origin !== null) subtractOrigin(values, origin.subarray(start, stop), out);
      else out.set(values);
      if (about === 'fixed') norms2[i] = norms2[i]! + sumOfSquares(out);
    });
  });
  return { norms2, sums };
};

/** Floats from one model's samples to the next's. */
const lengthOf = ({ rows, stride }: SampleShape): number => rows * stride;

/** The parts of a tile that are neighbours in memory: all of it, or what belongs to one row. */
const eachPiece = (
  { cols, stride }: SampleShape,
  { start, width }: Tile,
  use: (start: number, stop: number, at: number) => void,
): void => {
  if (stride === cols) {
    use(start, start + width, start);
    return;
  }
  for (let from = start; from < start + width; ) {
    const row = Math.floor(from / cols);
    const stop = Math.min((row + 1) * cols, start + width);
    use(from, stop, row * stride + from - row * cols);
    from = stop;
  }
};

// One function a kind of array: one for both would be compiled for neither.
const subtractMean = (x: Float32Array, mean: Float64Array, out: Float32Array): void => {
  for (let i = 0; i < x.length; i++) out[i] = x[i]! - mean[i]!;
};

const subtractOrigin = (x: Float32Array, origin: Float32Array, out: Float32Array): void => {
  for (let i = 0; i < x.length; i++) out[i] = x[i]! - origin[i]!;
};

/** out = sqrt(n / (n + 1)) (x − mean), and the mean of n models becomes that of n + 1. */
const takeIn = (x: Float32Array, mean: Float64Array, n: number, out: Float32Array): void => {
  const scale = Math.sqrt(n / (n + 1));
  const step = 1 / (n + 1);
  for (let i = 0; i < x.length; i++) {
    const before = mean[i]!;
    const apart = x[i]! - before;
    out[i] = scale * apart;
    mean[i] = before + step * apart;
  }
};

/** Four sums at a time: one alone would wait for every addition. */
const sumOfSquares = (x: Float32Array): number => {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = 0;
  for (; i + 4 <= x.length; i += 4) {
    a += x[i]! * x[i]!;
    b += x[i + 1]! * x[i + 1]!;
    c += x[i + 2]! * x[i + 2]!;
    d += x[i + 3]! * x[i + 3]!;
  }
  for (; i < x.length; i++) a += x[i]! * x[i]!;
  return a + b + (c + d);
};

const squaredDistance = (x: Float32Array, other: Float32Array): number => {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += (x[i]! - other[i]!) ** 2;
  return sum;
};

const sumOf = (x: Float32Array): number => {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = 0;
  for (; i + 4 <= x.length; i += 4) {
    a += x[i]!;
    b += x[i + 1]!;
    c += x[i + 2]!;
    d += x[i + 3]!;
  }
  for (; i < x.length; i++) a += x[i]!;
  return a + b + (c + d);
};

const fold = (device: Device, task: FoldTask): null => {
  const packed = new Float64Array(task.scatter);
  const parts = task.blocks.map((block) => ({ block, out: blockValues(packed, block) }));
  for (const samples of sideSamples(task)) {
    if (device.addScatterBlocks !== undefined) device.addScatterBlocks(samples, parts);
    else for (const { block, out } of parts) device.addScatter(samples, block, out);
  }
  return null;
};

const multiply = (device: Device, { scatter, x, y, blocks, p, side }: MultiplyTask): null => {
  const packed = new Float64Array(scatter);
  const [from, to] = [new Float64Array(x), new Float64Array(y).fill(0)];
  for (const block of blocks)
    multiplyBlock(device.multiplyDouble, block, blockValues(packed, block), from, to, p, side);
  return null;
};

const energies = (device: Device, task: EnergyTask): Float64Array => {
  const { pieces, rank } = task;
  const directions = new Float32Array(task.directions);
  const all = new Float64Array(pieces.length * rank);
  pieces.forEach(({ model, from, to }, i) => {
    device.addEnergies(samplesOfModel(task, model), from, to, directions, all.subarray(i * rank, (i + 1) * rank));
  });
  return all;
};

const core = (device: Device, { shape, samples, pieces, rows, cols }: CoreTask): Float64Array => {
  const { cols: width, stride } = shape;
  const alike = { stand: 'columns', count: width } as const;
  const right: Samples = { values: new Float32Array(rows.values), stride: width, side: rows.rank, ...alike };
  const left = new Float32Array(cols.values);
  const length = rows.rank * cols.rank;
  const all = new Float64Array(pieces.length * length);
  pieces.forEach(({ model, from, to }, i) => {
    const m = to - from;
    const at = model * lengthOf(shape) + from * stride;
    const weights: Samples = { values: new Float32Array(samples, at * 4, m * stride), stride, side: m, ...alike };
    const along = new Float64Array(rows.rank * m);
    device.addCross(right, { from: 0, to: rows.rank }, weights, { from: 0, to: m }, along);
    const turn = new Float64Array(cols.rank * m);
    for (let c = 0; c < cols.rank; c++) turn.set(left.subarray(c * shape.rows + from, c * shape.rows + to), c * m);
    const out = all.subarray(i * length, (i + 1) * length);
    device.multiplyDouble(
      { a: false, b: true },
      { m: rows.rank, n: cols.rank, k: m },
      along,
      m,
      turn,
      m,
      out,
      cols.rank,
    );
  });
  return all;
};

/** All rows of all models are neighbours; columns are so within a model. */
const sideSamples = (task: SideSamples): readonly Samples[] => {
  const { mode, shape, models, samples } = task;
  if (mode === 'cols') return Array.from({ length: models }, (_, i) => samplesOfModel(task, i));
  const { rows, cols, stride } = shape;
  const values = new Float32Array(samples, 0, models * lengthOf(shape));
  return [{ values, stride, stand: 'rows', side: cols, count: models * rows }];
};

const samplesOfModel = ({ mode, shape, samples }: SideSamples, model: number): Samples => {
  const { rows, cols, stride } = shape;
  const values = new Float32Array(samples, model * lengthOf(shape) * 4, lengthOf(shape));
  return mode === 'rows'
    ? { values, stride, stand: 'rows', side: cols, count: rows }
    : { values, stride, stand: 'columns', side: rows, count: cols };
};

let widened = new Float32Array(0);

/** Calls `use` with each model's widened weights of each tile, positions ascending within a tile; valid for the call. */
const eachRow = (
  device: Device,
  task: StagedTiles,
  use: (tile: Tile, position: number, x: Float32Array) => void,
): void =>
  eachStored(task, (tile, position, batch, row) => {
    if (widened.length < tile.width) widened = new Float32Array(tile.width);
    const x = widened.subarray(0, tile.width);
    device.widenRow(batch, row, 0, x);
    use(tile, position, x);
  });

const eachStored = (
  { slot, features, staged, tiles }: StagedTiles,
  use: (tile: Tile, position: number, batch: WeightRows, row: number) => void,
): void => {
  const places = placesOf(staged, 0);
  for (const tile of tilesOf(features).slice(tiles.from, tiles.to)) {
    const placed = placeRows(slot, tile, staged, places, notRead).flatMap(({ batch, rows, at }) =>
      rows.map((row, i) => ({ batch, row, position: at[i]! })),
    );
    placed.sort((a, b) => a.position - b.position);
    for (const { batch, row, position } of placed) use(tile, position, batch, row);
  }
};

/** The modes rows and cols look at the same weights several times: they are read into memory first. */
const notRead = (): never => {
  throw new Error('weights of the modes rows and cols were left in their files');
};
