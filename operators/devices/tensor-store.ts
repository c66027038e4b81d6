// Matrices as tensors of any tfjs backend, and the kernels on them: what the tensor thread does between two messages. A
// tensor is replaced, never changed. A matrix is a few bands of rows that came together, each [chunks, rows, chunk width];
// state, shift and directions stay where they are between blocks, and only products of chunks come down.
import * as tf from '@tensorflow/tfjs-core';
import { chunkCount, chunkWidth, TENSOR_CHUNK } from './tensor-chunks.ts';
import type { TensorCommand, Weights } from './tensor-messages.ts';
import type { WidenProgram } from './widen-program.ts';

/** Rows [start, start + rows) of a matrix that came together. */
interface Band {
  readonly start: number;
  readonly rows: number;
  readonly tensor: tf.Tensor3D;
}

interface Bands {
  width: number;
  list: Band[];
}

/** Products of rows [a, a + aRows) and [b, b + bRows), still on the backend. */
export interface PendingProduct {
  readonly a: number;
  readonly aRows: number;
  readonly b: number;
  readonly bRows: number;
  readonly tensor: tf.Tensor;
}

type Of<K extends TensorCommand['op']> = Extract<TensorCommand, { readonly op: K }>;

const endOf = ({ start, rows }: Pick<Band, 'start' | 'rows'>): number => start + rows;

export class TensorStore {
  readonly #matrices = new Map<number, Bands>();
  readonly #program: WidenProgram | null;
  /** Bytes of the largest tensor. */
  readonly #largest: number;
  /** The weights of the last mixing: all panels of a slot use the same ones, one after the other. */
  #weights: { key: number; values: Float64Array; parts: Map<string, tf.Tensor3D | null> } | null = null;
  #tensors = 0;
  #bytes = 0;

  /** @param program null where rows are widened before they come */
  constructor(program: WidenProgram | null, largest: number) {
    this.#program = program;
    this.#largest = largest;
  }

