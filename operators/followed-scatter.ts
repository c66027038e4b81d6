// The modes rows and cols where a scatter matrix is too large to be kept: its leading directions alone are followed, by the
// same update as the engine incremental makes of mode models, uncentred, since what comes in is centred already (mode-scatter.ts),
// or that of frequent-directions. How far an eigenvalue can lie from the truth the state says; the total is exact.
// Cost a sample: 2 side (ℓ + b + ℓ (ℓ + b) / b) flops, b samples at a time, against side² of an exact matrix. Memory: 2 ℓ floats a
// feature of the side, ℓ = max(2k, 16).
// Source: Ross et al. 2008, sec. 2.1; Levy & Lindenbaum 2000.
import { displayName } from '../sources/display-name.ts';
import { NumericalFailure } from './errors.ts';
import { allFinite } from './find-faults.ts';
import { packShrunk, unpackShrunk } from './keep-rows.ts';
import { addTo } from './linalg/dense-products.ts';
import { type ModeSpectrum, makeLargestPositive } from './scatter-spectrum.ts';
import type { FollowTask, SampleRange, SideMode, SideSamples } from './scatter-tasks.ts';
import {
  certainEigenvalues,
  eigenvalueSlack,
  emptySubspace,
  roundingTerm,
  type SubspaceSpec,
  type SubspaceState,
  stateRowsFor,
} from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';
import { rowsBeforeBlock, updateSubspace } from './update-subspace.ts';

/** Engines that can follow a side. */
export type FollowingEngine = 'incremental' | 'frequent-directions';

/** Samples that an update takes. */
export const SAMPLES_AT_ONCE = 256;
/** Features of the side that are one thread's task. */
const FEATURES_A_TASK = 8192;
/** Numbers of a state beside its eigenvalues, and of frequent directions what was shrunk. */
const SCALARS = ['models', 'total', 'lost', 'truncation', 'largestNorm2', 'totalUncentred'] as const;

/** Bytes that the state of a side takes. */
export const followedBytes = (side: number, rank: number): number =>
  2 * stateRowsFor({ rank, features: side }) * side * 4;

/** Updates that models of so many samples make. */
export const followedUpdates = (samples: number, models: number): number =>
  models * Math.ceil(samples / SAMPLES_AT_ONCE);

/** Operations a weight, where a model gives `samples`. */
export const followedFlops = (side: number, samples: number, rank: number): number => {
  const b = Math.min(SAMPLES_AT_ONCE, samples);
  const rows = stateRowsFor({ rank, features: side });
  return 2 * (rows + b + (rows * (rows + b)) / b);
};

export class FollowedScatter {
  readonly mode: SideMode;
  readonly side: number;
  readonly #slot: string;
  readonly #engine: FollowingEngine;
  readonly #spec: SubspaceSpec;
  readonly #tiles: Tiles;
  /** The state's rows, ℓ x side (mode rows) or side x ℓ (mode cols), and the room for the next ones. */
  #rows: SharedArrayBuffer;
  #next: SharedArrayBuffer;
  /** Of the state, for a checkpoint: its scalars, how many eigenvalues, these. */
  readonly #numbers: SharedArrayBuffer;
  #state: SubspaceState = emptySubspace;

  constructor(slot: string, mode: SideMode, side: number, rank: number, tiles: Tiles, engine: FollowingEngine) {
    this.#slot = slot;
    this.mode = mode;
    this.side = side;
    this.#tiles = tiles;
    this.#spec = { features: side, rank, center: false, shiftIsOrigin: true, engine };
    this.#engine = engine;
    const bytes = followedBytes(side, rank) / 2;
    this.#rows = new SharedArrayBuffer(bytes);
    this.#next = new SharedArrayBuffer(bytes);
    this.#numbers = new SharedArrayBuffer(
      (SCALARS.length + 1 + this.#most * (engine === 'frequent-directions' ? this.#most + 2 : 1)) * 8,
    );
  }

  /** State rows at most, ℓ: also what they are apart in memory in mode cols. */
  get #most(): number {
    return stateRowsFor(this.#spec);
  }

