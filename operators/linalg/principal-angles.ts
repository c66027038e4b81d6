// Principal angles between two subspaces given by orthonormal bases, from the small matrix of their inner products
// (Björck & Golub 1973, sec. 3, cosine form). The cosine form cannot see angles under about 3e-4 rad in float32 data.
import { type DoubleProduct, jsDoubleProduct } from './dense-products.ts';
import type { EigenSolver } from './symmetric-eigen.ts';

export interface PrincipalAngles {
  /** Largest and mean principal angle, degrees. */
  readonly max: number;
  readonly mean: number;
  /** Mean squared cosine: 1 for equal subspaces. */
  readonly overlap: number;
}

/**
 * Angles between the spans of the first j directions of two bases.
 * @param inner row-major, `inner[a * stride + b]` = ⟨old direction a, new direction b⟩
 * @param j how many directions of each; both bases must have them
 * @param product loops, unless another is given
 */
export const principalAngles = (
  inner: Float64Array,
  stride: number,
  j: number,
  solve: EigenSolver,
  product: DoubleProduct = jsDoubleProduct,
): PrincipalAngles => {
  const square = new Float64Array(j * j);
  product({ a: true, b: false }, { m: j, n: j, k: j }, inner, stride, inner, stride, square, j);
  let trace = 0;
  for (let a = 0; a < j; a++) trace += square[a * j + a]!;
  const cosinesSquared = j === 1 ? square : solve(square, j).values;
  let max = 0;
  let total = 0;
  for (let i = 0; i < j; i++) {
    const cosine = Math.sqrt(Math.min(1, Math.max(0, cosinesSquared[i]!)));
    const angle = (Math.acos(cosine) * 180) / Math.PI;
    max = Math.max(max, angle);
    total += angle;
  }
  return { max, mean: total / j, overlap: trace / j };
};
