// The blas device: rows of float32 in memory, multiplied by a system BLAS on the calling thread.
// A chunk is 2,048 features: the longest sum one float32 accumulator takes before float64 takes over (costs nothing:
// 94 against 96 GFLOP/s). A panel is one chunk, so that what a block owes it is done while it is in the second-level
// cache. Row strides are never powers of two, which would put all rows of a column into the same few cache lines.
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import { addressOf } from '../../sources/c-library.ts';
import { eachRectangle } from '../../sources/decode-delta.ts';
import { type WeightRows, widenRow } from '../../sources/weight-rows.ts';
import { type Extent, isDiagonal } from '../linalg/packed-blocks.ts';
import { jsEigenSolver } from '../linalg/symmetric-eigen.ts';
import { areNeighbours, extentOf } from '../row-lists.ts';
import type { BlasLibrary } from './blas-library.ts';
import type { Device, DeviceMatrix, PlacedRows, Samples } from './device.ts';
import { isOwnPieced, isPieced, multipliesSmall, multiplyOwnRows, multiplyRows } from './small-products.ts';

/** Features one float32 accumulator takes. */
export const BLAS_CHUNK = 2048;

/**
 * Samples one float32 accumulator takes in a scatter matrix. The library itself sums a few hundred at a time, and adding to
 * the float64 matrix costs 3 ns a number: the trace of 200,000 samples was right to 1e-8 at 2,048, 4,096 and 8,192 alike.
 */
const SCATTER_CHUNK = 8192;

/** Numbers made float64 at once on their way into a sum: a quarter of a megabyte, which stays in the second-level cache. */
const WIDENED_AT_ONCE = 2 ** 15;

/** Floats from one row to the next: whole cache lines, and never a multiple of 1,024. */
export const rowStride = (width: number): number => {
  const padded = Math.ceil(width / 16) * 16;
  return padded % 1024 === 0 ? padded + 16 : padded;
};

/** Floats of a matrix. */
export const blasFloats = (rows: number, width: number): number => rows * rowStride(width);

export interface BlasMatrix extends DeviceMatrix {
  readonly stride: number;
  readonly data: Float32Array;
}

/** Where matrices get their memory. */
export interface FloatAllocator {
  /** Zeroed or uninitialised floats. */
  allocate(floats: number): Float32Array;
  /** Gives one part back. */
  release(): void;
}

const plainMemory: FloatAllocator = { allocate: (floats) => new Float32Array(floats), release: () => {} };

