// The cuda device: rows of float32 on an NVIDIA card, multiplied by cuBLAS. Work is put on a stream and not waited for, until
// numbers must come down; Grams do so at the end of a visit (`settle`).
// A chunk is 256 features: cuBLAS adds up a chunk's products in order, and an H100 makes batches of short ones twice as fast as of the
// 2,048 that blas takes. The chunks of a matrix are one batch of products (they stand a chunk apart in every row, so
// nothing is laid out anew), and a kernel adds them up in float64, on the card, in the order of chunks: the bits depend on neither
// threads nor timing. They do depend on the card and on cuBLAS.
import { bytesPerElement } from '../../sources/dtype.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';
import { storedRow, widenRow } from '../../sources/weight-rows.ts';
import { addTo, type DoubleProduct } from '../linalg/dense-products.ts';
import type { Extent } from '../linalg/packed-blocks.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';
import { addSquares } from './blas-device.ts';
import { CudaCard, type Pinned } from './cuda-card.ts';
import { cudaEigenSolver } from './cuda-eigen.ts';
import { type LoadedKernels, PEAK_LANES } from './cuda-kernels.ts';
import { COPY, type CudaPaths, type CudaPointer } from './cuda-library.ts';
import { CudaUploads } from './cuda-uploads.ts';
import {
  type CudaPrecision,
  type Device,
  type DeviceInfo,
  type DeviceMatrix,
  type PlacedRows,
  type RowMemory,
  type Samples,
  type ScatterPart,
  spreadRows,
} from './device.ts';

/** Features, or samples, that one float32 accumulator takes. */
export const CUDA_CHUNK = 256;

/** Bytes of samples that go up at a time, where a chunk of them is no more. */
const SAMPLES_BYTES = 32 * 2 ** 20;

/** Bytes that come down at a time. */
const DOWN_BYTES = 2 ** 22;

/** Bytes of products that are added up at a time: a Gram of thousands of models makes a gigabyte of them a tile. */
const MOST_PRODUCTS = 32 * 2 ** 20;

export interface CudaMatrix extends DeviceMatrix {
  readonly at: CudaPointer;
  readonly stride: number;
}

/** What an `out` waits for: its sums on the card. */
interface Sums {
  readonly at: CudaPointer;
  readonly cells: number;
}

/** Rows of float32 on the card: where they begin, floats from one to the next, and from a chunk to the next. */
interface Operand {
  readonly at: CudaPointer;
  readonly stride: number;
  readonly chunk: number;
}

type Block = Pick<ScatterPart['block'], 'rows' | 'columns'>;

/** What the processor does for a card. */
export interface Beside {
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
}

const NO = 0;
const YES = 1;
const ONE = Float32Array.of(1);
const ZERO = Float32Array.of(0);

/** Rows stand at multiples of 128 bytes. */
const strideOf = (width: number): number => Math.ceil(width / 32) * 32;

const floats = (pointer: CudaPointer, count: number): CudaPointer => pointer + BigInt(count * 4);

export class CudaDevice implements Device<CudaMatrix> {
  readonly info: DeviceInfo;
  readonly card: CudaCard;
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
  readonly #uploads: CudaUploads;
  /** In the order in which they were first asked for. */
  readonly #sums = new Map<Float64Array, Sums>();
  /** Through which sums come down. */
  #down: Pinned | null = null;
  /** Mixing weights that are on the card: those of a slot serve all of its panels. */
  #weights: { readonly p: Float64Array; readonly at: CudaPointer } | null = null;
  /** Products on their way to the sums, and samples: grown as needed. */
  readonly #scratch = new Map<'products' | 'a' | 'b', { readonly at: CudaPointer; readonly bytes: number }>();

