// The embedded device: tfjs on its WebAssembly backend, for machines without a BLAS.
// A panel is one chunk of 1,024 features, the longest sum one float32 accumulator takes, so that each product is one plain
// matMul (its transposed and batched forms are scalar loops here: 1.4 against 17 GFLOP/s). Features come first in memory,
// which makes mixing plain; a Gram transposes its left operand. Packing a right operand costs 8 ns an element and is
// remembered by tensor: rights are therefore the small ones, mixing weights and new rows, and tensors are replaced, never
// changed.
import { createRequire } from 'node:module';
import { dirname, sep } from 'node:path';
import * as wasm from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { type WeightRows, widenRow } from '../../sources/weight-rows.ts';
import { DeviceUnavailable } from '../errors.ts';
import { jsDoubleProduct } from '../linalg/dense-products.ts';
import type { Extent, PackedBlock } from '../linalg/packed-blocks.ts';
import { jsEigenSolver } from '../linalg/symmetric-eigen.ts';
import { addSquares } from './blas-device.ts';
import {
  type Device,
  type DeviceInfo,
  type DeviceMatrix,
  type PlacedRows,
  type Samples,
  spreadRows,
} from './device.ts';
import { partOf } from './sample-part.ts';

/** Features one float32 accumulator takes. */
export const TFJS_CHUNK = 1024;

/** The same where rounding is enlarged later: one accumulator's error grows with what it takes. */
const CAREFUL_CHUNK = 256;

/** Rows of a band from which on all of it is turned over by the backend, not column by column here. */
const FEW_ROWS = 8;

/** Rows [start, start + rows) of a matrix that came together. */
interface Band {
  readonly start: number;
  readonly rows: number;
  /** features x rows. */
  readonly columns: tf.Tensor2D;
  /** The same as rows x features, the left operand of Grams; null until one is taken. */
  lines: tf.Tensor2D | null;
}

export interface TfjsMatrix extends DeviceMatrix {
  readonly bands: Band[];
  /** Rows [0, at) that mixing carries over, also at hand in JavaScript: widening adds one of them. */
  constants: Float32Array;
}

const initialise = async (): Promise<void> => {
  if (tf.getBackend() === 'wasm') return;
  const folder = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'));
  wasm.setWasmPaths(folder + sep);
  if (!(await tf.setBackend('wasm'))) {
    throw new DeviceUnavailable({ device: 'tfjs', detail: 'the WebAssembly backend did not start' });
  }
};

