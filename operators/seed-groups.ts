// Adapters that began at the same random A. Training moves A little, so such a pair's factors keep a cosine far from the
// noise that independent starts show; groups are the connected components of those pairs.
// Not gauge-free: an adapter whose factors were mixed by some M no longer looks like its start.
// Cost: N² · 2,048 flops. Memory: 16 KiB a model and 4 bytes a pair.
import { type AdapterSketch, SKETCH_SIZE } from './adapter-sketch.ts';
import { ConnectedComponents } from './linalg/connected-components.ts';
import { type DoubleProduct, jsDoubleProduct } from './linalg/dense-products.ts';

/** A smaller cosine is never called a shared start. */
const LEAST_COSINE = 0.3;
/** Deviations of independent starts' cosines that a shared one is beyond. */
const DEVIATIONS = 5;
/** Makes a median absolute deviation that of a normal distribution. */
const NORMAL = 1.4826;
/** Models whose cosines are found at once. */
const AT_ONCE = 256;

export interface SeedGroups {
  /** Models of each group, two or more, ascending; groups in the order of their first. */
  readonly groups: readonly (readonly number[])[];
  /** The cosine beyond which a start is shared. */
  readonly threshold: number;
  /** Pairs of equal modules and ranks, the only ones that can be compared. */
  readonly pairs: number;
}

/**
 * Groups of models that share a start: pairs with a cosine beyond max(0.3, 5 · 1.4826 · MAD), joined. The deviation is that
 * of the pairs below zero about zero: independent starts lie evenly about it, and shared ones, however many, above.
 * @param product multiplies float64 matrices; one of a BLAS is some thirty times faster than the default
 */
export const seedGroups = (
  sketches: readonly AdapterSketch[],
  product: DoubleProduct = jsDoubleProduct,
): SeedGroups => {
  const classes = new Map<number, number[]>();
  sketches.forEach(({ sums, signature }, model) => {
    if (!sums.some((value) => value !== 0)) return;
    classes.set(signature, [...(classes.get(signature) ?? []), model]);
  });
  const compared = [...classes.values()].map((models) => ({ models, cosines: cosinesOf(models, sketches, product) }));
  const threshold = Math.max(LEAST_COSINE, DEVIATIONS * NORMAL * deviationOf(compared.map(({ cosines }) => cosines)));
  const components = new ConnectedComponents(sketches.length);
  for (const { models, cosines } of compared) {
    let pair = 0;
    for (let i = 1; i < models.length; i++) {
      for (let j = 0; j < i; j++) {
        if (cosines[pair++]! > threshold) components.join(models[i]!, models[j]!);
      }
    }
  }
  const members = new Map<number, number[]>();
  sketches.forEach((_, model) => {
    const first = components.firstOf(model);
    members.set(first, [...(members.get(first) ?? []), model]);
  });
  return {
    groups: [...members.values()].filter((group) => group.length > 1),
    threshold,
    pairs: compared.reduce((sum, { cosines }) => sum + cosines.length, 0),
  };
};

/** Cosines of pairs (i, j < i), i outermost. */
const cosinesOf = (
  models: readonly number[],
  sketches: readonly AdapterSketch[],
  product: DoubleProduct,
): Float32Array => {
  const n = models.length;
  const unit = new Float64Array(n * SKETCH_SIZE);
  models.forEach((model, i) => {
    const { sums } = sketches[model]!;
    const norm = Math.sqrt(sums.reduce((sum, value) => sum + value * value, 0));
    for (let l = 0; l < SKETCH_SIZE; l++) unit[i * SKETCH_SIZE + l] = sums[l]! / norm;
  });
  const cosines = new Float32Array((n * (n - 1)) / 2);
  let pair = 0;
  for (let from = 0; from < n; from += AT_ONCE) {
    const to = Math.min(from + AT_ONCE, n);
    const block = new Float64Array((to - from) * to);
    const size = { m: to - from, n: to, k: SKETCH_SIZE };
    const rows = unit.subarray(from * SKETCH_SIZE);
    product({ a: false, b: true }, size, rows, SKETCH_SIZE, unit, SKETCH_SIZE, block, to);
    for (let i = from; i < to; i++) for (let j = 0; j < i; j++) cosines[pair++] = block[(i - from) * to + j]!;
  }
  return cosines;
};

/** The median of |cosine| over pairs below zero; 0 where there are none. */
const deviationOf = (cosines: readonly Float32Array[]): number => {
  let count = 0;
  for (const some of cosines) for (let p = 0; p < some.length; p++) if (some[p]! < 0) count++;
  if (count === 0) return 0;
  const below = new Float32Array(count);
  let at = 0;
  for (const some of cosines) for (let p = 0; p < some.length; p++) if (some[p]! < 0) below[at++] = -some[p]!;
  below.sort();
  return below[Math.floor(count / 2)]!;
};
