// What an engine needs of whoever multiplies matrices: a few kernels on float32 matrices with many columns (features)
// and few rows. Nothing else of an engine knows a device. A matrix is opaque: BLAS keeps rows, tfjs keeps features first.
import type { WeightRows } from '../../sources/weight-rows.ts';
import type { DoubleProduct } from '../linalg/dense-products.ts';
import type { Extent, PackedBlock } from '../linalg/packed-blocks.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';

/** Of products: float32 accumulators of float32 numbers, or of numbers cut to 10 bits of mantissa (tensor cores). */
export type CudaPrecision = 'float32' | 'tf32';

/** Who multiplies, precisely enough to say when two runs can have the same bits. */
export interface DeviceInfo {
  readonly name: 'blas' | 'tfjs' | 'cuda';
  /** E.g. `OpenBLAS`, `tfjs-wasm`, `tfjs-webgpu` or `cuBLAS`. */
  readonly library: string;
  readonly version: string;
  /** The CPU kernel the library chose, e.g. `Haswell`, `SkylakeX`, `simd`; or the GPU and its driver. */
  readonly kernel: string;
  readonly precision: CudaPrecision;
  /** Products one float32 accumulator takes before a float64 one takes over. */
  readonly chunk: number;
  /** Features of the widest matrix it is given: tiles are cut into panels of this width. A multiple of the chunk. */
  readonly panel: number;
}

/** A float32 matrix of `rows` x `width` that lives where its device computes. */
export interface DeviceMatrix {
  readonly rows: number;
  readonly width: number;
}

/** Memory of this process that rows are read into, tile after tile. */
export interface RowMemory {
  /** So many bytes, uninitialised. What was given before is the caller's no more. */
  take(bytes: number): Uint8Array;
  close(): void;
}

/** Rows of numbers as they stand in memory of this process. */
export interface RowBytes {
  /** From the first row's first byte to the last one's last. */
  readonly bytes: Uint8Array;
  /** Bytes from a row's beginning to that of the next. */
  readonly stride: number;
}

/** How rows of float32 are read straight to where they are multiplied. */
export interface InPlace<M extends DeviceMatrix> {
  /** Columns [start, start + width) of a matrix, where they stand. */
  window(matrix: M, start: number, width: number): M;
  /** Rows [at, at + rows), where they stand. `widen` does not move what is there already: a shift changes it for good. */
  rowsAt(matrix: M, at: number, rows: number): RowBytes;
}

/** Which rows of a batch are taken, and the matrix rows they go to. */
export interface PlacedRows {
  readonly batch: WeightRows;
  readonly rows: readonly number[];
  readonly at: readonly number[];
}

/** Samples of a mode other than `models`: vectors of `side` float32 numbers, one a row of `values`, or one a column. */
export interface Samples {
  /** rows: count x side; columns: side x count; row-major. */
  readonly values: Float32Array;
  /** From one row of `values` to the next. */
  readonly stride: number;
  readonly stand: 'rows' | 'columns';
  readonly side: number;
  readonly count: number;
}

/** A block of a scatter matrix, and its values. */
export interface ScatterPart {
  readonly block: PackedBlock;
  readonly out: Float64Array;
}

/** Puts rows of `width`, one after the other, to where `out` has rows of `stride` floats. */
export const spreadRows = (values: Float32Array, width: number, out: Float32Array, stride: number): void => {
  for (let i = 0; i * width < values.length; i++) out.set(values.subarray(i * width, (i + 1) * width), i * stride);
};