const describe = async (): Promise<DeviceInfo> => ({
  name: 'tfjs',
  library: 'tfjs-wasm',
  version: tf.version_core,
  kernel: (await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT')) ? 'simd' : 'scalar',
  precision: 'float32',
  chunk: TFJS_CHUNK,
  panel: TFJS_CHUNK,
});

/** What `tfjsDevice` would be, without keeping it. */
export const tfjsInfo = async (): Promise<DeviceInfo> => {
  await initialise();
  return describe();
};

/**
 * Starts the backend on this thread.
 * @throws DeviceUnavailable
 */
export const tfjsDevice = async (): Promise<Device<TfjsMatrix>> => {
  await initialise();
  return new TfjsDevice(await describe());
};

const forgetLines = (band: Band): void => {
  band.lines?.dispose();
  band.lines = null;
};

const dispose = (band: Band): void => {
  band.columns.dispose();
  forgetLines(band);
};

class TfjsDevice implements Device<TfjsMatrix> {
  readonly info: DeviceInfo;
  /** The weights of the last mixing, packed: all panels of a slot use the same ones, one after the other. */
  #weights: { p: Float64Array; columns: number; parts: Map<string, tf.Tensor2D | null> } | null = null;

  /** Where rows are widened before they go up: the backend copies what it is given. */
  #scratch = new Float32Array(0);

  constructor(info: DeviceInfo) {
    this.info = info;
  }

  panelFor(_rows: number, careful: boolean): number {
    return careful ? CAREFUL_CHUNK : TFJS_CHUNK;
  }

  allocate(rows: number, width: number): TfjsMatrix {
    return { rows, width, bands: [], constants: new Float32Array(0) };
  }

  free(matrix: TfjsMatrix): void {
    for (const band of matrix.bands.splice(0)) dispose(band);
    this.#forgetWeights();
  }

  reshape(matrix: TfjsMatrix, width: number): TfjsMatrix {
    if (width !== matrix.width) this.free(matrix);
    return { ...matrix, width };
  }

  write(matrix: TfjsMatrix, at: number, data: Float32Array): void {
    if (at === 0) matrix.constants = data.slice();
    this.#upload(matrix, at, data);
  }

  read(matrix: TfjsMatrix, at: number, rows: number): Float32Array {
    const out = new Float32Array(rows * matrix.width);
    this.readInto(matrix, at, rows, out, matrix.width);
    return out;
  }

  readInto(matrix: TfjsMatrix, at: number, rows: number, out: Float32Array, stride: number): void {
    const { width } = matrix;
    for (const band of bandsIn(matrix, at, rows)) {
      const first = Math.max(at, band.start);
      const end = Math.min(at + rows, band.start + band.rows);
      if (end - first < FEW_ROWS) {
        const values = band.columns.dataSync();
        for (let r = first; r < end; r++) {
          const column = r - band.start;
          for (let i = 0; i < width; i++) out[(r - at) * stride + i] = values[i * band.rows + column]!;
        }
        continue;
      }
      const lines = tf.transpose(band.columns);
      const values = lines.dataSync() as Float32Array;
      lines.dispose();
      spreadRows(
        values.subarray((first - band.start) * width, (end - band.start) * width),
        width,
        out.subarray((first - at) * stride),
        stride,
      );
    }
  }

  widen(batches: readonly PlacedRows[], from: number, matrix: TfjsMatrix, shift: number | null): void {
    const { width } = matrix;
    const negated = shift === null ? null : this.#row(matrix, shift);
    const places = batches.flatMap(({ at }) => at);
    const first = Math.min(...places);
    const values = this.#scratchOf(places.length * width);
    for (const { batch, rows, at } of batches) {
      rows.forEach((row, i) => {
        const out = values.subarray((at[i]! - first) * width, (at[i]! - first + 1) * width);
        widenRow(batch, row, from, out);
        if (negated !== null) addTo(out, negated);
      });
    }
    this.#upload(matrix, first, values);
  }

  widenRow(rows: WeightRows, row: number, from: number, out: Float32Array): void {
    widenRow(rows, row, from, out);
  }

  gram(matrix: TfjsMatrix, aStart: number, aRows: number, bStart: number, bRows: number, out: Float64Array): void {
    const right = bandsIn(matrix, bStart, bRows);
    const left = bandsIn(matrix, aStart, aRows);
    for (const a of left) {
      a.lines ??= tf.transpose(a.columns) as tf.Tensor2D;
      for (const b of right) {
        const product = tf.matMul(a.lines, b.columns);
        addProduct(product.dataSync(), a, aStart, b, bStart, out, bRows);
        product.dispose();
      }
      forgetLines(a);
    }
  }

  gramOfAll(matrix: TfjsMatrix, rows: number, out: Float64Array): void {
    this.gram(matrix, 0, rows, 0, rows, out);
  }

  settle(): void {}

  combine(
    p: Float64Array,
    m: number,
    matrix: TfjsMatrix,
    aStart: number,
    n: number,
    out: TfjsMatrix,
    at: number,
  ): void {
    const bands = matrix.bands.filter(({ start, rows }) => start < at || (start < aStart + n && start + rows > aStart));
    const columns = this.#sumOfProducts(matrix, bands, p, at + m, (band) =>
      combinationWeights(p, m, aStart, n, band, at),
    );
    for (const band of out.bands.splice(0)) dispose(band);
    out.constants = matrix.constants.subarray(0, at * matrix.width);
    this.#place(out, { start: 0, rows: at + m, columns, lines: null });
  }

  accumulate(p: Float64Array, m: number, matrix: TfjsMatrix, at: number, n: number): void {
    const end = at + m;
    const bands = matrix.bands.filter(({ start }) => start < end + n);
    if (n === 0) {
      // Nothing is added, but products from here on sum over one band, wherever its rows came from.
      if (bands.length === 1) return;
      const columns = tf.concat2d(
        bands.map((band) => band.columns),
        1,
      );
      this.#place(matrix, { start: 0, rows: end, columns, lines: null });
      return;
    }
    const columns = this.#sumOfProducts(matrix, bands, p, end, (band) => additionWeights(p, end, n, band, at));
    this.#place(matrix, { start: 0, rows: end, columns, lines: null });
  }

  addScatter(samples: Samples, { rows, columns }: PackedBlock, out: Float64Array): void {
    this.addCross(samples, rows, samples, columns, out);
  }

  addCross(a: Samples, rows: Extent, b: Samples, columns: Extent, out: Float64Array): void {
    for (const [start, length] of chunksOf(0, a.count)) {
      const product = tf.tidy(() => {
        // One of the two operands is turned over: a transposed matMul is a scalar loop here.
        const part = ({ values, stride, stand }: Samples, { from, to }: Extent): tf.Tensor2D =>
          stand === 'rows'
            ? tf.tensor2d(partOf(values, stride, start, length, from, to - from), [length, to - from])
            : tf.tensor2d(partOf(values, stride, from, to - from, start, length), [to - from, length]);
        return a.stand === 'rows'
          ? tf.matMul(tf.transpose(part(a, rows)), part(b, columns))
          : tf.matMul(part(a, rows), tf.transpose(part(b, columns)));
      });
      const cells = product.dataSync();
      for (let i = 0; i < cells.length; i++) out[i] = out[i]! + cells[i]!;
      product.dispose();
    }
  }

  addEnergies(
    { values, stride, stand, side }: Samples,
    from: number,
    to: number,
    directions: Float32Array,
    energies: Float64Array,
  ): void {
    const k = energies.length;
    for (const [start, length] of chunksOf(from, to)) {
      const inner = tf.tidy(() => {
        const v = tf.tensor2d(directions, [k, side]);
        if (stand === 'rows') {
          const x = tf.tensor2d(partOf(values, stride, start, length, 0, side), [length, side]);
          return tf.matMul(v, tf.transpose(x));
        }
        return tf.matMul(v, tf.tensor2d(partOf(values, stride, 0, side, start, length), [side, length]));
      });
      addSquares(inner.dataSync(), k, length, energies);
      inner.dispose();
    }
  }

  readonly multiplyDouble = jsDoubleProduct;

  readonly solve = jsEigenSolver;

  async close(): Promise<void> {}

  /** Σ over bands of band · weights, features x `columns`; a band without weights, the first one, is taken as it is. */
  #sumOfProducts(
    matrix: TfjsMatrix,
    bands: readonly Band[],
    p: Float64Array,
    columns: number,
    weightsOf: (band: Band) => Float32Array | null,
  ): tf.Tensor2D {
    let sum: tf.Tensor2D | null = null;
    for (const band of bands) {
      const weights = this.#packed(p, band, columns, weightsOf);
      const product: tf.Tensor2D = weights === null ? tf.clone(band.columns) : tf.matMul(band.columns, weights);
      if (sum === null) sum = product;
      else {
        const both: tf.Tensor2D = tf.add(sum, product);
        tf.dispose([sum, product]);
        sum = both;
      }
    }
    if (sum === null) throw new RangeError(`no rows of a matrix of width ${matrix.width} to mix`);
    return sum;
  }

  /** What multiplies one band in a mixing, band rows x `columns`: made once for all panels of a slot. */
  #packed(
    p: Float64Array,
    band: Band,
    columns: number,
    weightsOf: (band: Band) => Float32Array | null,
  ): tf.Tensor2D | null {
    if (this.#weights?.p !== p || this.#weights.columns !== columns) {
      this.#forgetWeights();
      this.#weights = { p, columns, parts: new Map() };
    }
    const { parts } = this.#weights;
    const key = `${band.start} ${band.rows}`;
    const known = parts.get(key);
    if (known !== undefined) return known;
    const weights = weightsOf(band);
    const part = weights === null ? null : tf.tensor2d(weights, [band.rows, columns]);
    parts.set(key, part);
    return part;
  }

  #forgetWeights(): void {
    for (const part of this.#weights?.parts.values() ?? []) part?.dispose();
    this.#weights = null;
  }

  #scratchOf(length: number): Float32Array {
    if (this.#scratch.length < length) this.#scratch = new Float32Array(length);
    return this.#scratch.subarray(0, length);
  }

  /** One row that stands still between uploads, such as the shift. */
  #row(matrix: TfjsMatrix, at: number): Float32Array {
    const { constants, width } = matrix;
    return (at + 1) * width <= constants.length
      ? constants.subarray(at * width, (at + 1) * width)
      : this.read(matrix, at, 1);
  }

  /** Puts rows [start, …) of row-major values on the device as one band. */
  #upload(matrix: TfjsMatrix, start: number, values: Float32Array): void {
    const rows = values.length / matrix.width;
    const lines = tf.tensor2d(values, [rows, matrix.width]);
    this.#place(matrix, { start, rows, columns: tf.transpose(lines) as tf.Tensor2D, lines });
  }

  /** Puts a band where it belongs; bands that it overlaps are gone. */
  #place(matrix: TfjsMatrix, band: Band): void {
    const end = band.start + band.rows;
    for (const old of [...matrix.bands]) {
      if (old.start >= end || old.start + old.rows <= band.start) continue;
      dispose(old);
      matrix.bands.splice(matrix.bands.indexOf(old), 1);
    }
    matrix.bands.push(band);
    matrix.bands.sort((a, b) => a.start - b.start);
  }
}

