// The embedded device: tfjs on its WebAssembly backend, for machines without a BLAS.
// Features come first in memory, in chunks of 512, so that every product is a plain matMul(a, b): on this backend the
// transposed forms are scalar loops. A chunk is also the longest sum one float32 accumulator takes. A matrix is a list of
// bands (rows that came together) and replaces tensors rather than changing them: the backend caches a packed right
// operand by tensor. Rows of a block are kept row-major too: they are the left operand of every Gram.
import { createRequire } from 'node:module';
import { dirname, sep } from 'node:path';
import * as wasm from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { widen } from '../../sources/dtype.ts';
import { DeviceUnavailable } from '../errors.ts';
import type { Device, DeviceInfo, DeviceMatrix } from './device.ts';

/** Features one float32 accumulator takes. */
export const TFJS_CHUNK = 512;

/** Rows [start, start + rows) of a matrix, chunk by chunk. */
interface Band {
  readonly start: number;
  readonly rows: number;
  /** One tensor a chunk, features x rows. */
  readonly columns: tf.Tensor2D[];
  /** The same, rows x features; made when it is first needed. */
  transposed: tf.Tensor2D[] | null;
}

export interface TfjsMatrix extends DeviceMatrix {
  readonly bands: Band[];
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

const dispose = (band: Band): void => {
  tf.dispose(band.columns);
  if (band.transposed !== null) tf.dispose(band.transposed);
};

class TfjsDevice implements Device<TfjsMatrix> {
  readonly info: DeviceInfo;

  constructor(info: DeviceInfo) {
    this.info = info;
  }

  allocate(rows: number, width: number): TfjsMatrix {
    return { rows, width, bands: [] };
  }

  free(matrix: TfjsMatrix): void {
    for (const band of matrix.bands.splice(0)) dispose(band);
  }

  reshape(matrix: TfjsMatrix, width: number): TfjsMatrix {
    if (width !== matrix.width) this.free(matrix);
    return { ...matrix, width };
  }

  write(matrix: TfjsMatrix, at: number, data: Float32Array): void {
    const rows = data.length / matrix.width;
    const transposed: tf.Tensor2D[] = [];
    const columns = chunksOf(matrix.width).map(({ from, length }) => {
      const rowMajor = new Float32Array(rows * length);
      const featureMajor = new Float32Array(rows * length);
      for (let r = 0; r < rows; r++) {
        const source = data.subarray(r * matrix.width + from, r * matrix.width + from + length);
        rowMajor.set(source, r * length);
        for (let i = 0; i < length; i++) featureMajor[i * rows + r] = source[i]!;
      }
      transposed.push(tf.tensor2d(rowMajor, [rows, length]));
      return tf.tensor2d(featureMajor, [length, rows]);
    });
    this.#place(matrix, { start: at, rows, columns, transposed });
  }

  read(matrix: TfjsMatrix, at: number, rows: number): Float32Array {
    const out = new Float32Array(rows * matrix.width);
    for (const band of bandsIn(matrix, at, rows)) {
      chunksOf(matrix.width).forEach(({ from, length }, c) => {
        const values = band.columns[c]!.dataSync();
        for (let r = Math.max(at, band.start); r < Math.min(at + rows, band.start + band.rows); r++) {
          const target = (r - at) * matrix.width + from;
          const column = r - band.start;
          for (let i = 0; i < length; i++) out[target + i] = values[i * band.rows + column]!;
        }
      });
    }
    return out;
  }

  widen(
    batch: Parameters<Device['widen']>[0],
    rows: readonly number[],
    matrix: TfjsMatrix,
    at: readonly number[],
    shift: number | null,
  ): void {
    const negated = shift === null ? null : this.read(matrix, shift, 1);
    // A batch's rows need not be neighbours in the block (dtypes may alternate): each run of neighbours is one band.
    let from = 0;
    while (from < rows.length) {
      let to = from + 1;
      while (to < rows.length && at[to] === at[to - 1]! + 1) to++;
      const data = new Float32Array((to - from) * matrix.width);
      for (let i = from; i < to; i++) {
        const out = data.subarray((i - from) * matrix.width, (i - from + 1) * matrix.width);
        widen(batch.dtype, batch.row(rows[i]!), out);
        if (negated !== null) for (let f = 0; f < out.length; f++) out[f] = out[f]! + negated[f]!;
      }
      this.write(matrix, at[from]!, data);
      from = to;
    }
  }

  gram(matrix: TfjsMatrix, aStart: number, aRows: number, bStart: number, bRows: number, out: Float64Array): void {
    out.fill(0);
    for (const b of bandsIn(matrix, bStart, bRows)) {
      b.transposed ??= b.columns.map((column) => tf.tidy(() => tf.transpose(column) as tf.Tensor2D));
      for (const a of bandsIn(matrix, aStart, aRows)) {
        for (let c = 0; c < a.columns.length; c++) {
          const product = tf.matMul(b.transposed[c]!, a.columns[c]!);
          addProduct(product.dataSync(), b, bStart, a, aStart, out, bRows);
          product.dispose();
        }
      }
    }
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
    const bands = bandsIn(matrix, aStart, n);
    const weights = bands.map((band) => {
      const block = new Float32Array(band.rows * m);
      for (let i = 0; i < band.rows; i++) {
        for (let j = 0; j < m; j++) block[i * m + j] = p[j * n + band.start - aStart + i]!;
      }
      return tf.tensor2d(block, [band.rows, m]);
    });
    const columns = chunksOf(matrix.width).map((_, c) =>
      tf.tidy(
        (): tf.Tensor2D =>
          bands
            .map((band, i): tf.Tensor2D => tf.matMul(band.columns[c]!, weights[i]!))
            .reduce((sum, product): tf.Tensor2D => tf.add(sum, product)),
      ),
    );
    tf.dispose(weights);
    this.free(out);
    // The constant rows move over; nothing reads the old matrix again.
    for (const band of matrix.bands.filter((candidate) => candidate.start + candidate.rows <= at)) {
      matrix.bands.splice(matrix.bands.indexOf(band), 1);
      out.bands.push(band);
    }
    this.#place(out, { start: at, rows: m, columns, transposed: null });
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

const bandsIn = (matrix: TfjsMatrix, start: number, rows: number): readonly Band[] =>
  matrix.bands.filter((band) => band.start < start + rows && band.start + band.rows > start);

/** out[a − aStart][b − bStart] += product[b][a]; rows of a band outside the asked range are passed over. */
const addProduct = (
  product: Float32Array | Int32Array | Uint8Array,
  b: Band,
  bStart: number,
  a: Band,
  aStart: number,
  out: Float64Array,
  bRows: number,
): void => {
  const aLimit = out.length / bRows;
  for (let j = 0; j < b.rows; j++) {
    const column = b.start - bStart + j;
    if (column < 0 || column >= bRows) continue;
    for (let i = 0; i < a.rows; i++) {
      const row = a.start - aStart + i;
      if (row >= 0 && row < aLimit) out[row * bRows + column] = out[row * bRows + column]! + product[j * a.rows + i]!;
    }
  }
};
