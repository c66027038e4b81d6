// Which directions of rows that came together are kept, once their Gram matrix K is known: the largest, or by frequent
// directions, which takes as much off every direction as off the first one that is dropped.
// What frequent directions promises holds of the matrix B that it has shrunk, and B lies low along directions that were kept all
// the while. But what was taken off them is known there: δ along every direction kept, which turns with them and fades where
// they turn away. So rows have the lengths of B and that, the best estimate, and B is known by what must come off again.
// Cost O(size³), with 4 products of size² ℓ for frequent directions.
// Source: Ghashami, Liberty, Phillips & Woodruff 2016; what is added back to all directions alike: Desai, Ghashami & Phillips
// 2015 (arXiv 1501.06561), sec. 3, compensative frequent directions.
import { joined, scaledRows } from './linalg/array-loops.ts';
import { type DoubleProduct, jsDoubleProduct, productOf } from './linalg/dense-products.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { symmetrise } from './linalg/symmetrise.ts';
import { RANK_THRESHOLD, type StreamingEngine } from './subspace-state.ts';

/** Of frequent directions: how the shrunk matrix B lies below what the rows of a state say. */
export interface Shrunk {
  /** r eigenvalues of B, descending: never above the true ones. */
  readonly certain: Float64Array;
  /** r x r, symmetric: what B lacks along the rows' directions, positive and at most Σδ in any of them. */
  readonly withheld: Float64Array;
}

/** Rows that came out of one state; they are the first ones of K. */
export interface OldRows {
  readonly eigenvalues: Float64Array;
  readonly shrunk?: Shrunk | undefined;
}

/** All of a state's `shrunk`, r + r² numbers. */
export const packShrunk = ({ certain, withheld }: Shrunk): Float64Array => joined(certain, withheld);

/** @param r rows of the state */
export const unpackShrunk = (packed: Float64Array, r: number): Shrunk => ({
  certain: packed.slice(0, r),
  withheld: packed.slice(r, r + r * r),
});

export interface KeptRows {
  /** Squared lengths of the new rows, ℓ, descending. */
  readonly eigenvalues: Float64Array;
  /** ℓ x size: the new rows, out of those that came together. */
  readonly weights: Float64Array;
  /** ℓ x size: those that came together along the new rows' unit directions. */
  readonly projections: Float64Array;
  /** How much lower than the truth an eigenvalue can be because of what was dropped, or taken off. */
  readonly dropped: number;
  readonly shrunk?: Shrunk;
}

/** @param norm2 the largest squared norm that float32 noise scales with */
export interface KeepLimits {
  readonly most: number;
  readonly norm2: number;
}

/**
 * @param K Gram matrix of rows that came together, size x size, symmetric
 * @param old states whose rows are the first ones of K
 */
export const keepRows = (
  engine: StreamingEngine | undefined,
  K: Float64Array,
  size: number,
  old: readonly OldRows[],
  limits: KeepLimits,
  solve: EigenSolver,
  product: DoubleProduct = jsDoubleProduct,
): KeptRows =>
  engine === 'frequent-directions'
    ? keepShrunk(K, size, old, limits, solve, product)
    : keepLargest(K, size, limits, solve);

/** Below it an eigenvalue is noise. */
const floorOf = (values: Float64Array, { norm2 }: KeepLimits): number => RANK_THRESHOLD * Math.max(values[0]!, norm2);

/** How many are worth keeping. */
const countLargest = (values: Float64Array, limits: KeepLimits): number => {
  const floor = floorOf(values, limits);
  let rows = 0;
  while (rows < limits.most && values[rows]! > floor) rows++;
  return rows;
};

/** The largest, at most `most`, and none that is noise. */
const keepLargest = (K: Float64Array, size: number, limits: KeepLimits, solve: EigenSolver): KeptRows => {
  const { values, vectors } = solve(K, size);
  const rows = countLargest(values, limits);
  const weights = vectors.subarray(0, rows * size);
  return {
    eigenvalues: values.slice(0, rows),
    weights,
    projections: scaledRows(weights, size, values.subarray(0, rows).map(Math.sqrt)),
    dropped: rows < size ? Math.max(values[rows]!, 0) : 0,
  };
};

