// The embedded device: tfjs on its WebAssembly backend, for machines without a BLAS.
// Features come first in memory, so that mixing is one plain matMul a tile; Grams take chunks of 512 features, the longest
// sum one float32 accumulator takes, as rows x features times features x rows. The transposed forms of matMul are scalar
// loops on this backend (1.4 against 17 GFLOP/s) and slicing a tile takes 2 ms, so chunks are cut in JavaScript. Tensors
// are replaced, never changed: the backend caches a packed right operand by tensor.
import { createRequire } from 'node:module';
import { dirname, sep } from 'node:path';
import * as wasm from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { bytesPerElement, widen } from '../../sources/dtype.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';
import { DeviceUnavailable } from '../errors.ts';
import type { Device, DeviceInfo, DeviceMatrix } from './device.ts';

/** Features one float32 accumulator takes. */
export const TFJS_CHUNK = 512;

/** Rows [start, start + rows) of a matrix that came together. */
interface Band {
  readonly start: number;
  readonly rows: number;
  /** features x rows. */
  readonly columns: tf.Tensor2D;
  /** For Grams, one tensor a chunk: rows x features (left operands) and features x rows (right ones). */
  left: tf.Tensor2D[] | null;
  right: tf.Tensor2D[] | null;
}

/** Bands of at most this many rows keep their chunks: the constant rows, which every Gram needs again. */
const SMALL_BAND = 2;

export interface TfjsMatrix extends DeviceMatrix {
  readonly bands: Band[];
  /** Rows that were widened and not uploaded yet: neighbours go up together, as one band. */
  readonly waiting: Map<number, Float32Array>;
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
  panel: TILE_WIDTH,
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

const chunksOf = (width: number): readonly { readonly from: number; readonly length: number }[] =>
  Array.from({ length: Math.ceil(width / TFJS_CHUNK) }, (_, i) => ({
    from: i * TFJS_CHUNK,
    length: Math.min(TFJS_CHUNK, width - i * TFJS_CHUNK),
  }));

const forgetChunks = (band: Band): void => {
  tf.dispose([...(band.left ?? []), ...(band.right ?? [])]);
  band.left = band.right = null;
};

const dispose = (band: Band): void => {
  band.columns.dispose();
  forgetChunks(band);
};

/** Cuts a band into chunks of features x rows. */
const cut = (band: Band): tf.Tensor2D[] => {
  const values = band.columns.dataSync() as Float32Array;
  return chunksOf(band.columns.shape[0]).map(({ from, length }) =>
    tf.tensor2d(values.subarray(from * band.rows, (from + length) * band.rows), [length, band.rows]),
  );
};

const leftChunks = (band: Band): tf.Tensor2D[] => {
  if (band.left === null) {
    const chunks = band.right ?? cut(band);
    band.left = chunks.map((chunk) => tf.transpose(chunk) as tf.Tensor2D);
    if (band.right === null) tf.dispose(chunks);
  }
  return band.left;
};

const rightChunks = (band: Band): tf.Tensor2D[] => {
  band.right ??= cut(band);
  return band.right;
};

class TfjsDevice implements Device<TfjsMatrix> {
  readonly info: DeviceInfo;

  constructor(info: DeviceInfo) {
    this.info = info;
  }

  allocate(rows: number, width: number): TfjsMatrix {
    return { rows, width, bands: [], waiting: new Map() };
  }

  free(matrix: TfjsMatrix): void {
    matrix.waiting.clear();
    for (const band of matrix.bands.splice(0)) dispose(band);
  }

  reshape(matrix: TfjsMatrix, width: number): TfjsMatrix {
    if (width !== matrix.width) this.free(matrix);
    return { ...matrix, width };
  }

  write(matrix: TfjsMatrix, at: number, data: Float32Array): void {
    const { width } = matrix;
    const rows = Array.from({ length: data.length / width }, (_, r) => data.subarray(r * width, (r + 1) * width));
    this.#upload(matrix, at, rows);
  }

  read(matrix: TfjsMatrix, at: number, rows: number): Float32Array {
    this.#flush(matrix);
    const out = new Float32Array(rows * matrix.width);
    for (const band of bandsIn(matrix, at, rows)) {
      const values = band.columns.dataSync();
      for (let r = Math.max(at, band.start); r < Math.min(at + rows, band.start + band.rows); r++) {
        const target = (r - at) * matrix.width;
        const column = r - band.start;
        for (let i = 0; i < matrix.width; i++) out[target + i] = values[i * band.rows + column]!;
      }
    }
    return out;
  }

