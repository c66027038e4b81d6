// Nyström's approximation out of a sketch's small matrices: the eigenpairs of M̂ = Yᵀ B⁺ Y, where Y = Ψ M and B = Ψ M Ψᵀ are
// centred here and nowhere before, and an estimate of how far M̂ is from M, from rows of Ψ that take no part in it.
// M̂ ≤ M: it is M compressed to the space of Y. Cost: O(L³), two eigendecompositions of L x L at most.
// Source: Tropp, Yurtsever, Udell & Cevher 2017 (fixed-rank Nyström); 2019, sec. 6 (error estimate).
import { productOf } from './linalg/dense-products.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { symmetrise } from './linalg/symmetrise.ts';
import { RANK_THRESHOLD, type SubspaceSpec, TEST_ROWS } from './subspace-state.ts';

/** The small matrices of a slot, L rows of signs (or, in a second pass, of directions). */
export interface Sketch {
  /**
   * V, L x L orthogonal: z = V Ψ x, in place of Ψ x. Nyström is the same for any V; this one makes the rows of Y as long as
   * what they stand for, so that float32 does not blur the short ones by the longest.
   */
  readonly turn: Float64Array;
  /** ⟨s, s⟩, then ⟨s, Y_j⟩: the first row of the Gram matrix of [s; Y]. */
  readonly sumDots: Float64Array;
  /** Y Yᵀ, L x L. */
  readonly rowDots: Float64Array;
  /** Σ z zᵀ = Ψ M Ψᵀ, L x L. */
  readonly core: Float64Array;
  /** Σ z = Ψ s; zeros uncentred. */
  readonly tests: Float64Array;
  /** Unit directions out of [s; Y]: q x (1 + L). */
  readonly directions: Float64Array;
}

/** An estimate is taken for a bound at so many times its value (Tropp et al. 2019, sec. 6). */
const CAUTION = 1.25;

/** Share of ‖Ψ M‖² below which the estimate's square is rounding. */
const ESTIMATE_FLOOR = 2 ** -24;

/** Eigenpairs of Yᵀ B⁺ Y, centred, and an estimate of how far from M it is. */
export const nystrom = (
  spec: SubspaceSpec,
  { sumDots, rowDots, core, tests }: Sketch,
  models: number,
  norm2: number,
  solve: EigenSolver,
): { readonly eigenvalues: Float64Array; readonly directions: Float64Array; readonly error: number } => {
  const rows = tests.length;
  const inside = rows - TEST_ROWS;
  const average = tests.map((sum) => sum / models);
  const dots = rowDots.slice();
  const centredCore = core.slice();
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      const at = i * rows + j;
      const mean = average[i]! * average[j]!;
      dots[at] = dots[at]! - average[i]! * sumDots[1 + j]! - average[j]! * sumDots[1 + i]! + mean * sumDots[0]!;
      centredCore[at] = centredCore[at]! - models * mean;
    }
  }
  // --- E = μ^-½ Vᵀ over the rows that take part, t x L
  const own = new Float64Array(inside * inside);
  for (let i = 0; i < inside; i++) own.set(centredCore.subarray(i * rows, i * rows + inside), i * inside);
  const { values: mu, vectors } = solve(own, inside);
  let kept = 0;
  while (kept < inside && mu[kept]! > RANK_THRESHOLD * mu[0]!) kept++;
  const whitening = new Float64Array(kept * rows);
  for (let i = 0; i < kept; i++) {
    for (let j = 0; j < inside; j++) whitening[i * rows + j] = vectors[i * inside + j]! / Math.sqrt(mu[i]!);
  }
  // --- F = E Y, F Fᵀ = U Λ Uᵀ
  const half = productOf(whitening, dots, kept, rows, rows);
  const small = productOf(half, whitening, kept, rows, kept, { transposed: true });
  const { values, vectors: mixing } = kept === 0 ? nothing : solve(symmetrise(small, kept), kept);
  const most = Math.min(spec.features, spec.center ? models - 1 : models, kept);
  const floor = RANK_THRESHOLD * Math.max(values[0] ?? 0, norm2);
  let rank = 0;
  while (rank < most && values[rank]! > floor) rank++;
  const directions = new Float64Array(rank * (1 + rows));
  for (let j = 0; j < rank; j++) {
    const out = directions.subarray(j * (1 + rows), (j + 1) * (1 + rows));
    for (let i = 0; i < kept; i++) {
      const factor = mixing[j * kept + i]! / Math.sqrt(values[j]!);
      for (let l = 0; l < inside; l++) out[1 + l] = out[1 + l]! + factor * whitening[i * rows + l]!;
    }
    for (let l = 0; l < inside; l++) out[0] = out[0]! - out[1 + l]! * average[l]!;
  }
  return { eigenvalues: values.slice(0, rank), directions, error: estimateError(dots, centredCore, whitening, kept) };
};

const nothing = { values: new Float64Array(0), vectors: new Float64Array(0) };

/** 1.25 times ‖Θ (M − M̂)‖_F / √t, t the number of test rows Θ: about ‖M − M̂‖_F, and so no less than ‖M − M̂‖₂. */
const estimateError = (dots: Float64Array, core: Float64Array, whitening: Float64Array, kept: number): number => {
  const rows = Math.round(Math.sqrt(dots.length));
  // Θ M̂ = (Θ M Ψᵀ) B⁺ Y: the test rows of Y less this is R Y.
  const residual = new Float64Array(TEST_ROWS * rows);
  let norm2 = 0;
  for (let t = 0; t < TEST_ROWS; t++) {
    const row = rows - TEST_ROWS + t;
    residual[t * rows + row] = 1;
    norm2 += dots[row * rows + row]!;
    for (let i = 0; i < kept; i++) {
      const weights = whitening.subarray(i * rows, (i + 1) * rows);
      let inner = 0;
      for (let j = 0; j < rows; j++) inner += core[row * rows + j]! * weights[j]!;
      for (let j = 0; j < rows; j++) residual[t * rows + j] = residual[t * rows + j]! - inner * weights[j]!;
    }
  }
  const image = productOf(residual, dots, TEST_ROWS, rows, rows);
  let error2 = 0;
  for (let i = 0; i < image.length; i++) error2 += image[i]! * residual[i]!;
  return CAUTION * Math.sqrt((Math.max(error2, 0) + ESTIMATE_FLOOR * norm2) / TEST_ROWS);
};