  /** @throws DeviceUnavailable */
  constructor(paths: CudaPaths, precision: CudaPrecision, beside: Beside, kernels: LoadedKernels | null = null) {
    this.card = new CudaCard(paths, precision, kernels);
    const { name, capability, blas } = this.card.facts;
    this.info = {
      name: 'cuda',
      library: 'cuBLAS',
      version: blas,
      kernel: `${name}, sm_${capability}`,
      precision,
      chunk: CUDA_CHUNK,
      panel: TILE_WIDTH,
    };
    this.#uploads = new CudaUploads(this.card);
    this.multiplyDouble = beside.multiplyDouble;
    this.solve = cudaEigenSolver(this.card.library.solver !== null, () => this.card, beside.solve);
  }

  panelFor(): number {
    return this.info.panel;
  }

  allocate(rows: number, width: number): CudaMatrix {
    const stride = strideOf(width);
    return { rows, width, stride, at: this.card.allocate(rows * stride * 4) };
  }

  free({ at }: CudaMatrix): void {
    this.card.free(at);
  }

  reshape(matrix: CudaMatrix, width: number): CudaMatrix {
    return { ...matrix, width, stride: strideOf(width) };
  }

  write({ at, stride, width }: CudaMatrix, first: number, data: Float32Array): void {
    this.card.copyUp(floats(at, first * stride), stride * 4, data, width * 4, width * 4, data.length / width);
  }

  read({ at, stride, width }: CudaMatrix, first: number, rows: number): Float32Array {
    const out = new Float32Array(rows * width);
    this.card.copyDown(out, floats(at, first * stride), stride * 4, width * 4);
    return out;
  }

  readInto(matrix: CudaMatrix, at: number, rows: number, out: Float32Array, stride: number): void {
    spreadRows(this.read(matrix, at, rows), matrix.width, out, stride);
  }

  rowMemory(): RowMemory {
    return this.#uploads.lend();
  }

