// A device whose matrices live in a tensor thread: a GPU through tfjs, of any vendor. Each kernel is a message; only those that
// bring numbers back wait, and Grams do so at the end of a visit (`settle`), so that the rows of the next panel are made and
// sent while the last one is multiplied. Weights go up as stored where the backend can widen them; float32 where not.
import { bytesPerElement } from '../../sources/dtype.ts';
import { TILE_WIDTH } from '../../sources/tile.ts';
import { storedRow, type WeightRows, widenRow } from '../../sources/weight-rows.ts';
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
import { intoChunks, outOfChunks, TENSOR_CHUNK } from './tensor-chunks.ts';
import type { TensorLink } from './tensor-link.ts';
import type { BackendFacts, BackendSpec, TensorMemory, Weights } from './tensor-messages.ts';
import { widenedByPrograms } from './widen-program.ts';

export interface TensorMatrix extends DeviceMatrix {
  readonly id: number;
}

/** Products that are waited for at a time, at most: what is on its way takes memory on both sides. */
const ON_THEIR_WAY = 4;

/** A Gram that has not come down. */
interface Awaited {
  readonly ticket: number;
  readonly add: (answer: ReturnType<TensorLink['wait']>) => void;
}

export const tensorInfo = ({ library }: BackendSpec, { version, kernel }: BackendFacts): DeviceInfo => ({
  name: 'tfjs',
  library,
  version,
  kernel,
  precision: 'float32',
  chunk: TENSOR_CHUNK,
  panel: TILE_WIDTH,
});

export class TensorDevice implements Device<TensorMatrix> {
  readonly info: DeviceInfo;
  readonly facts: BackendFacts;
  readonly #link: TensorLink;
  readonly #end: () => Promise<void>;
  readonly #awaited: Awaited[] = [];
  #nextMatrix = 0;
  #weights: { p: Float64Array; key: number } | null = null;
  #nextWeights = 0;

  /** @param end what is to be closed with it */
  constructor(spec: BackendSpec, link: TensorLink, end: () => Promise<void>) {
    this.#link = link;
    this.#end = end;
    this.facts = link.wait(link.ask({ op: 'describe' })).facts!;
    this.info = tensorInfo(spec, this.facts);
  }

  panelFor(rows: number): number {
    const features = Math.floor(this.facts.largestTensor / (4 * Math.max(rows, 1)));
    return Math.max(TENSOR_CHUNK, Math.min(this.info.panel, Math.floor(features / TENSOR_CHUNK) * TENSOR_CHUNK));
  }

  allocate(rows: number, width: number): TensorMatrix {
    return { id: this.#nextMatrix++, rows, width };
  }

  free({ id }: TensorMatrix): void {
    this.#weights = null;
    this.#link.send({ op: 'free', id });
  }

  reshape(matrix: TensorMatrix, width: number): TensorMatrix {
    return { ...matrix, width };
  }

  write({ id, width }: TensorMatrix, at: number, data: Float32Array): void {
    this.#upload({ id, width }, at, data, data.length / width, null);
  }

  read({ id, width }: TensorMatrix, at: number, rows: number): Float32Array {
    this.settle();
    if (rows === 0) return new Float32Array(0);
    const { values } = this.#link.wait(this.#link.ask({ op: 'read', id, width, at, rows }));
    return outOfChunks(values!, rows, width);
  }

  readInto(matrix: TensorMatrix, at: number, rows: number, out: Float32Array, stride: number): void {
    spreadRows(this.read(matrix, at, rows), matrix.width, out, stride);
  }

  widen(batches: readonly PlacedRows[], from: number, { id, width }: TensorMatrix, shift: number | null): void {
    const places = batches.flatMap(({ at }) => at);
    const first = Math.min(...places);
    const count = places.length;
    const [one] = batches;
    const dtype = one?.batch.kind === 'stored' ? one.batch.dtype : null;
    const isUniform = batches.every(({ batch }) => batch.kind === 'stored' && batch.dtype === dtype);
    if (dtype === null || !isUniform || !this.facts.widens || !widenedByPrograms.includes(dtype)) {
      const values = new Float32Array(count * width);
      for (const { batch, rows, at } of batches) {
        rows.forEach((row, i) => {
          const start = (at[i]! - first) * width;
          widenRow(batch, row, from, values.subarray(start, start + width));
        });
      }
      this.#upload({ id, width }, first, values, count, shift);
      return;
    }
    const size = bytesPerElement(dtype);
    const words = Math.ceil((width * size) / 4);
    const all = new Uint8Array(count * words * 4);
    for (const { batch, rows, at } of batches) {
      if (batch.kind !== 'stored') continue;
      rows.forEach((row, i) => {
        all.set(storedRow(batch, row).subarray(from * size, (from + width) * size), (at[i]! - first) * words * 4);
      });
    }
    this.#link.send(
      { op: 'widen', id, width, start: first, rows: count, dtype, words: new Int32Array(all.buffer), shift },
      [all.buffer],
    );
  }

  widenRow(rows: WeightRows, row: number, from: number, out: Float32Array): void {
    widenRow(rows, row, from, out);
  }

