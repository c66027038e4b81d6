// The mean of adapters' ΔW out of their factors, M = Σ L R / N: the one matrix of the factored ways that is as large as ΔW.
// Summed in float64, then kept as float32. Cost: 2 rows cols flops a vector. Memory: 12 bytes a weight while it is made, 4 after.
import { type FactorShape, type StackedFactors, vectorStride } from './factor-stack.ts';
import { blocksOf, type Extent, extentsOf, isDiagonal, widthOf } from './linalg/packed-blocks.ts';
import type { SideMode } from './scatter-tasks.ts';
import type { Tiles } from './tile-pool.ts';

interface MeanBlock {
  readonly rows: Extent;
  readonly columns: Extent;
  readonly offset: number;
}

export class FactoredMean {
  readonly #shape: FactorShape;
  readonly #tiles: Tiles;
  readonly #blocks: readonly MeanBlock[];
  /** Σ L R, block by block, float64; given up when the mean is settled. */
  #sum: SharedArrayBuffer | null;
  /** rows x cols float32, padded as stacked right vectors are. */
  #mean: SharedArrayBuffer | null = null;
  #norm2 = 0;

  constructor({ rows, cols }: FactorShape, tiles: Tiles) {
    const blocks: MeanBlock[] = [];
    let offset = 0;
    for (const row of extentsOf(rows)) {
      for (const column of extentsOf(cols)) {
        blocks.push({ rows: row, columns: column, offset });
        offset += widthOf(row) * widthOf(column);
      }
    }
    this.#shape = { rows, cols };
    this.#tiles = tiles;
    this.#blocks = blocks;
    this.#sum = new SharedArrayBuffer(offset * 8);
  }

  /** ‖M‖². */
  get norm2(): number {
    return this.#norm2;
  }

  async add(stack: StackedFactors): Promise<void> {
    if (stack.count === 0) return;
    const sum = this.#sum!;
    await Promise.all(this.#blocks.map((block) => this.#tiles.scatter({ kind: 'outer', stack, ...block, sum })));
  }

  /** After all adapters were added. */
  settle(models: number): void {
    const stride = vectorStride(this.#shape.cols);
    const sum = new Float64Array(this.#sum!);
    const buffer = new SharedArrayBuffer(this.#shape.rows * stride * 4);
    const mean = new Float32Array(buffer);
    let norm2 = 0;
    for (const { rows, columns, offset } of this.#blocks) {
      const width = widthOf(columns);
      for (let i = rows.from; i < rows.to; i++) {
        const from = offset + (i - rows.from) * width;
        for (let j = 0; j < width; j++) {
          const value = sum[from + j]! / models;
          mean[i * stride + columns.from + j] = value;
          norm2 += value * value;
        }
      }
    }
    this.#sum = null;
    this.#mean = buffer;
    this.#norm2 = norm2;
  }

  /** Takes N MᵀM (rows) or N MMᵀ (cols) off a scatter matrix in blocks. */
  async takeOff(mode: SideMode, scatter: SharedArrayBuffer, models: number): Promise<void> {
    const { rows, cols } = this.#shape;
    const values = new Float64Array(scatter);
    // S − N MᵀM = −N (MᵀM − S / N): threads only ever add.
    scale(values, -1 / models);
    const shape = { rows, cols, stride: vectorStride(cols) };
    const common = { kind: 'fold', mode, shape, models: 1, samples: this.#mean!, scatter } as const;
    await Promise.all(
      [...blocksOf(mode === 'rows' ? cols : rows)]
        .sort((a, b) => Number(isDiagonal(a)) - Number(isDiagonal(b)))
        .map((block) => this.#tiles.scatter({ ...common, blocks: [block] })),
    );
    scale(values, -models);
  }

  /** What the mean has along k directions of a mode: k x its samples, float64. */
  async along(mode: SideMode, directions: SharedArrayBuffer, rank: number): Promise<SharedArrayBuffer> {
    const count = mode === 'rows' ? this.#shape.rows : this.#shape.cols;
    const meanAlong = new SharedArrayBuffer(rank * count * 8);
    const common = {
      kind: 'mean-along',
      ...this.#shape,
      mean: this.#mean!,
      mode,
      rank,
      directions,
      meanAlong,
    } as const;
    await Promise.all(extentsOf(count).map((samples) => this.#tiles.scatter({ ...common, samples })));
    return meanAlong;
  }

  /** l_kᵀ M r_k of every vector of a stack: ⟨ΔW, M⟩ is their sum over an adapter's. */
  async innerProducts(stack: StackedFactors): Promise<Float64Array> {
    const sums = new Float64Array(stack.count);
    const mean = this.#mean!;
    await Promise.all(
      extentsOf(stack.count).map(async (vectors) => {
        const parts = await Promise.all(
          extentsOf(this.#shape.rows).map((rows) =>
            this.#tiles.scatter({ kind: 'mean-inner', stack, vectors, mean, rows }),
          ),
        );
        for (const part of parts) {
          for (let k = 0; k < part.length; k++) sums[vectors.from + k] = sums[vectors.from + k]! + part[k]!;
        }
      }),
    );
    return sums;
  }

  /** rows x cols, without padding. */
  values(): Float32Array {
    const { rows, cols } = this.#shape;
    const stride = vectorStride(cols);
    const mean = new Float32Array(this.#mean!);
    const out = new Float32Array(rows * cols);
    for (let i = 0; i < rows; i++) out.set(mean.subarray(i * stride, i * stride + cols), i * cols);
    return out;
  }
}

const scale = (values: Float64Array, factor: number): void => {
  for (let i = 0; i < values.length; i++) values[i] = values[i]! * factor;
};