  widen(
    batches: readonly PlacedRows[],
    from: number,
    { at: matrix, stride, width }: CudaMatrix,
    shift: number | null,
  ): void {
    const added = shift === null ? 0n : floats(matrix, shift * stride);
    for (const { batch, rows, at } of batches) {
      // Rows that follow each other go up together.
      for (let first = 0, next = 0; first < rows.length; first = next) {
        const follows = (i: number): boolean => at[i] === at[i - 1]! + 1 && rows[i] === rows[i - 1]! + 1;
        for (next = first + 1; next < rows.length && follows(next); ) next++;
        const place = { to: floats(matrix, at[first]! * stride), stride, width, shift: added };
        const count = next - first;
        if (batch.kind === 'stored') {
          const size = bytesPerElement(batch.dtype);
          const stands = { first: rows[first]! * batch.stride + from * size, pitch: batch.stride, count };
          if (this.#uploads.lentRows(batch.dtype, batch.bytes, stands, place)) continue;
          const rowOf = (i: number): Uint8Array =>
            storedRow(batch, rows[first + i]!).subarray(from * size, (from + width) * size);
          this.#uploads.rows(batch.dtype, count, rowOf, place);
        } else {
          const decoded = new Float32Array(width);
          const rowOf = (i: number): Uint8Array => {
            widenRow(batch, rows[first + i]!, from, decoded);
            return new Uint8Array(decoded.buffer);
          };
          this.#uploads.rows('F32', count, rowOf, place);
        }
      }
    }
  }

  readonly widenRow = widenRow;

  gram(
    { at, stride, width }: CudaMatrix,
    aStart: number,
    m: number,
    bStart: number,
    n: number,
    out: Float64Array,
  ): void {
    if (m * n === 0) return;
    const [a, b] = [aStart, bStart].map((first) => ({ at: floats(at, first * stride), stride, chunk: CUDA_CHUNK }));
    this.card.perform(() => this.#addProducts(false, a!, m, b!, n, width, out));
  }

  gramOfAll(matrix: CudaMatrix, rows: number, out: Float64Array): void {
    this.gram(matrix, 0, rows, 0, rows, out);
  }

  settle(): void {
    if (this.#sums.size === 0) return;
    this.#down ??= this.card.pin(DOWN_BYTES);
    const { at: pinned, bytes } = this.#down;
    const room = new Float64Array(bytes.buffer, bytes.byteOffset, DOWN_BYTES / 8);
    let coming: { readonly out: Float64Array; readonly from: number }[] = [];
    let used = 0;
    const take = (): void => {
      this.card.wait();
      for (const { out, from } of coming) addTo(out, room.subarray(from, from + out.length), this.multiplyDouble);
      coming = [];
      used = 0;
    };
    for (const [out, { at, cells }] of this.#sums) {
      for (let first = 0; first < cells; ) {
        if (used === room.length) take();
        const some = Math.min(cells - first, room.length - used);
        const [to, from] = [pinned + BigInt(used * 8), at + BigInt(first * 8)];
        this.card.perform(() =>
          this.card.library.runtime.cudaMemcpyAsync(to, from, some * 8, COPY.down, this.card.stream),
        );
        coming.push({ out: out.subarray(first, first + some), from: used });
        used += some;
        first += some;
      }
      this.card.free(at);
    }
    take();
    this.#sums.clear();
  }

  peaks({ at, stride, width }: CudaMatrix, first: number, rows: number): Float32Array {
    if (rows === 0) return new Float32Array(0);
    const count = rows * PEAK_LANES;
    const [values, columns] = [new Float32Array(count), new Int32Array(count)];
    const [a, b] = [this.#room('a', count * 4), this.#room('b', count * 4)];
    this.card.perform(() =>
      this.card.launch('row_peaks', count, [floats(at, first * stride), stride, width, PEAK_LANES, a, b, rows]),
    );
    this.card.copyDown(values, a);
    this.card.copyDown(columns, b);
    return Float32Array.from({ length: rows }, (_, row) => {
      let best = row * PEAK_LANES;
      for (let i = best + 1; i < (row + 1) * PEAK_LANES; i++) {
        const more = Math.abs(values[i]!) - Math.abs(values[best]!);
        if (more > 0 || (more === 0 && columns[i]! < columns[best]!)) best = i;
      }
      return values[best]!;
    });
  }

  combine(p: Float64Array, m: number, from: CudaMatrix, aStart: number, n: number, out: CudaMatrix, at: number): void {
    const { stride, width } = from;
    if (at > 0) {
      const { copyWithin } = this.card.library.runtime;
      const [to, own] = [out.stride * 4, stride * 4];
      this.card.perform(() => copyWithin(out.at, to, from.at, own, width * 4, at, COPY.within, this.card.stream));
    }
    this.#multiply(
      p,
      m,
      n,
      floats(from.at, aStart * stride),
      stride,
      ZERO,
      floats(out.at, at * out.stride),
      out.stride,
      width,
    );
  }

  accumulate(p: Float64Array, m: number, { at: matrix, stride, width }: CudaMatrix, at: number, n: number): void {
    if (n === 0) return;
    const from = floats(matrix, (at + m) * stride);
    this.#multiply(p, m, n, from, stride, ONE, floats(matrix, at * stride), stride, width);
  }

  addScatter(samples: Samples, block: Block, out: Float64Array): void {
    this.addScatterBlocks(samples, [{ block, out }]);
  }

  addScatterBlocks(samples: Samples, parts: readonly { readonly block: Block; readonly out: Float64Array }[]): void {
    const from = Math.min(...parts.map(({ block }) => block.columns.from));
    const to = Math.max(...parts.map(({ block }) => block.rows.to));
    this.#eachSamples(0, samples.count, to - from, (first, count) => {
      const entry = this.#samplesUp('a', samples, first, count, { from, to });
      for (const { block, out } of parts) {
        const { rows, columns } = block;
        const [a, b] = [entry(rows.from), entry(columns.from)];
        const byRows = samples.stand === 'rows';
        this.card.perform(() =>
          this.#addProducts(byRows, a, rows.to - rows.from, b, columns.to - columns.from, count, out),
        );
      }
    });
    this.settle();
  }

  addCross(a: Samples, rows: Extent, b: Samples, columns: Extent, out: Float64Array): void {
    const [m, n] = [rows.to - rows.from, columns.to - columns.from];
    this.#eachSamples(0, a.count, m + n, (first, count) => {
      const x = this.#samplesUp('a', a, first, count, rows)(rows.from);
      const y = this.#samplesUp('b', b, first, count, columns)(columns.from);
      this.card.perform(() => this.#addProducts(a.stand === 'rows', x, m, y, n, count, out));
    });
    this.settle();
  }