  widen(
    batch: Parameters<Device['widen']>[0],
    rows: readonly number[],
    from: number,
    matrix: TfjsMatrix,
    at: readonly number[],
    shift: number | null,
  ): void {
    const negated = shift === null ? null : this.#row(matrix, shift);
    const size = bytesPerElement(batch.dtype);
    rows.forEach((row, i) => {
      const out = new Float32Array(matrix.width);
      widen(batch.dtype, batch.row(row).subarray(from * size, (from + matrix.width) * size), out);
      if (negated !== null) for (let f = 0; f < out.length; f++) out[f] = out[f]! + negated[f]!;
      matrix.waiting.set(at[i]!, out);
    });
  }

  gram(matrix: TfjsMatrix, aStart: number, aRows: number, bStart: number, bRows: number, out: Float64Array): void {
    this.#flush(matrix);
    const right = bandsIn(matrix, bStart, bRows);
    const left = bandsIn(matrix, aStart, aRows);
    for (const b of right) {
      for (const a of left) {
        const rightTensors = rightChunks(b);
        leftChunks(a).forEach((chunk, c) => {
          const product = tf.matMul(chunk, rightTensors[c]!);
          addProduct(product.dataSync(), a, aStart, b, bStart, out, bRows);
          product.dispose();
        });
      }
    }
    for (const band of [...left, ...right]) if (band.rows > SMALL_BAND) forgetChunks(band);
  }

  combine(
    p: Float64Array,
    m: number,
    matrix: TfjsMatrix,
    aStart: number,
    n: number,
    out: TfjsMatrix,
    at: number,
  ): void {
    this.#flush(matrix);
    const bands = bandsIn(matrix, aStart, n);
    const columns = tf.tidy(
      (): tf.Tensor2D =>
        bands
          .map((band): tf.Tensor2D => tf.matMul(band.columns, mixOf(p, m, n, band, aStart)))
          .reduce((sum, product): tf.Tensor2D => tf.add(sum, product)),
    );
    this.free(out);
    // The constant rows move over; nothing reads the old matrix again.
    for (const band of matrix.bands.filter((candidate) => candidate.start + candidate.rows <= at)) {
      matrix.bands.splice(matrix.bands.indexOf(band), 1);
      out.bands.push(band);
    }
    this.#place(out, { start: at, rows: m, columns, left: null, right: null });
  }

  /** One row that stands still between uploads, such as the shift. */
  #row(matrix: TfjsMatrix, at: number): Float32Array {
    return matrix.waiting.get(at) ?? this.read(matrix, at, 1);
  }

  /** Uploads the widened rows, neighbours as one band. */
  #flush(matrix: TfjsMatrix): void {
    const waiting = [...matrix.waiting].sort((a, b) => a[0] - b[0]);
    matrix.waiting.clear();
    let from = 0;
    while (from < waiting.length) {
      let to = from + 1;
      while (to < waiting.length && waiting[to]![0] === waiting[to - 1]![0] + 1) to++;
      this.#upload(
        matrix,
        waiting[from]![0],
        waiting.slice(from, to).map(([, row]) => row),
      );
      from = to;
    }
  }

  #upload(matrix: TfjsMatrix, start: number, rows: readonly Float32Array[]): void {
    const columns = new Float32Array(rows.length * matrix.width);
    rows.forEach((row, r) => {
      for (let i = 0, o = r; i < matrix.width; i++, o += rows.length) columns[o] = row[i]!;
    });
    this.#place(matrix, {
      start,
      rows: rows.length,
      columns: tf.tensor2d(columns, [matrix.width, rows.length]),
      left: null,
      right: null,
    });
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

/** The part of a mixing matrix that multiplies one band: rows x m. */
const mixOf = (p: Float64Array, m: number, n: number, band: Band, aStart: number): tf.Tensor2D => {
  const weights = new Float32Array(band.rows * m);
  for (let i = 0; i < band.rows; i++) {
    const row = band.start - aStart + i;
    if (row >= 0 && row < n) for (let j = 0; j < m; j++) weights[i * m + j] = p[j * n + row]!;
  }
  return tf.tensor2d(weights, [band.rows, m]);
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
