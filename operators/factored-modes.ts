// The engine `exact` in the modes rows and cols over adapters, from the factors alone. About the origin an adapter's share of
// a scatter matrix is that of r vectors, ΔWᵀΔW = Rᵀ(LᵀL)R (cols: ΔWΔWᵀ = L(RRᵀ)Lᵀ); what the mean M = Σ ΔW / N had in it is
// taken off at the end, Σ (ΔW − M)ᵀ(ΔW − M) = Σ ΔWᵀΔW − N MᵀM. Where the mean is most of every ΔW that loses digits, as many
// as N ‖M‖² is larger than the scatter's first eigenvalue: `rounding` says how far (the dense way loses none).
// Cost for K = Σ ranks: K side² flops a mode and, centred, 2 K rows cols for the mean, side rows cols for what it takes off;
// with energies as much again for ⟨ΔW, M⟩, and 2 K k (rows + cols) a mode. Memory: 12 bytes a weight of ΔW, 4 side (side + 512)
// a mode, 96 MiB of factors, whatever N is.
// Source: zero-centred HOSVD, arXiv 2512.05117, algorithm 1; scatter about the mean, e.g. Jolliffe 2002, sec. 2.3.

import { displayName } from '../sources/display-name.ts';
import type { PlannedModel } from '../sources/reading-plan.ts';
import { type CoreEnergy, CoreTensor, type ModelVectors } from './core-tensor.ts';
import { NumericalFailure } from './errors.ts';
import {
  type AdapterRange,
  adapterRuns,
  bytesAVector,
  entrySum,
  type FactorSource,
  FactorStack,
  type StackedFactors,
  vectorStride,
  vectorsOf,
} from './factor-stack.ts';
import type { StackedRun } from './factor-tasks.ts';
import { FactoredMean } from './factored-mean.ts';
import { allFinite } from './find-faults.ts';
import { blocksOf, isDiagonal, packedLength } from './linalg/packed-blocks.ts';
import { type ModeEnergies, type SlotEnergies, sideOf } from './mode-scatter.ts';
import { type ModeSpectrum, scatterSpectrum } from './scatter-spectrum.ts';
import type { SideDirections, SideMode } from './scatter-tasks.ts';
import type { Tiles } from './tile-pool.ts';

export interface FactoredModesOptions {
  readonly modes: readonly SideMode[];
  /** Directions made of each mode, k. */
  readonly rank: number;
  readonly tiles: Tiles;
  /** Centre every position over the adapters. Default true. */
  readonly center?: boolean;
  /** Measure every adapter along the directions, which reads the factors once more. Default true. */
  readonly energies?: boolean;
  /** ‖ΔW − M‖² of every adapter where the Gram matrix has told it (`ExactSpectrum.norm2`). Default: measured here. */
  readonly norm2?: Float64Array;
  /** Also make the core tensor, with these directions of mode models over these adapters; in both modes alone. */
  readonly core?: { readonly models: readonly PlannedModel[]; readonly vectors: ModelVectors };
}

/** What `ModesOfSlot` says of a slot, but for its models. */
export interface FactoredModes {
  readonly spectra: readonly ModeSpectrum[];
  readonly energies: SlotEnergies | null;
  readonly core: readonly CoreEnergy[] | null;
  /** ‖ΔW‖² and the mean entry of every adapter. */
  readonly rawNorm2: Float64Array;
  readonly meanEntry: Float64Array;
  /** rows x cols float32; null uncentred. */
  readonly mean: Float32Array | null;
}

/** Floats of stacked factors: about 3,000 vectors of a 4,096 x 4,096 module. */
const STACKED_FLOATS = 3 * 2 ** 23;
/** Vectors stacked at most: what one float32 accumulator takes. */
const STACKED_VECTORS = 8192;
/** Adapters whose roots or energies are one thread's task. */
const ADAPTERS_A_TASK = 8;

interface Scatter {
  readonly mode: SideMode;
  readonly side: number;
  readonly packed: SharedArrayBuffer;
}

/** Adapters stacked at a time: shapes and ranks alone decide, so that sums do not depend on anything else. */
export const stackedRuns = ({
  rows,
  cols,
  ranks,
}: Pick<FactorSource, 'rows' | 'cols' | 'ranks'>): readonly AdapterRange[] =>
  adapterRuns(ranks, Math.min(STACKED_VECTORS, Math.max(1, Math.floor(STACKED_FLOATS / (rows + cols)))));