export interface Device<M extends DeviceMatrix = DeviceMatrix> {
  readonly info: DeviceInfo;
  /**
   * Features of the widest matrix of so many rows: `info.panel`, or fewer where the device's limits ask for it.
   * @param careful for sums that must be right to 1e-7 of the products' size, where a chunk is not by itself
   */
  panelFor(rows: number, careful: boolean): number;
  /** Uninitialised memory for a matrix. */
  allocate(rows: number, width: number): M;
  free(matrix: M): void;
  /** The same memory as a matrix of another width (at most the allocated one): buffers are rotated between tiles. */
  reshape(matrix: M, width: number): M;
  /** The matrix that stands in some memory of this process; missing where matrices are elsewhere. */
  matrixAt?(memory: Float32Array, rows: number, width: number): M;
  /** Missing where matrices are not float32 in memory of this process, row by row. */
  readonly inPlace?: InPlace<M>;
  /** Memory from which stored rows reach the device without being copied first; any will do where a device has none. */
  rowMemory?(): RowMemory;
  /** Sets rows [at, at + data.length / width) from row-major float32. */
  write(matrix: M, at: number, data: Float32Array): void;
  /** Copies rows [at, at + rows) out, row-major. May return a view, or memory that the next call takes again. */
  read(matrix: M, at: number, rows: number): Float32Array;
  /** Copies rows [at, at + rows) to where `out` has rows of `stride` floats. */
  readInto(matrix: M, at: number, rows: number, out: Float32Array, stride: number): void;
  /** Of each of some rows the entry of largest magnitude, the first of equals, where a device finds it without giving them out. */
  peaks?(matrix: M, at: number, rows: number): Float32Array;
  /**
   * Widens features [from, from + matrix.width) of batches' rows to float32 into a matrix. Together they fill
   * neighbouring matrix rows.
   * @param shift adds this matrix row (the negated shift) to each; null adds nothing
   */
  widen(batches: readonly PlacedRows[], from: number, matrix: M, shift: number | null): void;
  /** Widens features [from, from + out.length) of one row, as `widen` does. */
  widenRow(rows: WeightRows, row: number, from: number, out: Float32Array): void;
  /**
   * out += A Bᵀ over rows [aStart, aStart + aRows) and [bStart, bStart + bRows) of one matrix: float32 inside chunks,
   * float64 across them, always in the same order. It may be added later, at the latest when `settle` is called.
   * @param out aRows x bRows, row-major
   */
  gram(matrix: M, aStart: number, aRows: number, bStart: number, bRows: number, out: Float64Array): void;
  /**
   * out += A Aᵀ over rows [0, rows), summed likewise; what is added to the lower triangle means nothing.
   * @param out rows x rows, row-major
   */
  gramOfAll(matrix: M, rows: number, out: Float64Array): void;
  /** Waits until all Grams are in their `out`. */
  settle(): void;
  /**
   * Rows [at, at + m) of `out` = P A, with A rows [aStart, aStart + n) of `matrix`; rows [0, at) of `matrix` are
   * carried over to `out` unchanged. `out` must be another matrix of the same width.
   * @param p m x n, row-major
   */
  combine(p: Float64Array, m: number, matrix: M, aStart: number, n: number, out: M, at: number): void;
  /** Two rows change places. Where it is missing, rows are mixed in full when others ought to stay. */
  swapRows?(matrix: M, a: number, b: number): void;
  /**
   * Rows [at, at + m) += P A, with A the n rows that follow them; with n = 0 those rows are made one.
   * @param p m x n, row-major
   */
  accumulate(p: Float64Array, m: number, matrix: M, at: number, n: number): void;
  /**
   * A block of a scatter matrix += Σ x xᵀ over samples: float32 inside chunks of samples, float64 across them, always in
   * the same order. Of a block on the diagonal the lower triangle may be left out.
   * @param out rows x columns of the block, row-major
   */
  addScatter(samples: Samples, block: PackedBlock, out: Float64Array): void;
  /** The same for several blocks, where a device that samples must be sent to does better with all of them at once. */
  addScatterBlocks?(samples: Samples, parts: readonly ScatterPart[]): void;
  /**
   * out += Σ a bᵀ over two sets of as many samples that stand alike, taken in pairs: entries `rows` of a times entries
   * `columns` of b, summed as `addScatter` sums.
   * @param out rows x columns, row-major
   */
  addCross(a: Samples, rows: Extent, b: Samples, columns: Extent, out: Float64Array): void;
  /**
   * energies[j] += Σ ⟨x, v_j⟩² over samples [from, to).
   * @param directions k x side, row-major
   */
  addEnergies(samples: Samples, from: number, to: number, directions: Float32Array, energies: Float64Array): void;
  /** Float64 products on this thread. */
  readonly multiplyDouble: DoubleProduct;
  /** Eigenpairs of small matrices, on this thread. */
  readonly solve: EigenSolver;
  /** Ends what it runs on. */
  close(): Promise<void>;
}