  gram(
    { id, width }: TensorMatrix,
    aStart: number,
    aRows: number,
    bStart: number,
    bRows: number,
    out: Float64Array,
  ): void {
    const ticket = this.#link.ask({ op: 'gram', id, width, aStart, aRows, bStart, bRows });
    this.#later(ticket, ({ products }) => {
      for (const { a, aRows: m, b, bRows: n, values } of products!) {
        const place = { a: a - aStart, m, b: b - bStart, n };
        for (let at = 0; at < values.length; at += m * n) addProduct(values, at, place, out, aRows, bRows);
      }
    });
  }

  gramOfAll(matrix: TensorMatrix, rows: number, out: Float64Array): void {
    this.gram(matrix, 0, rows, 0, rows, out);
  }

  combine(
    p: Float64Array,
    m: number,
    { id, width }: TensorMatrix,
    aStart: number,
    n: number,
    out: TensorMatrix,
    at: number,
  ): void {
    this.#link.send({ op: 'combine', id, width, weights: this.#weightsOf(p, m, n), aStart, out: out.id, at });
  }

  accumulate(p: Float64Array, m: number, { id, width }: TensorMatrix, at: number, n: number): void {
    this.#link.send({ op: 'accumulate', id, width, weights: this.#weightsOf(p, m, n), at });
  }

  addScatter(samples: Samples, { rows, columns }: PackedBlock, out: Float64Array): void {
    this.addCross(samples, rows, samples, columns, out);
  }

  addCross(a: Samples, rows: Extent, b: Samples, columns: Extent, out: Float64Array): void {
    const [m, n] = [rows.to - rows.from, columns.to - columns.from];
    for (let start = 0; start < a.count; start += TENSOR_CHUNK) {
      const length = Math.min(TENSOR_CHUNK, a.count - start);
      const part = ({ values, stride, stand }: Samples, { from, to }: Extent): Float32Array =>
        stand === 'rows'
          ? partOf(values, stride, start, length, from, to - from)
          : partOf(values, stride, from, to - from, start, length);
      const byRows = a.stand === 'rows';
      this.#product(
        part(a, rows),
        byRows ? [1, length, m] : [1, m, length],
        part(b, columns),
        byRows ? [1, length, n] : [1, n, length],
        byRows ? [true, false] : [false, true],
        (cells) => {
          for (let i = 0; i < cells.length; i++) out[i] = out[i]! + cells[i]!;
        },
      );
    }
    this.settle();
  }

  addEnergies(
    { values, stride, stand, side }: Samples,
    from: number,
    to: number,
    directions: Float32Array,
    energies: Float64Array,
  ): void {
    const k = energies.length;
    for (let start = from; start < to; start += TENSOR_CHUNK) {
      const length = Math.min(TENSOR_CHUNK, to - start);
      const inner = new Float64Array(k * length);
      // A side is summed over in chunks too.
      for (let s = 0; s < side; s += TENSOR_CHUNK) {
        const some = Math.min(TENSOR_CHUNK, side - s);
        const byRows = stand === 'rows';
        const x = byRows
          ? partOf(values, stride, start, length, s, some)
          : partOf(values, stride, s, some, start, length);
        this.#product(
          partOf(directions, side, 0, k, s, some),
          [1, k, some],
          x,
          byRows ? [1, length, some] : [1, some, length],
          [false, byRows],
          (cells) => {
            for (let i = 0; i < cells.length; i++) inner[i] = inner[i]! + cells[i]!;
          },
        );
      }
      this.settle();
      addSquares(inner, k, length, energies);
    }
  }

  readonly multiplyDouble = jsDoubleProduct;

  readonly solve = jsEigenSolver;

  settle(): void {
    for (const { ticket, add } of this.#awaited.splice(0)) add(this.#link.wait(ticket));
  }

  /** What is alive on the other side. */
  memory(): TensorMemory {
    this.settle();
    return this.#link.wait(this.#link.ask({ op: 'memory' })).memory!;
  }

  async close(): Promise<void> {
    this.#link.close();
    await this.#end();
  }

  #upload(
    matrix: { readonly id: number; readonly width: number },
    start: number,
    data: Float32Array,
    rows: number,
    shift: number | null,
  ): void {
    if (rows === 0) return;
    const values = intoChunks(data, rows, matrix.width);
    this.#link.send({ op: 'upload', ...matrix, start, rows, values, shift }, [values.buffer as ArrayBuffer]);
  }

  #product(
    a: Float32Array,
    aShape: readonly [number, number, number],
    b: Float32Array,
    bShape: readonly [number, number, number],
    [transposeA, transposeB]: readonly [boolean, boolean],
    add: (cells: Float32Array) => void,
  ): void {
    const ticket = this.#link.ask({ op: 'product', a, aShape, b, bShape, transposeA, transposeB }, [
      a.buffer as ArrayBuffer,
      b.buffer as ArrayBuffer,
    ]);
    this.#later(ticket, ({ values }) => add(values!));
  }

  /** Adds what comes down in the order in which it was asked for, whenever it comes. */
  #later(ticket: number, add: Awaited['add']): void {
    this.#awaited.push({ ticket, add });
    if (this.#awaited.length <= ON_THEIR_WAY) return;
    const { ticket: oldest, add: addOldest } = this.#awaited.shift()!;
    addOldest(this.#link.wait(oldest));
  }

  /** Weights travel once for all panels of a slot. */
  #weightsOf(p: Float64Array, m: number, n: number): Weights {
    if (this.#weights?.p === p) return { key: this.#weights.key, values: null, m, n };
    this.#weights = { p, key: this.#nextWeights++ };
    return { key: this.#weights.key, values: p, m, n };
  }
}

/** out[a + i][b + j] += values[i][j] where that lies inside. */
const addProduct = (
  values: Float32Array,
  at: number,
  { a, m, b, n }: { readonly a: number; readonly m: number; readonly b: number; readonly n: number },
  out: Float64Array,
  aRows: number,
  bRows: number,
): void => {
  for (let i = Math.max(0, -a); i < Math.min(m, aRows - a); i++) {
    const line = (a + i) * bRows + b;
    for (let j = Math.max(0, -b); j < Math.min(n, bRows - b); j++)
      out[line + j] = out[line + j]! + values[at + i * n + j]!;
  }
};