/** Bytes that `factoredModes` takes at most, but for what finding eigenpairs takes (top-eigenpairs.ts). */
export const factoredModesBytes = (
  source: Pick<FactorSource, 'rows' | 'cols' | 'ranks'>,
  { modes, rank, center = true }: Pick<FactoredModesOptions, 'modes' | 'rank' | 'center'>,
): number => {
  const { rows, cols, ranks } = source;
  const stack = Math.max(0, ...stackedRuns(source).map((run) => vectorsOf(ranks, run))) * bytesAVector(source);
  // Σ and M while the one is made the other, then M and what it has along directions.
  const mean = center ? rows * (8 * cols + 4 * vectorStride(cols)) : 0;
  return modes.reduce((sum, mode) => {
    const side = sideOf(mode, source);
    return sum + packedLength(side) * 8 + rank * (4 * side + 8 * (rows + cols - side));
  }, stack + mean);
};

/**
 * Eigenpairs and energies of adapters in the modes rows and cols. Threads do not change a bit.
 * Rejects with RangeError where there is no adapter or factors are not as announced, with NumericalFailure where a product is
 * not finite, and with what the source rejects with.
 */
export const factoredModes = async (source: FactorSource, options: FactoredModesOptions): Promise<FactoredModes> => {
  const { modes, rank, tiles, center = true, energies = true } = options;
  const { rows, cols, ranks } = source;
  const models = ranks.length;
  if (models < 1) throw new RangeError(`${source.slot}: a spectrum needs at least one adapter`);
  const runs = stackedRuns(source);
  const stack = new FactorStack(source, Math.max(...runs.map((run) => vectorsOf(ranks, run))));
  const scatters = modes.map((mode): Scatter => {
    const side = sideOf(mode, source);
    return { mode, side, packed: new SharedArrayBuffer(packedLength(side) * 8) };
  });
  const mean = center ? new FactoredMean(source, tiles) : null;
  const rawNorm2 = new Float64Array(models);
  const meanEntry = new Float64Array(models);
  for (const run of runs) {
    const stacked = await stack.fill(run, (i, factors) => {
      meanEntry[i] = entrySum(factors) / (rows * cols);
    });
    await mean?.add(stacked);
    await Promise.all(
      adapterTasks(run, ranks).map(async ({ from, run: some }) =>
        rawNorm2.set(await tiles.scatter({ kind: 'roots', stack: stacked, run: some, modes }), from),
      ),
    );
    const bad = rawNorm2.subarray(run.from, run.to).findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const detail = `the factors of adapter ${run.from + bad} have a product that is not finite`;
      throw new NumericalFailure({ slot: displayName(source.slot), detail });
    }
    await Promise.all(scatters.map((scatter) => addVectors(tiles, stacked, scatter)));
  }
  mean?.settle(models);
  const spectra: ModeSpectrum[] = [];
  for (const { mode, side, packed } of scatters) {
    await mean?.takeOff(mode, packed, models);
    const each = mode === 'rows' ? rows : cols;
    const samples = models * each;
    const most = Math.min(side, center ? samples - each : samples);
    const subtracted = models * (mean?.norm2 ?? 0);
    spectra.push(
      await scatterSpectrum({ slot: source.slot, mode, side, packed, samples, most, rank, subtracted, tiles }),
    );
  }
  const found = { spectra, rawNorm2, meanEntry, mean: mean?.values() ?? null };
  return {
    ...found,
    energies: energies ? await measure(source, options, stack, found, mean) : null,
    core: await makeCore(source, options, stack, spectra),
  };
};

/** Adds the rooted vectors of a stack to a mode's scatter matrix. */
const addVectors = async (tiles: Tiles, stack: StackedFactors, { mode, side, packed }: Scatter): Promise<void> => {
  if (stack.count === 0) return;
  const samples = mode === 'rows' ? stack.right : stack.left;
  const shape = { rows: stack.count, cols: side, stride: vectorStride(side) };
  // Vectors stand in rows whatever the mode is.
  const common = { kind: 'fold', mode: 'rows', shape, models: 1, samples, scatter: packed } as const;
  await Promise.all(
    [...blocksOf(side)]
      .sort((a, b) => Number(isDiagonal(a)) - Number(isDiagonal(b)))
      .map((block) => tiles.scatter({ ...common, blocks: [block] })),
  );
};