/** Rows of the result: those below `at` are carried over, then P (m x n) times rows [aStart, aStart + n). */
const combinationWeights = (
  p: Float64Array,
  m: number,
  aStart: number,
  n: number,
  band: Band,
  at: number,
): Float32Array => {
  const columns = at + m;
  const weights = new Float32Array(band.rows * columns);
  for (let i = 0; i < band.rows; i++) {
    const row = band.start + i;
    if (row < at) weights[i * columns + row] = 1;
    const mixed = row - aStart;
    if (mixed >= 0 && mixed < n) for (let j = 0; j < m; j++) weights[i * columns + at + j] = p[j * n + mixed]!;
  }
  return weights;
};

/** Rows below `end` stay, and those from `at` take P times the n rows from `end`; null where a band is all that stays. */
const additionWeights = (p: Float64Array, end: number, n: number, band: Band, at: number): Float32Array | null => {
  if (band.start === 0 && band.rows === end) return null;
  const weights = new Float32Array(band.rows * end);
  for (let i = 0; i < band.rows; i++) {
    const row = band.start + i;
    const added = row - end;
    if (added < 0) weights[i * end + row] = 1;
    else if (added < n) for (let j = at; j < end; j++) weights[i * end + j] = p[(j - at) * n + added]!;
  }
  return weights;
};