  addEnergies(samples: Samples, from: number, to: number, directions: Float32Array, energies: Float64Array): void {
    const k = energies.length;
    const { side, stand } = samples;
    const { blas } = this.card.library;
    if (k === 0) return;
    const v = this.#room('b', k * side * 4);
    this.card.copyUp(v, side * 4, directions, side * 4, side * 4, k);
    this.#eachSamples(from, to, side, (first, count) => {
      const x = this.#samplesUp('a', samples, first, count, { from: 0, to: side })(0).at;
      const products = this.#room('products', k * count * 4);
      const inner = new Float32Array(k * count);
      this.card.perform(() => {
        // Row-major k x count, V · X or V · Xᵀ.
        const [ta, lda] = stand === 'rows' ? [YES, side] : [NO, count];
        blas.cublasSgemm_v2(this.card.blas, ta, NO, count, k, side, ONE, x, lda, v, side, ZERO, products, count);
      });
      this.card.copyDown(inner, products);
      addSquares(inner, k, count, energies);
    });
  }

  /** Does a little of everything, since a card loads code when it is first called, and stops all threads meanwhile. */
  warm(): void {
    const [m, n, width] = [128, 64, 2 * CUDA_CHUNK];
    const matrix = this.allocate(m, width);
    const place = { to: matrix.at, stride: matrix.stride, width, shift: 0n };
    this.#uploads.rows('BF16', m, () => new Uint8Array(width * bytesPerElement('BF16')), place);
    this.gram(matrix, 0, m, m - n, n, new Float64Array(m * n));
    this.accumulate(new Float64Array((m - n) * n), m - n, matrix, 0, n);
    this.settle();
    this.free(matrix);
  }

  async close(): Promise<void> {
    try {
      this.#uploads.close();
      if (this.#down !== null) this.card.unpin(this.#down);
      if (this.#weights !== null) this.card.free(this.#weights.at);
      for (const { at } of this.#scratch.values()) this.card.free(at);
      for (const { at } of this.#sums.values()) this.card.free(at);
    } catch {
      // A card that was lost takes nothing back; the process's end does.
    }
    this.#down = null;
    this.#weights = null;
    this.#scratch.clear();
    this.#sums.clear();
    this.card.close();
  }

  /** C (m x w, strideC) = P (m x n) · A (n x w, strideA) + beta C. */
  #multiply(
    p: Float64Array,
    m: number,
    n: number,
    a: CudaPointer,
    strideA: number,
    beta: Float32Array,
    c: CudaPointer,
    strideC: number,
    width: number,
  ): void {
    if (m === 0 || width === 0) return;
    const weights = this.#weightsUp(p);
    const { blas } = this.card.library;
    this.card.perform(() =>
      blas.cublasSgemm_v2(...[this.card.blas, NO, NO, width, m, n, ONE, a, strideA, weights, n, beta, c, strideC]),
    );
  }

  #weightsUp(p: Float64Array): CudaPointer {
    if (this.#weights?.p === p) return this.#weights.at;
    if (this.#weights !== null) this.card.free(this.#weights.at);
    this.#weights = null;
    const at = this.card.allocate(p.length * 4);
    this.card.copyUp(at, p.length * 4, Float32Array.from(p), p.length * 4, p.length * 4, 1);
    this.#weights = { p, at };
    return at;
  }

  /** Samples by as many as go up at a time. */
  #eachSamples(from: number, to: number, entries: number, use: (first: number, count: number) => void): void {
    const chunks = Math.max(1, Math.floor(SAMPLES_BYTES / (entries * 4 * CUDA_CHUNK)));
    for (let first = from; first < to; first += chunks * CUDA_CHUNK)
      use(first, Math.min(chunks * CUDA_CHUNK, to - first));
  }

  /**
   * Takes some entries of some samples up, close together, as they stand.
   * @returns where an entry begins
   */
  #samplesUp(
    room: 'a' | 'b',
    { values, stride, stand }: Samples,
    first: number,
    count: number,
    { from, to }: Extent,
  ): (entry: number) => Operand {
    const entries = to - from;
    const at = this.#room(room, entries * count * 4);
    const [start, width, rows] =
      stand === 'rows' ? [first * stride + from, entries, count] : [from * stride + first, count, entries];
    this.#uploads.floats(at, values.subarray(start), stride, width, rows);
    return stand === 'rows'
      ? (entry) => ({ at: floats(at, entry - from), stride: entries, chunk: CUDA_CHUNK * entries })
      : (entry) => ({ at: floats(at, (entry - from) * count), stride: count, chunk: CUDA_CHUNK });
  }

  /**
   * out (m x n) += A Bᵀ over `depth` products, when it is settled.
   * @param byRows whether they stand in rows, one for each product, and not an operand's row for each row of `out`
   */
  #addProducts(byRows: boolean, a: Operand, m: number, b: Operand, n: number, depth: number, out: Float64Array): void {
    const cells = m * n;
    const chunks = Math.floor(depth / CUDA_CHUNK);
    const rest = depth - chunks * CUDA_CHUNK;
    const atOnce = Math.max(1, Math.min(chunks, Math.floor(MOST_PRODUCTS / (cells * 4))));
    const products = this.#room('products', atOnce * cells * 4);
    const { blas } = this.card.library;
    // Column-major: the n x m matrix B Aᵀ is the m x n matrix A Bᵀ in rows.
    const kinds = byRows ? [NO, YES] : [YES, NO];
    const from = ({ at, chunk }: Operand, first: number): CudaPointer => floats(at, first * chunk);
    for (let first = 0; first < chunks; first += atOnce) {
      const some = Math.min(atOnce, chunks - first);
      blas.cublasSgemmStridedBatched(
        ...[this.card.blas, ...kinds, n, m, CUDA_CHUNK, ONE, from(b, first), b.stride, b.chunk],
        ...[from(a, first), a.stride, a.chunk, ZERO, products, n, cells, some],
      );
      this.#addChunks(products, some, cells, out);
    }
    if (rest === 0) return;
    blas.cublasSgemm_v2(
      ...[this.card.blas, ...kinds, n, m, rest, ONE, from(b, chunks), b.stride, from(a, chunks), a.stride, ZERO],
      ...[products, n],
    );
    this.#addChunks(products, 1, cells, out);
  }

  /** out += chunks of products, when it is settled. */
  #addChunks(products: CudaPointer, chunks: number, cells: number, out: Float64Array): void {
    let sums = this.#sums.get(out);
    if (sums === undefined) {
      sums = { at: this.card.allocate(cells * 8), cells };
      this.card.library.runtime.cudaMemsetAsync(sums.at, 0, cells * 8, this.card.stream);
      this.#sums.set(out, sums);
    }
    this.card.launch('add_chunks', cells, [products, sums.at, chunks, cells]);
  }

  /** Memory that serves one product after another: they are on one stream. */
  #room(name: 'products' | 'a' | 'b', bytes: number): CudaPointer {
    const known = this.#scratch.get(name);
    if (known !== undefined && known.bytes >= bytes) return known.at;
    if (known !== undefined) this.card.free(known.at);
    this.#scratch.delete(name);
    const at = this.card.allocate(bytes);
    this.#scratch.set(name, { at, bytes });
    return at;
  }
}