  /** Tensors and bytes that matrices and weights account for. */
  get owned(): { readonly tensors: number; readonly bytes: number } {
    return { tensors: this.#tensors, bytes: this.#bytes };
  }

  upload({ id, width, start, rows, values, shift }: Of<'upload'>): void {
    this.#place(id, width, start, this.#shifted(id, shift, tf.tensor3d(values, shapeOf(width, rows))));
  }

  widen({ id, width, start, rows, dtype, words, shift }: Of<'widen'>): void {
    if (this.#program === null) throw new Error(`this backend does not widen ${dtype}`);
    this.#place(id, width, start, this.#shifted(id, shift, this.#program.run(dtype, words, rows, width)));
  }

  /** Products of every pair of bands, in pieces no larger than a tensor may be. Where A is B, pairs below the diagonal are left out. */
  gram({ id, width, aStart, aRows, bStart, bRows }: Of<'gram'>): readonly PendingProduct[] {
    const bands = this.#bandsOf(id, width).list;
    const isOwn = aStart === bStart && aRows === bRows;
    const found: PendingProduct[] = [];
    for (const a of bandsIn(bands, aStart, aRows)) {
      for (const b of bandsIn(bands, bStart, bRows)) {
        if (!isOwn || a.start <= b.start) found.push(...this.#products(a, b));
      }
    }
    return found;
  }

  combine({ id, width, weights, aStart, out, at }: Of<'combine'>): void {
    const { m, n } = weights;
    const bands = this.#bandsOf(id, width).list.filter(
      (band) => band.start < at || (band.start < aStart + n && endOf(band) > aStart),
    );
    const sum = this.#mix(bands, weights, at + m, (p, band) => combinationWeights(p, weights, aStart, band, at));
    this.#empty(out);
    this.#place(out, width, 0, sum);
  }

  accumulate({ id, width, weights, at }: Of<'accumulate'>): void {
    const { m, n } = weights;
    const end = at + m;
    const bands = this.#bandsOf(id, width).list.filter(({ start }) => start < end + n);
    // With n = 0 nothing is added, but products from here on sum over one band, wherever its rows came from.
    if (n === 0 && bands.length === 1) return;
    const sum =
      n === 0
        ? tf.concat3d(
            bands.map(({ tensor }) => tensor),
            1,
          )
        : this.#mix(bands, weights, end, (p, band) => additionWeights(p, weights, band, at));
    this.#place(id, width, 0, sum);
  }

  /** Rows [at, at + rows) as one tensor, chunks x rows x chunk width; rows that were never set are zeros. */
  rows({ id, width, at, rows }: Of<'read'>): tf.Tensor3D {
    return tf.tidy(() => {
      const [chunks, , w] = shapeOf(width, rows);
      const parts: tf.Tensor3D[] = [];
      let next = at;
      for (const band of bandsIn(this.#bandsOf(id, width).list, at, rows)) {
        const from = Math.max(band.start, at);
        const to = Math.min(endOf(band), at + rows);
        if (from > next) parts.push(tf.zeros([chunks, from - next, w]));
        parts.push(tf.slice3d(band.tensor, [0, from - band.start, 0], [chunks, to - from, w]));
        next = to;
      }
      if (next < at + rows) parts.push(tf.zeros([chunks, at + rows - next, w]));
      return tf.concat3d(parts, 1);
    });
  }

  /** One batch of products of what came with the command. */
  product({ a, aShape, b, bShape, transposeA, transposeB }: Of<'product'>): tf.Tensor {
    return tf.tidy(() => tf.matMul(tf.tensor3d(a, [...aShape]), tf.tensor3d(b, [...bShape]), transposeA, transposeB));
  }

  free(id: number): void {
    this.#empty(id);
    this.#forgetWeights();
  }

  clear(): void {
    for (const id of [...this.#matrices.keys()]) this.free(id);
  }

  #empty(id: number): void {
    for (const band of this.#matrices.get(id)?.list ?? []) this.#drop(band.tensor);
    this.#matrices.delete(id);
  }

  /** A matrix of another width is another matrix: its rows are gone. */
  #bandsOf(id: number, width: number): Bands {
    const known = this.#matrices.get(id);
    if (known !== undefined && known.width === width) return known;
    if (known !== undefined) this.#empty(id);
    const fresh = { width, list: [] };
    this.#matrices.set(id, fresh);
    return fresh;
  }

  #keep<T extends tf.Tensor>(tensor: T): T {
    this.#tensors++;
    this.#bytes += tensor.size * 4;
    return tensor;
  }

  #drop(tensor: tf.Tensor): void {
    this.#tensors--;
    this.#bytes -= tensor.size * 4;
    tensor.dispose();
  }

  /** Puts a band where it belongs; bands that it overlaps are gone. */
  #place(id: number, width: number, start: number, tensor: tf.Tensor3D): void {
    const bands = this.#bandsOf(id, width);
    const band: Band = { start, rows: tensor.shape[1], tensor: this.#keep(tensor) };
    const [gone, stay] = [[] as Band[], [] as Band[]];
    for (const old of bands.list) (old.start < endOf(band) && endOf(old) > start ? gone : stay).push(old);
    for (const old of gone) this.#drop(old.tensor);
    bands.list = [...stay, band].sort((a, b) => a.start - b.start);
  }

  /** Adds a row of the matrix to each row of a tensor, which is given up. */
  #shifted(id: number, shift: number | null, tensor: tf.Tensor3D): tf.Tensor3D {
    if (shift === null) return tensor;
    const band = this.#matrices.get(id)?.list.find((b) => b.start <= shift && shift < endOf(b));
    if (band === undefined) throw new RangeError(`matrix ${id} has no row ${shift} to shift by`);
    const [chunks, , w] = tensor.shape;
    const sum = tf.tidy(
      () => tf.add(tensor, tf.slice3d(band.tensor, [0, shift - band.start, 0], [chunks, 1, w])) as tf.Tensor3D,
    );
    tensor.dispose();
    return sum;
  }

  #products(a: Band, b: Band): readonly PendingProduct[] {
    const chunks = a.tensor.shape[0];
    const w = a.tensor.shape[2];
    const cells = Math.floor(this.#largest / 4);
    // A product of all chunks at once, unless it would be larger than a tensor may be.
    if (chunks * a.rows * b.rows <= cells) {
      const tensor = tf.matMul(a.tensor, b.tensor, false, true);
      return [{ a: a.start, aRows: a.rows, b: b.start, bRows: b.rows, tensor }];
    }
    const bRows = Math.max(1, Math.min(b.rows, Math.floor(cells / a.rows)));
    const found: PendingProduct[] = [];
    for (let from = 0; from < b.rows; from += bRows) {
      const rows = Math.min(bRows, b.rows - from);
      const each = Math.max(1, Math.floor(cells / (a.rows * rows)));
      for (let c = 0; c < chunks; c += each) {
        const some = Math.min(each, chunks - c);
        const tensor = tf.tidy(() =>
          tf.matMul(
            tf.slice3d(a.tensor, [c, 0, 0], [some, a.rows, w]),
            tf.slice3d(b.tensor, [c, from, 0], [some, rows, w]),
            false,
            true,
          ),
        );
        found.push({ a: a.start, aRows: a.rows, b: b.start + from, bRows: rows, tensor });
      }
    }
    return found;
  }

  /** Σ over bands of weights · band; a band without weights, the first one, is taken as it is. */
  #mix(
    bands: readonly Band[],
    weights: Weights,
    rows: number,
    weightsOf: (p: Float64Array, band: Band) => Float32Array | null,
  ): tf.Tensor3D {
    const parts = bands.map((band) => ({ band, weights: this.#packed(weights, band, rows, weightsOf) }));
    return tf.tidy(() => {
      let sum: tf.Tensor3D | null = null;
      for (const { band, weights: left } of parts) {
        for (const product of left === null ? [tf.clone(band.tensor)] : weighted(left, band)) {
          sum = sum === null ? product : (tf.add(sum, product) as tf.Tensor3D);
        }
      }
      if (sum === null) throw new RangeError('no rows to mix');
      return sum;
    });
  }

  /** What multiplies one band in a mixing, chunks x rows x band rows: made once for all panels of a slot. */
  #packed(
    weights: Weights,
    band: Band,
    rows: number,
    weightsOf: (p: Float64Array, band: Band) => Float32Array | null,
  ): tf.Tensor3D | null {
    if (weights.values !== null && this.#weights?.key !== weights.key) {
      this.#forgetWeights();
      this.#weights = { key: weights.key, values: weights.values, parts: new Map() };
    }
    const known = this.#weights;
    if (known === null || known.key !== weights.key) throw new Error(`mixing weights ${weights.key} never came`);
    const chunks = band.tensor.shape[0];
    const key = `${rows} ${band.start} ${band.rows} ${chunks}`;
    const made = known.parts.get(key);
    if (made !== undefined) return made;
    const values = weightsOf(known.values, band);
    // Tiled, since not every backend multiplies one matrix by many.
    const part =
      values === null
        ? null
        : this.#keep(tf.tidy(() => tf.tile(tf.tensor3d(values, [1, rows, band.rows]), [chunks, 1, 1]) as tf.Tensor3D));
    known.parts.set(key, part);
    return part;
  }

  #forgetWeights(): void {
    for (const part of this.#weights?.parts.values() ?? []) if (part !== null) this.#drop(part);
    if (this.#weights !== null) this.#weights = { ...this.#weights, parts: new Map() };
  }
}

/** Products of at most a chunk's length each: one accumulator never takes more, and split-K is never chosen. */
const weighted = (left: tf.Tensor3D, { tensor, rows }: Band): readonly tf.Tensor3D[] => {
  if (rows <= TENSOR_CHUNK) return [tf.matMul(left, tensor)];
  const [chunks, m] = left.shape;
  return Array.from({ length: Math.ceil(rows / TENSOR_CHUNK) }, (_, i) => {
    const from = i * TENSOR_CHUNK;
    const some = Math.min(TENSOR_CHUNK, rows - from);
    return tf.matMul(
      tf.slice3d(left, [0, 0, from], [chunks, m, some]),
      tf.slice3d(tensor, [0, from, 0], [chunks, some, tensor.shape[2]]),
    );
  });
};

const shapeOf = (width: number, rows: number): [number, number, number] => [chunkCount(width), rows, chunkWidth(width)];

const bandsIn = (bands: readonly Band[], start: number, rows: number): readonly Band[] =>
  bands.filter((band) => band.start < start + rows && endOf(band) > start);

/** Rows of the result: those below `at` are carried over, then P (m x n) times rows [aStart, aStart + n). */
const combinationWeights = (
  p: Float64Array,
  { m, n }: Weights,
  aStart: number,
  band: Band,
  at: number,
): Float32Array => {
  const weights = new Float32Array((at + m) * band.rows);
  for (let i = 0; i < band.rows; i++) {
    const row = band.start + i;
    if (row < at) weights[row * band.rows + i] = 1;
    const mixed = row - aStart;
    if (mixed >= 0 && mixed < n) for (let j = 0; j < m; j++) weights[(at + j) * band.rows + i] = p[j * n + mixed]!;
  }
  return weights;
};

/** Rows below at + m stay, and those from `at` take P times the n rows that follow; null where a band is all that stays. */
const additionWeights = (p: Float64Array, { m, n }: Weights, band: Band, at: number): Float32Array | null => {
  const end = at + m;
  if (band.start === 0 && band.rows === end) return null;
  const weights = new Float32Array(end * band.rows);
  for (let i = 0; i < band.rows; i++) {
    const row = band.start + i;
    const added = row - end;
    if (added < 0) weights[row * band.rows + i] = 1;
    else if (added < n) for (let j = at; j < end; j++) weights[j * band.rows + i] = p[(j - at) * n + added]!;
  }
  return weights;
};