/** The largest of the shrunk matrix, shrunk once more. */
const keepShrunk = (
  K: Float64Array,
  size: number,
  old: readonly OldRows[],
  limits: KeepLimits,
  solve: EigenSolver,
  product: DoubleProduct,
): KeptRows => {
  // B = zᵀ Gᵀ G z of the rows z.
  const G = shrinking(old, size, solve);
  const KG = productOf(K, G, size, size, size, { transposed: true, product });
  const inner = symmetrise(productOf(G, KG, size, size, size, { product }), size);
  const { values, vectors } = solve(inner, size);
  const floor = floorOf(values, limits);
  let rows = countLargest(values, limits);
  const shrinkage = rows < size ? Math.max(values[rows]!, 0) : 0;
  // Those that shrinking leaves nothing of go too; the bound is then the largest of them, which is no less.
  let dropped = shrinkage;
  while (rows > 0 && values[rows - 1]! - shrinkage <= floor) dropped = values[--rows]!;
  const certain = values.slice(0, rows).map((value) => value - shrinkage);

  // The unit directions of B, out of z, and z along them.
  const perLength = values.subarray(0, rows).map((value) => 1 / Math.sqrt(value));
  const unit = scaledRows(vectors.subarray(0, rows * size), size, perLength);
  const along = productOf(unit, KG, rows, size, size, { transposed: true, product });
  // What is withheld along them: what was, as far as they keep to the old directions, and now this.
  const estimate = new Float64Array(rows * rows);
  let at = 0;
  for (const { eigenvalues, shrunk } of old) {
    const r = eigenvalues.length;
    if (shrunk !== undefined) addTurned(shrunk.withheld, eigenvalues, along.subarray(at), size, estimate, rows);
    at += r;
  }
  for (let j = 0; j < rows; j++) estimate[j * rows + j] = estimate[j * rows + j]! + shrinkage;
  const withheld = estimate.slice();
  for (let j = 0; j < rows; j++) estimate[j * rows + j] = estimate[j * rows + j]! + certain[j]!;
  if (rows === 0) {
    const none = new Float64Array(0);
    return { eigenvalues: none, weights: none, projections: none, dropped, shrunk: { certain, withheld } };
  }
  // Turned to where the estimate is diagonal.
  const turned = solve(estimate, rows);
  const turn = (a: Float64Array, width: number): Float64Array => productOf(turned.vectors, a, rows, rows, width);
  const toOld = productOf(unit, G, rows, size, size, { product });
  const lengths = turned.values.map(Math.sqrt);
  const whole = productOf(turn(withheld, rows), turned.vectors, rows, rows, rows, { transposed: true });
  return {
    eigenvalues: turned.values,
    weights: scaledRows(turn(toOld, size), size, lengths),
    projections: turn(along, size),
    dropped,
    shrunk: { certain, withheld: symmetrise(whole, rows) },
  };
};

/** G: size x size, the identity but for the old rows, which it makes rows of B: √β_j hᵀ_j D^-½ with D − withheld = Σ β h hᵀ. */
const shrinking = (old: readonly OldRows[], size: number, solve: EigenSolver): Float64Array => {
  const G = new Float64Array(size * size);
  for (let i = 0; i < size; i++) G[i * size + i] = 1;
  let at = 0;
  for (const { eigenvalues, shrunk } of old) {
    const r = eigenvalues.length;
    if (shrunk !== undefined && r > 0) {
      const lower = shrunk.withheld.map((value) => -value);
      for (let j = 0; j < r; j++) lower[j * r + j] = lower[j * r + j]! + eigenvalues[j]!;
      const { values, vectors } = solve(lower, r);
      for (let j = 0; j < r; j++) {
        const scale = Math.sqrt(Math.max(values[j]!, 0));
        for (let l = 0; l < r; l++)
          G[(at + j) * size + at + l] = (scale * vectors[j * r + l]!) / Math.sqrt(eigenvalues[l]!);
      }
    }
    at += r;
  }
  return G;
};

/** out += T withheld Tᵀ, T (rows x r) the cosines of new directions with old ones: projections of old rows over their lengths. */
const addTurned = (
  withheld: Float64Array,
  eigenvalues: Float64Array,
  along: Float64Array,
  stride: number,
  out: Float64Array,
  rows: number,
): void => {
  const r = eigenvalues.length;
  const cosines = new Float64Array(rows * r);
  for (let j = 0; j < rows; j++)
    for (let l = 0; l < r; l++) cosines[j * r + l] = along[j * stride + l]! / Math.sqrt(eigenvalues[l]!);
  const half = productOf(cosines, withheld, rows, r, r);
  jsDoubleProduct({ a: false, b: true }, { m: rows, n: rows, k: r }, half, r, cosines, r, out, rows);
};