export const blasDevice = (blas: BlasLibrary, memory: FloatAllocator = plainMemory): Device<BlasMatrix> => {
  const inPieces = multipliesSmall(blas);
  let scratch = new Float32Array(0);
  // Mixing weights serve all panels of a tile, and of a slot: made float32 for each of them they would be most of the garbage.
  const mixing: { of: Float64Array | null; values: Float32Array } = { of: null, values: new Float32Array(0) };
  const weightsOf = (p: Float64Array): Float32Array => {
    if (mixing.of === p) return mixing.values;
    if (mixing.values.length < p.length) mixing.values = new Float32Array(p.length);
    mixing.values.set(p);
    mixing.of = p;
    return mixing.values;
  };
  const widened = new Float64Array(WIDENED_AT_ONCE);
  /**
   * out += the first numbers of `scratch`. Not by a loop: it would be compiled just when it is needed most, and is slower than this
   * even where half of the numbers serve nobody.
   */
  const addScratch = (out: Float64Array): void => {
    for (let at = 0; at < out.length; at += WIDENED_AT_ONCE) {
      const some = Math.min(WIDENED_AT_ONCE, out.length - at);
      widened.set(scratch.subarray(at, at + some));
      blas.addDouble(some, widened, out.subarray(at));
    }
  };
  // Reads give the same memory again and again: fresh arrays would lie about, tens of MB a thread, until they are collected.
  let readings = new Float32Array(0);
  const matrixOf = (data: Float32Array, rows: number, width: number): BlasMatrix => ({
    rows,
    width,
    stride: rowStride(width),
    data,
  });
  const addCross: Device['addCross'] = (a, rows, b, columns, out) => {
    const [m, n] = [rows.to - rows.from, columns.to - columns.from];
    const multiply = a.stand === 'rows' ? blas.multiplyLeftTransposed : blas.multiplyTransposed;
    if (scratch.length < m * n) scratch = new Float32Array(m * n);
    for (let at = 0; at < a.count; at += SCATTER_CHUNK) {
      const chunk = Math.min(SCATTER_CHUNK, a.count - at);
      multiply(m, n, chunk, entriesFrom(a, rows, at), a.stride, entriesFrom(b, columns, at), b.stride, scratch, n);
      addScratch(out.subarray(0, m * n));
    }
  };
  const widenOne = (rows: WeightRows, row: number, from: number, out: Float32Array): void => {
    if (rows.kind === 'factored') decodeWith(blas, rows.factors[row]!, rows.start + from, out);
    else widenRow(rows, row, from, out);
  };
  const readInto: Device<BlasMatrix>['readInto'] = ({ data, stride, width }, at, rows, out, outStride) => {
    if (blas.copyRows !== null) blas.copyRows(rows, width, data.subarray(at * stride), stride, out, outStride);
    else
      for (let i = 0; i < rows; i++)
        out.set(data.subarray((at + i) * stride, (at + i) * stride + width), i * outStride);
  };
  const widenBatch = (placed: PlacedRows, from: number, matrix: BlasMatrix): void => {
    const { batch, rows, at } = placed;
    const { data, stride, width } = matrix;
    const isFloat32 = blas.copyRows !== null && batch.kind === 'stored' && batch.dtype === 'F32';
    if (isFloat32 && areNeighbours(rows) && areNeighbours(at)) {
      const values = new Float32Array(batch.bytes.buffer, batch.bytes.byteOffset, batch.bytes.byteLength / 4);
      const between = batch.stride / 4;
      const source = values.subarray(rows[0]! * between + from);
      const target = data.subarray(at[0]! * stride);
      const isThere = between === stride && source.buffer === target.buffer && source.byteOffset === target.byteOffset;
      if (!isThere) blas.copyRows!(rows.length, width, source, between, target, stride);
    } else widenEach(placed, from, matrix);
  };
  const widenEach = ({ batch, rows, at }: PlacedRows, from: number, { data, stride, width }: BlasMatrix): void =>
    rows.forEach((row, i) => {
      widenOne(batch, row, from, data.subarray(at[i]! * stride, at[i]! * stride + width));
    });
  return {
    info: {
      name: 'blas',
      library: blas.library,
      version: blas.version,
      kernel: blas.kernel,
      precision: 'float32',
      chunk: BLAS_CHUNK,
      panel: BLAS_CHUNK,
    },
    panelFor: () => BLAS_CHUNK,
    allocate: (rows, width) => matrixOf(memory.allocate(blasFloats(rows, width)), rows, width),
    free: () => memory.release(),
    matrixAt: matrixOf,
    inPlace: {
      window: ({ rows, stride, data }, start, width) => ({ rows, width, stride, data: data.subarray(start) }),
      rowsAt: ({ data, stride, width }, at, rows) => ({
        bytes: new Uint8Array(data.buffer, data.byteOffset + at * stride * 4, ((rows - 1) * stride + width) * 4),
        stride: stride * 4,
      }),
    },
    reshape: (matrix, width) => matrixOf(matrix.data, matrix.rows, width),
    write: ({ data, stride, width }, at, values) => {
      for (let i = 0; i * width < values.length; i++)
        data.set(values.subarray(i * width, (i + 1) * width), (at + i) * stride);
    },
    read: (matrix, at, rows) => {
      const { data, stride, width } = matrix;
      if (rows === 1) return data.subarray(at * stride, at * stride + width);
      if (readings.length < rows * width) readings = new Float32Array(rows * width);
      const out = readings.subarray(0, rows * width);
      readInto(matrix, at, rows, out, width);
      return out;
    },
    readInto,
    peaks: ({ data, stride, width }, at, rows) => {
      const values = new Float32Array(rows);
      for (let i = 0; i < rows; i++) {
        const row = data.subarray((at + i) * stride, (at + i) * stride + width);
        values[i] = row[blas.indexOfLargest(width, row)]!;
      }
      return values;
    },
    widen: (batches, from, matrix, shift) => {
      for (const placed of batches) widenBatch(placed, from, matrix);
      if (shift === null) return;
      const { data, stride, width } = matrix;
      let [first, end] = [Number.POSITIVE_INFINITY, 0];
      for (const { at } of batches) {
        const extent = extentOf(at);
        first = Math.min(first, extent.first);
        end = Math.max(end, extent.end);
      }
      if (end > first)
        blas.addToRows(end - first, width, data.subarray(shift * stride), data.subarray(first * stride), stride);
    },
    widenRow: widenOne,
    gram: ({ data, stride, width }, aStart, aRows, bStart, bRows, out) => {
      const cells = aRows * bRows;
      if (scratch.length < cells) scratch = new Float32Array(cells);
      if (inPieces && isPieced(aRows, bRows)) {
        const at = addressOf(data);
        const [a, b] = [at + aStart * stride * 4, at + bStart * stride * 4];
        const shape = { m: aRows, n: bRows, k: width, lda: stride, ldb: stride, ldc: bRows };
        multiplyRows(blas.multiplyAt, shape, a, b, addressOf(scratch));
      } else {
        const a = data.subarray(aStart * stride);
        const b = data.subarray(bStart * stride);
        blas.multiplyTransposed(aRows, bRows, width, a, stride, b, stride, scratch, bRows);
      }
      addScratch(out.subarray(0, cells));
    },
    gramOfAll: ({ data, stride, width }, rows, out) => {
      if (scratch.length < rows * rows) scratch = new Float32Array(rows * rows);
      if (inPieces && isOwnPieced(rows))
        multiplyOwnRows(
          blas.multiplyAt,
          { n: rows, k: width, lda: stride, ldc: rows },
          addressOf(data),
          addressOf(scratch),
        );
      else blas.multiplyByOwnTranspose(rows, width, data, stride, scratch, rows);
      addScratch(out.subarray(0, rows * rows));
    },
    settle: () => {},
    combine: (p, m, { data, stride, width }, aStart, n, out, at) => {
      readInto({ data, stride, width, rows: at }, 0, at, out.data, out.stride);
      const a = data.subarray(aStart * stride);
      blas.multiply(m, width, n, weightsOf(p), n, a, stride, out.data.subarray(at * out.stride), out.stride);
    },
    swapRows: ({ data, stride, width }, a, b) => {
      blas.swap(width, data.subarray(a * stride), data.subarray(b * stride));
    },
    accumulate: (p, m, { data, stride, width }, at, n) => {
      if (n === 0) return;
      const a = data.subarray((at + m) * stride);
      blas.multiplyOnto(m, width, n, weightsOf(p), n, a, stride, data.subarray(at * stride), stride);
    },
    addScatter: (samples, block, out) => {
      const { rows, columns } = block;
      if (!isDiagonal(block)) {
        addCross(samples, rows, samples, columns, out);
        return;
      }
      const { stride, stand, count } = samples;
      const m = rows.to - rows.from;
      const multiply = stand === 'rows' ? blas.multiplyOwnTransposeBy : blas.multiplyByOwnTranspose;
      if (scratch.length < m * m) scratch = new Float32Array(m * m);
      for (let at = 0; at < count; at += SCATTER_CHUNK) {
        multiply(m, Math.min(SCATTER_CHUNK, count - at), entriesFrom(samples, rows, at), stride, scratch, m);
        addUpper(scratch, m, out);
      }
    },
    addCross,
    addEnergies: ({ values, stride, stand, side }, from, to, directions, energies) => {
      const k = energies.length;
      for (let at = from; at < to; at += BLAS_CHUNK) {
        const chunk = Math.min(BLAS_CHUNK, to - at);
        if (scratch.length < k * chunk) scratch = new Float32Array(k * chunk);
        // k x chunk either way.
        if (stand === 'rows') {
          const x = values.subarray(at * stride);
          blas.multiplyTransposed(k, chunk, side, directions, side, x, stride, scratch, chunk);
        } else blas.multiply(k, chunk, side, directions, side, values.subarray(at), stride, scratch, chunk);
        addSquares(scratch, k, chunk, energies);
      }
    },
    multiplyDouble: blas.multiplyDouble,
    solve: blas.solve ?? jsEigenSolver,
    close: async () => {},
  };
};

