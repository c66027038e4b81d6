// Factors of many adapters of one module stacked in shared memory, a vector of each side a row: row k of `left` is a column
// of some adapter's left factor, row k of `right` the row of its right factor that goes with it. ΔW of adapter i is the sum
// of left_k right_kᵀ over its rows.
// Memory: 4 (rows + cols) bytes a vector. Rows are padded as samples of other modes are.
import type { AdapterFactors } from '../sources/adapter-factors.ts';
import type { Samples } from './devices/device.ts';
import { sampleShape } from './mode-scatter.ts';

/** Rows and columns of ΔW. */
export interface FactorShape {
  readonly rows: number;
  readonly cols: number;
}

/** The adapters of one module, in the stream's order. */
export interface FactorSource extends FactorShape {
  /** The module's name, for messages. */
  readonly slot: string;
  /** The rank of every adapter's factors; 0 where it leaves the module alone. */
  readonly ranks: ArrayLike<number>;
  /** Factors of adapters [from, to); asked for in order, more than once. */
  read(from: number, to: number): Promise<readonly AdapterFactors[]>;
}

/** Consecutive adapters. */
export interface AdapterRange {
  readonly from: number;
  readonly to: number;
}

/** Stacked factors, as threads see them. */
export interface StackedFactors extends FactorShape {
  readonly left: SharedArrayBuffer;
  readonly right: SharedArrayBuffer;
  /** Vectors stacked. */
  readonly count: number;
}

/** Factors read at a time: about 16 MiB. */
const READ_BYTES = 2 ** 24;

/** Floats from one vector of `length` numbers to the next. */
export const vectorStride = (length: number): number => sampleShape({ rows: 1, cols: length }).stride;

/** Bytes of a stack, a vector. */
export const bytesAVector = ({ rows, cols }: FactorShape): number => (vectorStride(rows) + vectorStride(cols)) * 4;

/** A side of a stack; its vectors' entries are the features (`columns`), or its vectors the samples (`rows`). */
export const stackSamples = (
  { rows, cols, left, right, count }: StackedFactors,
  side: 'left' | 'right',
  stand: Samples['stand'],
): Samples => {
  const length = side === 'left' ? rows : cols;
  const values = new Float32Array(side === 'left' ? left : right);
  const stride = vectorStride(length);
  return stand === 'rows'
    ? { values, stride, stand, side: length, count }
    : { values, stride, stand, side: count, count: length };
};

/** Σ of ranks of adapters [from, to). */
export const vectorsOf = (ranks: ArrayLike<number>, { from, to }: AdapterRange): number => {
  let sum = 0;
  for (let i = from; i < to; i++) sum += ranks[i]!;
  return sum;
};

/** Adapters in runs of at most `most` vectors, or one that has more by itself: ranks alone decide. */
export const adapterRuns = (ranks: ArrayLike<number>, most: number): readonly AdapterRange[] => {
  const runs: AdapterRange[] = [];
  let from = 0;
  let vectors = 0;
  for (let i = 0; i < ranks.length; i++) {
    if (i > from && vectors + ranks[i]! > most) {
      runs.push({ from, to: i });
      from = i;
      vectors = 0;
    }
    vectors += ranks[i]!;
  }
  if (ranks.length > from) runs.push({ from, to: ranks.length });
  return runs;
};

/** Σ of all entries of ΔW. */
export const entrySum = ({ cols, rank, left, right }: AdapterFactors): number => {
  const ofLeft = new Float64Array(rank);
  for (let i = 0; i < left.length; i += rank) for (let a = 0; a < rank; a++) ofLeft[a] = ofLeft[a]! + left[i + a]!;
  let sum = 0;
  for (let a = 0; a < rank; a++) {
    let ofRight = 0;
    for (let j = a * cols; j < (a + 1) * cols; j++) ofRight += right[j]!;
    sum += ofLeft[a]! * ofRight;
  }
  return sum;
};

export class FactorStack {
  readonly #source: FactorSource;
  readonly #left: Float32Array;
  readonly #right: Float32Array;

  /** @param vectors room for so many */
  constructor(source: FactorSource, vectors: number) {
    const { rows, cols } = source;
    const floats = (length: number): Float32Array =>
      new Float32Array(new SharedArrayBuffer(vectors * vectorStride(length) * 4));
    this.#source = source;
    this.#left = floats(rows);
    this.#right = floats(cols);
  }

  /**
   * Stacks a run of adapters, in place of what stood there.
   * @param each sees an adapter and its first vector in the stack
   * @throws RangeError where an adapter's factors are not as its rank and the module's shape say
   */
  async fill(
    { from, to }: AdapterRange,
    each: (adapter: number, factors: AdapterFactors) => void = () => {},
  ): Promise<StackedFactors> {
    const { rows, cols, ranks, slot } = this.#source;
    let at = 0;
    for (const portion of this.#portions(from, to)) {
      const all = await this.#source.read(portion.from, portion.to);
      for (let i = portion.from; i < portion.to; i++) {
        const factors = all[i - portion.from]!;
        const { rank, left, right } = factors;
        const sound = factors.rows === rows && factors.cols === cols && rank === ranks[i];
        if (!sound || left.length !== rows * rank || right.length !== rank * cols)
          throw new RangeError(
            `${slot}: adapter ${i} has factors of ${factors.rows} x ${rank} x ${factors.cols} ` +
              `(${left.length} and ${right.length} numbers), expected ${rows} x ${ranks[i]} x ${cols}`,
          );
        this.#place(factors, at);
        each(i, factors);
        at += rank;
      }
    }
    return {
      rows,
      cols,
      left: this.#left.buffer as SharedArrayBuffer,
      right: this.#right.buffer as SharedArrayBuffer,
      count: at,
    };
  }

  #portions(from: number, to: number): readonly AdapterRange[] {
    const { rows, cols, ranks } = this.#source;
    const some = Array.from({ length: to - from }, (_, i) => ranks[from + i]!);
    const runs = adapterRuns(some, Math.floor(READ_BYTES / (4 * (rows + cols))));
    return runs.map((run) => ({ from: from + run.from, to: from + run.to }));
  }

  #place({ rows, cols, rank, left, right }: AdapterFactors, at: number): void {
    const [ls, rs] = [vectorStride(rows), vectorStride(cols)];
    for (let a = 0; a < rank; a++) {
      const start = (at + a) * ls;
      for (let p = 0; p < rows; p++) this.#left[start + p] = left[p * rank + a]!;
      this.#right.set(right.subarray(a * cols, (a + 1) * cols), (at + a) * rs);
    }
  }
}
