// Eigenpairs of the scatter matrix of a mode, whoever added it up: all of them where the side is small, else the largest by
// products that threads share. Cost: side³ / 3 flops, or 2 side² flops a vector multiplied.
import { displayName } from '../sources/display-name.ts';
import { NumericalFailure } from './errors.ts';
import { allFinite } from './find-faults.ts';
import { largerPeak } from './linalg/larger-peak.ts';
import { blocksOf, mirrorDiagonal, packedTrace, unpacked } from './linalg/packed-blocks.ts';
import { KRYLOV_BLOCK, topEigenpairs } from './linalg/top-eigenpairs.ts';
import type { SideMode } from './scatter-tasks.ts';
import { RANK_THRESHOLD, ROUNDING } from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';

/** Up to this side the whole spectrum is found; above it the largest eigenvalues alone. */
export const WHOLE_SPECTRUM_SIDE = 512;
/** Shares into which the blocks of a large matrix are dealt: sums do not depend on how many threads take them. */
export const LANES = 16;

/** What is known of a slot in one mode. */
export interface ModeSpectrum {
  /** `exact`: of the whole scatter matrix; else of its leading directions alone (followed-scatter.ts). */
  readonly engine: 'exact' | 'incremental' | 'frequent-directions';
  readonly mode: SideMode;
  readonly side: number;
  /** N x rows, or N x cols. */
  readonly samples: number;
  /** k: directions above the noise of the products. */
  readonly rank: number;
  /** All of them up to `WHOLE_SPECTRUM_SIDE`, else the first k. */
  readonly eigenvalues: Float64Array;
  /** As many that lie below the true ones whatever came, but for rounding. */
  readonly certain: Float64Array;
  /** ‖S v − λ v‖ of each; null where the whole spectrum was found. */
  readonly residuals: Float64Array | null;
  /** How far the rounding of products can have moved an eigenvalue. */
  readonly rounding: number;
  /** How far following can have lowered one of `certain`; 0 in the engine exact. */
  readonly lowered: number;
  readonly total: number;
  /** k x side, unit rows, each one's largest entry positive. */
  readonly directions: Float32Array;
}

/** A scatter matrix that all samples of a slot were added to. */
export interface ScatterMatrix {
  /** The slot's name, for messages. */
  readonly slot: string;
  readonly mode: SideMode;
  readonly side: number;
  /** Its blocks (packed-blocks.ts), float64; the diagonal ones are mirrored in place. */
  readonly packed: SharedArrayBuffer;
  readonly samples: number;
  /** Eigenvalues that can differ from zero, at most. */
  readonly most: number;
  /** Directions wanted, k. */
  readonly rank: number;
  /** What was subtracted from the matrix: its rounding stays. Default 0. */
  readonly subtracted?: number;
  readonly tiles: Tiles;
}

/** Rejects with NumericalFailure where the matrix is not finite. */
export const scatterSpectrum = async (matrix: ScatterMatrix): Promise<ModeSpectrum> => {
  const { slot, mode, side, packed, samples, most, rank, subtracted = 0, tiles } = matrix;
  const values = new Float64Array(packed);
  if (!allFinite(values)) {
    const { library, version } = tiles.info;
    const detail = `${library} ${version} made a scatter matrix that is not finite, although every weight is`;
    throw new NumericalFailure({ slot: displayName(slot), detail });
  }
  mirrorDiagonal(values, side);
  const total = packedTrace(values, side);
  const solved =
    side <= WHOLE_SPECTRUM_SIDE
      ? { ...tiles.solve(unpacked(values, side), side, Math.min(rank, most)), residuals: null }
      : await topEigenpairs({
          side,
          wanted: Math.min(rank, most),
          multiply: multiplier(tiles, side, packed),
          product: tiles.multiplyDouble,
          solve: tiles.solve,
        });
  const eigenvalues = solved.values.slice(0, most).map((value) => Math.max(value, 0));
  const largest = (eigenvalues[0] ?? 0) + subtracted;
  let kept = 0;
  while (kept < Math.min(rank, eigenvalues.length) && eigenvalues[kept]! > RANK_THRESHOLD * largest) kept++;
  const directions = Float32Array.from(solved.vectors.subarray(0, kept * side));
  for (let j = 0; j < kept; j++) makeLargestPositive(directions.subarray(j * side, (j + 1) * side));
  return {
    engine: 'exact',
    mode,
    side,
    samples,
    rank: kept,
    eigenvalues,
    certain: eigenvalues,
    residuals: solved.residuals,
    rounding: ROUNDING * largest,
    lowered: 0,
    total,
    directions,
  };
};

/** Multiplies with a scatter matrix, through memory that is taken once. */
const multiplier = (
  tiles: Tiles,
  side: number,
  scatter: SharedArrayBuffer,
): ((x: Float64Array, p: number) => Promise<Float64Array>) => {
  const bytes = KRYLOV_BLOCK * side * 8;
  const x = new SharedArrayBuffer(bytes);
  const lanes = Array.from({ length: LANES }, (_, lane) => ({
    blocks: blocksOf(side).filter(({ index }) => index % LANES === lane),
    y: new SharedArrayBuffer(bytes),
  })).filter(({ blocks }) => blocks.length > 0);
  return async (rows, p) => {
    new Float64Array(x).set(rows);
    const common = { kind: 'multiply', side, scatter, p, x } as const;
    await Promise.all(lanes.map((lane) => tiles.scatter({ ...common, ...lane })));
    const sum = new Float64Array(p * side);
    for (const { y } of lanes) {
      const part = new Float64Array(y, 0, sum.length);
      for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + part[i]!;
    }
    return sum;
  };
};

export const makeLargestPositive = (row: Float32Array): void => {
  if (largerPeak(0, row) < 0) for (let i = 0; i < row.length; i++) row[i] = -row[i]!;
};
