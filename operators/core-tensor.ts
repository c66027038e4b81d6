// The core tensor of a slot's zero-centred HOSVD: all models, x1 the directions of mode models, x2 those of mode rows, x3
// those of mode cols. The energy of its leading corner is what multilinear ranks (a, b, c) keep of the scatter, so the
// tensor itself need not be kept. It adds up model by model: model i gives v_i ⊗ U_r (W_i − M)ᵀ U_cᵀ, v its coefficients.
// Cost a model: 2 k_r features flops, then 2 k_r k_c (rows + k_m). Memory: 8 k_m k_r k_c bytes.
// Source: arXiv 2512.05117, algorithm 1; De Lathauwer, De Moor & Vandewalle 2000, sec. 3.
import type { PlannedModel } from '../sources/reading-plan.ts';
import { samplePieces } from './sample-pieces.ts';
import type { SampleShape, SideDirections } from './scatter-tasks.ts';
import type { Tiles } from './tile-pool.ts';

/** Directions of mode models, as unit coefficients over the models: direction j is Σ v_ij (x_i − mean) / s_j. */
export interface ModelVectors {
  /** model_ids, in order. */
  readonly ids: Int32Array;
  /** k_m. */
  readonly rank: number;
  /** N x k_m, row-major. */
  readonly values: Float64Array;
}

/** So many directions of each mode. */
export interface MultilinearRanks {
  readonly models: number;
  readonly rows: number;
  readonly cols: number;
}

export interface CoreEnergy extends MultilinearRanks {
  /** Σ of the squares of the core's entries up to these ranks. */
  readonly energy: number;
}

/** 1, 2, 4, … and the last: few enough to list all of their combinations. */
export const coreCuts = (rank: number): readonly number[] => {
  const cuts: number[] = [];
  for (let cut = 1; cut < rank; cut *= 2) cuts.push(cut);
  return rank > 0 ? [...cuts, rank] : [];
};

/** All combinations of the modes' cuts, those of mode cols changing fastest. */
export const coreGrid = ({ models, rows, cols }: MultilinearRanks): readonly MultilinearRanks[] =>
  coreCuts(models).flatMap((a) =>
    coreCuts(rows).flatMap((b) => coreCuts(cols).map((c) => ({ models: a, rows: b, cols: c }))),
  );

export const coreBytes = ({ models, rows, cols }: MultilinearRanks): number => models * rows * cols * 8;

/** @param spectrum coordinates N x rank, and the state's eigenvalues */
export const modelVectors = (
  models: readonly PlannedModel[],
  {
    coordinates,
    rank,
    state,
  }: {
    readonly coordinates: Float64Array;
    readonly rank: number;
    readonly state: { readonly eigenvalues: Float64Array };
  },
): ModelVectors => ({
  ids: Int32Array.from(models, ({ id }) => id),
  rank,
  values: coordinates.map((value, at) => value / Math.sqrt(state.eigenvalues[at % rank]!)),
});

/** The core of one slot, as far as models were added. */
export class CoreTensor {
  readonly ranks: MultilinearRanks;
  readonly #vectors: ModelVectors;
  readonly #place: ReadonlyMap<number, number>;
  readonly #values: Float64Array;
  #added = 0;
  #isWhole = true;

  constructor(vectors: ModelVectors, { rows, cols }: Pick<MultilinearRanks, 'rows' | 'cols'>) {
    this.ranks = { models: vectors.rank, rows, cols };
    this.#vectors = vectors;
    this.#place = new Map(Array.from(vectors.ids, (id, i) => [id, i]));
    this.#values = new Float64Array(coreBytes(this.ranks) / 8);
  }

  /** @param projected U_r (W − M)ᵀ U_cᵀ of a model, k_r x k_c */
  add({ id }: PlannedModel, projected: Float64Array): void {
    const place = this.#place.get(id);
    if (place === undefined) {
      this.#isWhole = false;
      return;
    }
    this.#added++;
    this.#accumulate(projected, (a) => this.#vectors.values[place * this.#vectors.rank + a]!);
  }

