// Two subspaces of one space, from the inner products of their bases alone: principal angles, overlap, distances.
// Float64 throughout; the bases need not be exactly orthonormal (float32 files are so to 3e-7), they are made so here.
// An angle below 45 degrees is taken from its sine and the others from their cosine (Björck & Golub 1973, sec. 3), so that
// neither form loses digits; what is left is the rounding of the inner products, about 1e-7 rad.
// Distances: Edelman, Arias & Smith 1998, sec. 4.3; of unequal dimensions Ye & Lim 2016 (to the nearest subspace that
// contains, or is contained). Cost O((k_a + k_b)³).
import type { EigenSolver } from './symmetric-eigen.ts';

/** Inner products of two bases of k_a and k_b directions. */
export interface BasisProducts {
  /** k_a x k_a, row-major, symmetric. */
  readonly aa: Float64Array;
  /** k_b x k_b. */
  readonly bb: Float64Array;
  /** k_a x k_b. */
  readonly ab: Float64Array;
}

export interface SubspaceComparison {
  /** min(k_a, k_b) principal angles, radians, ascending. */
  readonly angles: Float64Array;
  /** Mean squared cosine of the angles: 1 where one subspace holds the other, 0 at right angles. */
  readonly overlap: number;
  /** √Σ θ², radians. */
  readonly grassmann: number;
  /** √Σ sin² θ. */
  readonly chordal: number;
}

/** What the overlap of independent subspaces is. */
export interface ChanceOverlap {
  readonly mean: number;
  readonly deviation: number;
  readonly low: number;
  readonly high: number;
}

/** A basis whose inner products are further than this from the identity is none. */
const MOST_SKEW = 1e-3;

/**
 * How far a basis is from orthonormal, and whether that still counts as one: the largest entry of |A − I|.
 * NaN where a direction is not finite.
 */
export const basisSkew = (aa: Float64Array): { readonly skew: number; readonly isBasis: boolean } => {
  const k = Math.sqrt(aa.length);
  let skew = 0;
  for (let i = 0; i < aa.length; i++) {
    const off = Math.abs(aa[i]! - (i % (k + 1) === 0 ? 1 : 0));
    if (!(off <= skew)) skew = off;
    if (Number.isNaN(off)) break;
  }
  return { skew, isBasis: skew <= MOST_SKEW };
};

/** Both bases need a direction at least. */
export const compareBases = ({ aa, bb, ab }: BasisProducts, solve: EigenSolver): SubspaceComparison => {
  const [ka, kb] = [Math.sqrt(aa.length), Math.sqrt(bb.length)];
  const inner = times(times(inverseRoot(aa, ka, solve), ab, ka, ka, kb), inverseRoot(bb, kb, solve), ka, kb, kb);
  const q = Math.min(ka, kb);
  // C Cᵀ on the smaller side: its eigenvalues are the squared cosines.
  const at = (i: number, l: number): number => (ka <= kb ? inner[i * kb + l]! : inner[l * kb + i]!);
  const cosines2 = new Float64Array(q * q);
  const sines2 = new Float64Array(q * q);
  for (let i = 0; i < q; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let l = 0; l < Math.max(ka, kb); l++) sum += at(i, l) * at(j, l);
      cosines2[i * q + j] = cosines2[j * q + i] = sum;
      sines2[i * q + j] = sines2[j * q + i] = (i === j ? 1 : 0) - sum;
    }
  }
  const share = (value: number): number => Math.min(1, Math.max(0, value));
  const cosines = solve(cosines2, q).values.map(share);
  const sines = solve(sines2, q).values.map(share).reverse();
  const angles = cosines.map((cosine2, i) =>
    cosine2 > 0.5 ? Math.asin(Math.sqrt(sines[i]!)) : Math.acos(Math.sqrt(cosine2)),
  );
  const sum = (of: (angle: number, i: number) => number): number => angles.reduce((all, a, i) => all + of(a, i), 0);
  return {
    angles,
    overlap: sum((_, i) => cosines[i]!) / q,
    grassmann: Math.sqrt(sum((angle) => angle * angle)),
    chordal: Math.sqrt(sum((angle) => Math.sin(angle) ** 2)),
  };
};

/** Deviations to either side of the mean that the interval reaches. */
const DEVIATIONS = 3;

/**
 * The overlap of a fixed subspace with one drawn uniformly. Σ cos² θ = tr(P_a P_b) has the mean k_a k_b / D and the variance
 * 2 k_a k_b (D − k_a)(D − k_b) / (D² (D − 1)(D + 2)): the second moments of a random projection (Muirhead 1982, sec. 3.3:
 * the squared cosines are those of a multivariate beta). Divided by min(k_a, k_b), as the overlap is. The interval is three
 * deviations to either side: at least 95% of any distribution with one peak (Vysochanskij & Petunin 1980).
 */
export const chanceOverlap = (ka: number, kb: number, features: number): ChanceOverlap => {
  const d = features;
  const q = Math.min(ka, kb);
  const mean = (ka * kb) / d / q;
  const variance = d < 2 ? 0 : (2 * ka * kb * (d - ka) * (d - kb)) / (d * d * (d - 1) * (d + 2));
  const deviation = Math.sqrt(variance) / q;
  const reach = DEVIATIONS * deviation;
  return { mean, deviation, low: Math.max(0, mean - reach), high: Math.min(1, mean + reach) };
};

/** A^(-1/2) of a positive matrix. */
const inverseRoot = (a: Float64Array, k: number, solve: EigenSolver): Float64Array => {
  const { values, vectors } = solve(a, k);
  const out = new Float64Array(k * k);
  for (let j = 0; j < k; j++) {
    const factor = 1 / Math.sqrt(values[j]!);
    for (let p = 0; p < k; p++)
      for (let q = 0; q < k; q++) out[p * k + q] = out[p * k + q]! + factor * vectors[j * k + p]! * vectors[j * k + q]!;
  }
  return out;
};

/** A (m x k) · B (k x n). */
const times = (a: Float64Array, b: Float64Array, m: number, k: number, n: number): Float64Array => {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let l = 0; l < k; l++)
      for (let j = 0; j < n; j++) out[i * n + j] = out[i * n + j]! + a[i * k + l]! * b[l * n + j]!;
  return out;
};