  /** All that a checkpoint keeps. */
  get arrays(): readonly SharedArrayBuffer[] {
    return [this.#rows, this.#numbers];
  }

  /** After `arrays` were filled. */
  restore(): void {
    const numbers = new Float64Array(this.#numbers);
    const scalars = Object.fromEntries(SCALARS.map((name, i) => [name, numbers[i]!]));
    const first = SCALARS.length + 1;
    const eigenvalues = numbers.slice(first, first + numbers[SCALARS.length]!);
    const r = eigenvalues.length;
    const rowsDotMean = new Float64Array(r);
    this.#state = { ...emptySubspace, ...scalars, eigenvalues, rowsDotMean };
    if (this.#engine !== 'frequent-directions' || r === 0) return;
    this.#state = { ...this.#state, shrunk: unpackShrunk(numbers.subarray(first + r), r) };
  }

  /** Folds models' samples in. Rejects with NumericalFailure where a product is not finite. */
  async add(samples: SideSamples): Promise<void> {
    const { rows, cols } = samples.shape;
    const each = this.mode === 'rows' ? rows : cols;
    for (let model = 0; model < samples.models; model++) {
      for (let from = 0; from < each; from += SAMPLES_AT_ONCE)
        await this.#fold(samples, { model, from, to: Math.min(from + SAMPLES_AT_ONCE, each) });
    }
  }

  async #fold(samples: SideSamples, range: SampleRange): Promise<void> {
    const r = this.#state.eigenvalues.length;
    const b = range.to - range.from;
    const task = { ...samples, ...{ range, state: this.#rows, stateRows: r, mostRows: this.#most } } as const;
    const parts = await Promise.all(
      this.#features().map((features) => this.#tiles.scatter({ kind: 'follow', ...task, features })),
    );
    const before = rowsBeforeBlock(0);
    const values = new Float64Array((before + r + b) * b);
    for (const part of parts) addTo(values.subarray(before * b), part, this.#tiles.multiplyDouble);
    if (!allFinite(values)) {
      const { library, version } = this.#tiles.info;
      const detail = `${library} ${version} made a Gram matrix that is not finite, although every weight is`;
      throw new NumericalFailure({ slot: displayName(this.#slot), detail });
    }
    const gram = { values, columns: b, block: b, shiftSum: 0 };
    const { state, mix, newRows } = updateSubspace(
      this.#spec,
      this.#state,
      gram,
      this.#tiles.solve,
      this.#tiles.multiplyDouble,
    );
    // Without the mean's row and column.
    const width = 1 + r + b;
    const plain = new Float64Array(newRows * (r + b));
    for (let j = 0; j < newRows; j++) plain.set(mix.subarray((1 + j) * width + 1, (2 + j) * width), j * (r + b));
    await Promise.all(
      this.#features().map((features) =>
        this.#tiles.scatter({ kind: 'turn', ...task, features, mix: plain, newRows, into: this.#next }),
      ),
    );
    [this.#rows, this.#next] = [this.#next, this.#rows];
    this.#state = state;
    this.#keepNumbers();
  }

  #keepNumbers(): void {
    const numbers = new Float64Array(this.#numbers);
    SCALARS.forEach((name, i) => {
      numbers[i] = this.#state[name];
    });
    numbers[SCALARS.length] = this.#state.eigenvalues.length;
    const { eigenvalues, shrunk } = this.#state;
    const first = SCALARS.length + 1;
    numbers.set(eigenvalues, first);
    if (shrunk !== undefined) numbers.set(packShrunk(shrunk), first + eigenvalues.length);
  }

  #features(): readonly FollowTask['features'][] {
    return Array.from({ length: Math.ceil(this.side / FEATURES_A_TASK) }, (_, i) => ({
      from: i * FEATURES_A_TASK,
      to: Math.min((i + 1) * FEATURES_A_TASK, this.side),
    }));
  }

  /** @param samples of all models, those that are zero among them */
  spectrum(samples: number): ModeSpectrum {
    const { side, mode } = this;
    const { eigenvalues, total } = this.#state;
    const rank = Math.min(this.#spec.rank, eigenvalues.length);
    const rows = new Float32Array(this.#rows);
    const directions = new Float32Array(rank * side);
    for (let j = 0; j < rank; j++) {
      const scale = 1 / Math.sqrt(eigenvalues[j]!);
      const [start, step] = mode === 'rows' ? [j * side, 1] : [j, this.#most];
      const out = directions.subarray(j * side, (j + 1) * side);
      for (let i = 0; i < side; i++) out[i] = rows[start + i * step]! * scale;
      makeLargestPositive(out);
    }
    const rounding = roundingTerm(this.#state);
    return {
      engine: this.#engine,
      mode,
      side,
      samples,
      rank,
      eigenvalues: eigenvalues.slice(0, rank),
      certain: certainEigenvalues(this.#state).slice(0, rank),
      residuals: null,
      rounding,
      lowered: eigenvalueSlack(this.#state) - rounding,
      total,
      directions,
    };
  }
}