  /** Where models were added about the origin: takes off what their mean, projected, had in them. */
  takeOff(mean: Float64Array): void {
    const { rank, values } = this.#vectors;
    const sums = new Float64Array(rank);
    for (let at = 0; at < values.length; at++) sums[at % rank] = sums[at % rank]! + values[at]!;
    this.#accumulate(mean, (a) => -sums[a]!);
  }

  #accumulate(projected: Float64Array, coefficient: (a: number) => number): void {
    for (let a = 0; a < this.#vectors.rank; a++) {
      const v = coefficient(a);
      const at = a * projected.length;
      for (let i = 0; i < projected.length; i++) this.#values[at + i] = this.#values[at + i]! + v * projected[i]!;
    }
  }

  /** Of the grid's ranks; null where a model could be read in one mode and not in the other, so that there is no core. */
  energies(): readonly CoreEnergy[] | null {
    if (!this.#isWhole || this.#added !== this.#vectors.ids.length) return null;
    const { models, rows, cols } = this.ranks;
    const grid = coreGrid(this.ranks);
    const [ofModels, ofRows, ofCols] = [coreCuts(models), coreCuts(rows), coreCuts(cols)];
    const [b, c] = [ofRows.length, ofCols.length];
    const sums = new Float64Array(ofModels.length * b * c);
    // The first cut that holds each index: what lies between two cuts is added up once, then over the cuts.
    const [inModels, inRows, inCols] = [ofModels, ofRows, ofCols].map((cuts) => firstCuts(cuts));
    for (let i = 0, at = 0; i < models; i++) {
      for (let j = 0; j < rows; j++) {
        const cell = (inModels![i]! * b + inRows![j]!) * c;
        for (let l = 0; l < cols; l++, at++) {
          const value = this.#values[at]!;
          sums[cell + inCols![l]!] = sums[cell + inCols![l]!]! + value * value;
        }
      }
    }
    for (const [step, count] of [
      [1, c],
      [c, b],
      [b * c, ofModels.length],
    ] as const) {
      for (let at = 0; at < sums.length; at++) {
        if (Math.floor(at / step) % count > 0) sums[at] = sums[at]! + sums[at - step]!;
      }
    }
    return grid.map((ranks, at) => ({ ...ranks, energy: sums[at]! }));
  }
}

/** For each index below the last cut the place of the first cut above it. */
const firstCuts = (cuts: readonly number[]): Int32Array =>
  Int32Array.from({ length: cuts.at(-1) ?? 0 }, (_, i) => cuts.findIndex((cut) => i < cut));

/** U_r (W − M)ᵀ U_cᵀ of some models whose samples W − M are in memory: models x k_r x k_c. Threads do not change a bit. */
export const projectModels = async (
  tiles: Tiles,
  {
    shape,
    samples,
    models,
  }: { readonly shape: SampleShape; readonly samples: SharedArrayBuffer; readonly models: number },
  rows: SideDirections,
  cols: SideDirections,
): Promise<readonly Float64Array[]> => {
  const length = rows.rank * cols.rank;
  const sums = Array.from({ length: models }, () => new Float64Array(length));
  if (length === 0) return sums;
  const tasks = samplePieces(shape.rows * shape.cols, shape.cols, models);
  const answers = await Promise.all(
    tasks.map((pieces) => tiles.scatter({ kind: 'core', shape, samples, pieces, rows, cols })),
  );
  tasks.forEach((pieces, t) => {
    pieces.forEach(({ model }, i) => {
      const sum = sums[model]!;
      const part = answers[t]!.subarray(i * length, (i + 1) * length);
      for (let j = 0; j < length; j++) sum[j] = sum[j]! + part[j]!;
    });
  });
  return sums;
};