// Small functions: what is hot is compiled, and a large one takes tens of milliseconds of a processor.

/** out += the upper triangle of `part`, both n x n: what stands below it would come into checkpoints. */
const addUpper = (part: Float32Array, n: number, out: Float64Array): void => {
  for (let i = 0; i < n; i++) for (let j = i * n + i; j < (i + 1) * n; j++) out[j] = out[j]! + part[j]!;
};

/** Where entries of samples begin, from sample `at` on. */
const entriesFrom = ({ values, stride, stand }: Samples, { from }: Extent, at: number): Float32Array =>
  values.subarray(stand === 'rows' ? at * stride + from : from * stride + at);
/** Weights [from, from + out.length) of the flattened ΔW = left · right: a product a row's part, or for all whole rows. */
const decodeWith = (
  blas: BlasLibrary,
  { cols, rank, left, right }: AdapterFactors,
  from: number,
  out: Float32Array,
): void => {
  if (rank === 0) out.fill(0);
  else
    eachRectangle(cols, from, out.length, (row, rows, col, width, at) => {
      const a = left.subarray(row * rank);
      blas.multiply(rows, width, rank, a, rank, right.subarray(col), cols, out.subarray(at), width);
    });
};

/** energies[j] += Σ of the squares of row j of `inner` (k x count). */
export const addSquares = (inner: ArrayLike<number>, k: number, count: number, energies: Float64Array): void => {
  for (let j = 0; j < k; j++) {
    let sum = 0;
    for (let i = j * count; i < (j + 1) * count; i++) sum += inner[i]! * inner[i]!;
    energies[j] = energies[j]! + sum;
  }
};