/** Reads the factors once more: each adapter's energy along the directions, and its distance from the mean. */
const measure = async (
  source: FactorSource,
  { tiles, norm2: known }: FactoredModesOptions,
  stack: FactorStack,
  { spectra, rawNorm2 }: Pick<FactoredModes, 'spectra' | 'rawNorm2'>,
  mean: FactoredMean | null,
): Promise<SlotEnergies> => {
  const { ranks } = source;
  const norm2 = Float64Array.from(known ?? rawNorm2);
  const along = await Promise.all(
    spectra.map(async ({ mode, rank, directions: { buffer, length } }) => {
      const directions = new SharedArrayBuffer(length * 4);
      new Float32Array(directions).set(new Float32Array(buffer, 0, length));
      const meanAlong = rank === 0 || mean === null ? null : await mean.along(mode, directions, rank);
      return { mode, rank, directions, meanAlong };
    }),
  );
  const modes = spectra.map(
    ({ mode, rank }): ModeEnergies => ({ mode, energies: new Float64Array(ranks.length * rank) }),
  );
  for (const run of stackedRuns(source)) {
    const stacked = await stack.fill(run);
    const tasks = adapterTasks(run, ranks);
    await Promise.all(
      along.flatMap((one, m) =>
        tasks.map(async ({ from, run: some }) => {
          if (one.rank === 0) return;
          const task = { kind: 'factor-energy', stack: stacked, run: some, ...one } as const;
          modes[m]!.energies.set(await tiles.scatter(task), from * one.rank);
        }),
      ),
    );
    if (mean === null || known !== undefined) continue;
    const inner = await mean.innerProducts(stacked);
    let at = 0;
    for (let i = run.from; i < run.to; i++) {
      let sum = 0;
      for (const end = at + ranks[i]!; at < end; at++) sum += inner[at]!;
      norm2[i] = Math.max(rawNorm2[i]! - 2 * sum + mean.norm2, 0);
    }
  }
  if (!allFinite(norm2) || !modes.every((mode) => allFinite(mode.energies))) {
    const { library, version } = tiles.info;
    const detail = `${library} ${version} made energies that are not finite, although every factor is`;
    throw new NumericalFailure({ slot: displayName(source.slot), detail });
  }
  return { norm2, modes };
};

/** Reads the factors once more, for the core tensor; null where it was not asked for. */
const makeCore = async (
  source: FactorSource,
  { tiles, core: wanted, center = true }: FactoredModesOptions,
  stack: FactorStack,
  spectra: readonly ModeSpectrum[],
): Promise<readonly CoreEnergy[] | null> => {
  if (wanted === undefined) return null;
  const [rows, cols] = (['rows', 'cols'] as const).map((mode) => sharedDirections(spectra, mode));
  if (rows === undefined || cols === undefined) return null;
  const { models, vectors } = wanted;
  const core = new CoreTensor(vectors, { rows: rows.rank, cols: cols.rank });
  const length = rows.rank * cols.rank;
  const ofMean = new Float64Array(length);
  let added = 0;
  for (const run of stackedRuns(source)) {
    const stacked = await stack.fill(run);
    const answers = await Promise.all(
      adapterTasks(run, source.ranks).map(({ run: some }) =>
        tiles.scatter({ kind: 'factor-core', stack: stacked, run: some, rows, cols }),
      ),
    );
    for (const answer of answers) {
      for (let at = 0; at < answer.length; at += length) {
        const projected = answer.subarray(at, at + length);
        core.add(models[added++]!, projected);
        for (let i = 0; i < length; i++) ofMean[i] = ofMean[i]! + projected[i]! / models.length;
      }
    }
  }
  if (center) core.takeOff(ofMean);
  return core.energies();
};

const sharedDirections = (spectra: readonly ModeSpectrum[], mode: SideMode): SideDirections | undefined => {
  const found = spectra.find((spectrum) => spectrum.mode === mode);
  if (found === undefined) return undefined;
  const values = new SharedArrayBuffer(found.directions.byteLength);
  new Float32Array(values).set(found.directions);
  return { rank: found.rank, values };
};

/** A stacked run of adapters in tasks of a few. */
const adapterTasks = (
  { from, to }: AdapterRange,
  ranks: ArrayLike<number>,
): readonly { readonly from: number; readonly run: StackedRun }[] => {
  const tasks: { from: number; run: StackedRun }[] = [];
  let at = 0;
  for (let i = from; i < to; i += ADAPTERS_A_TASK) {
    const some = Array.from({ length: Math.min(ADAPTERS_A_TASK, to - i) }, (_, j) => ranks[i + j]!);
    tasks.push({ from: i, run: { at, ranks: some } });
    at += some.reduce((a, b) => a + b, 0);
  }
  return tasks;
};