/** [start, length] of the chunks of a range. */
const chunksOf = (from: number, to: number): readonly (readonly [number, number])[] =>
  Array.from({ length: Math.ceil((to - from) / TFJS_CHUNK) }, (_, i) => {
    const start = from + i * TFJS_CHUNK;
    return [start, Math.min(TFJS_CHUNK, to - start)];
  });

const addTo = (row: Float32Array, other: Float32Array): void => {
  for (let i = 0; i < row.length; i++) row[i] = row[i]! + other[i]!;
};

const bandsIn = (matrix: TfjsMatrix, start: number, rows: number): readonly Band[] =>
  matrix.bands.filter((band) => band.start < start + rows && band.start + band.rows > start);

/** out[a − aStart][b − bStart] += product[a][b]; rows of a band outside the asked range are passed over. */
const addProduct = (
  product: Float32Array | Int32Array | Uint8Array,
  a: Band,
  aStart: number,
  b: Band,
  bStart: number,
  out: Float64Array,
  bRows: number,
): void => {
  const aRows = out.length / bRows;
  for (let i = 0; i < a.rows; i++) {
    const row = a.start - aStart + i;
    if (row < 0 || row >= aRows) continue;
    for (let j = 0; j < b.rows; j++) {
      const column = b.start - bStart + j;
      if (column >= 0 && column < bRows)
        out[row * bRows + column] = out[row * bRows + column]! + product[i * b.rows + j]!;
    }
  }
};
