// The incremental PCA update in coefficient space: from the Gram matrix of [state; mean; block] to the mixing matrix
// that makes the next state. All of it is float64 algebra on r + b + 1 rows; the weights themselves are never touched.
// Cost O((r + b)^3), about 1 ms for rank 32 and block 32 with LAPACK.
// Source: Ross, Lim, Lin & Yang 2008, sec. 2.1.1 (mean correction); Levy & Lindenbaum 2000 (sequential Karhunen-Loeve);
// frequent directions, which differs in what it keeps: keep-rows.ts.

import { keepRows } from './keep-rows.ts';
import { sumOf, traceOf } from './linalg/array-loops.ts';
import { type DoubleProduct, jsDoubleProduct, productOf } from './linalg/dense-products.ts';
import { type PrincipalAngles, principalAngles } from './linalg/principal-angles.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { maxStateRows, RANK_THRESHOLD, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';

/** Rows before the mean in every tile: the ones row and the negated shift. */
export const CONSTANT_ROWS = 2;
/** Tile rows that are not models: ones, −shift, mean, then r state rows. */
export const rowsBeforeBlock = (stateRows: number): number => CONSTANT_ROWS + 1 + stateRows;

/** Rows of a slot in a checkpoint: all of those but the ones. */
export const savedRows = (stateRows: number): number => rowsBeforeBlock(stateRows) - 1;

/** Inner products of a slot's tile rows, summed over all of its features. */
export interface BlockGram {
  /** Row-major, (3 + r + b) x columns; rows are [1; −shift; m; S; X]. */
  readonly values: Float64Array;
  /** b (products with X alone) or 3 + r + b (all rows: the state's own products are measured anew). */
  readonly columns: number;
  /** Models in the block, b. */
  readonly block: number;
  /** Σ of the shift's entries, for mean entries. */
  readonly shiftSum: number;
}

/** The cuts at which convergence is followed; `k` stands for the run's rank. */
export const cutsOf = (rank: number): readonly number[] => [1, 4, 16, rank];

/** What one block taught about a slot. All of it is plain float64. */
export interface SubspaceUpdate {
  readonly state: SubspaceState;
  /**
   * (1 + ℓ) x (1 + r + b), row-major: row 0 makes the new mean, row 1 + j the new state row j, from [m; S; X].
   */
  readonly mix: Float64Array;
  /** State rows before and after: r and ℓ. */
  readonly oldRows: number;
  readonly newRows: number;
  readonly models: readonly ModelUpdate[];
  /** b x ℓ coordinates of the block's models in the new state's directions, about the new mean. */
  readonly coordinates: Float64Array;
  readonly carry: CoordinateCarry;
  /** Principal angles to the subspace before this block at the cuts; null where either lacks the directions. */
  readonly drift: readonly (PrincipalAngles | null)[];
}

/** A model as it looked when it arrived. */
export interface ModelUpdate {
  /** ‖x − m‖² and its part inside the first k directions, before this block was folded; null in the first block. */
  readonly centred2: number | null;
  readonly captured2: number | null;
  /** ‖x − origin‖². */
  readonly rawNorm2: number;
  /** Mean of the model's entries in this slot. */
  readonly meanEntry: number;
  /** ‖x − m'‖² about the mean after this block. */
  readonly distance2: number;
}

/**
 * How this block moves what is known of earlier models: coordinates c' = Wᵀ c + q,
 * squared distances d' = d + g·c + h.
 */
export interface CoordinateCarry {
  /** r x ℓ. */
  readonly rotation: Float64Array;
  readonly offset: Float64Array;
  readonly gradient: Float64Array;
  readonly constant: number;
}

/** ‖x‖² of a block's models. */
export const blockNorms2 = ({ values, columns, block }: Omit<BlockGram, 'shiftSum'>): Float64Array => {
  const first = (values.length / columns - block) * columns + columns - block;
  return Float64Array.from({ length: block }, (_, i) => values[first + i * (columns + 1)]!);
};

/**
 * Folds a block of b models into a state of r rows.
 * @param product loops, unless another is given
 * @throws RangeError when a block is empty
 */
export const updateSubspace = (
  spec: SubspaceSpec,
  state: SubspaceState,
  gram: BlockGram,
  solve: EigenSolver,
  product: DoubleProduct = jsDoubleProduct,
): SubspaceUpdate => {
  const b = gram.block;
  if (b < 1) throw new RangeError('a block needs at least one model');
  const r = state.eigenvalues.length;
  const n = state.models;
  const models = n + b;
  const products = productsOf(gram, state);
  const c = spec.center && n > 0 ? Math.sqrt((n * b) / models) : 0;
  const size = r + b + 1;
  const K = centredGram(spec, state, products, b, c);
  const [oldTrace, trace] = [traceOf(K, size, r), traceOf(K, size)];

  // --- the directions worth keeping
  const blockNorm2 = largestNorm2(products, b);
  const limits = { most: Math.min(maxStateRows(spec, models), size), norm2: blockNorm2 };
  const kept = keepRows(spec.engine, K, size, [state], limits, solve, product);
  const { eigenvalues, weights, projections, dropped, shrunk } = kept;
  const rows = eigenvalues.length;

  // --- the mean row, and P = Q C
  const width = 1 + r + b;
  const mix = new Float64Array((1 + rows) * width);
  const share = spec.center ? 1 / models : 0;
  mix[0] = n * share;
  mix.fill(share, 1 + r, width);
  const centring = centringOf(spec, r, b, c);
  if (rows > 0)
    product(
      { a: false, b: false },
      { m: rows, n: width, k: size },
      weights,
      size,
      centring,
      width,
      mix.subarray(width),
      width,
    );
  // What the next block needs of the new rows: products with the new mean.
  const dotMean = productOf(mix, dotsWithMean(products, r, b, n, share), 1 + rows, width, 1, { product });

  const scored = scoreModels(spec, state, gram, products, Math.min(spec.rank, r));
  let rawTotal = 0;
  for (let i = 0; i < b; i++) rawTotal += scored[i]!.rawNorm2;
  const next: SubspaceState = {
    models,
    eigenvalues,
    total: state.total + trace - oldTrace,
    lost: Math.max(state.lost + trace - sumOf(eigenvalues) - (oldTrace - sumOf(state.eigenvalues)), 0),
    truncation: state.truncation + dropped,
    largestNorm2: Math.max(state.largestNorm2, blockNorm2),
    rowsDotMean: dotMean.slice(1),
    meanNorm2: dotMean[0]!,
    shiftDotMean: share * (n * state.shiftDotMean + sumOf(products.shiftX)),
    shiftNorm2: products.shiftShift,
    totalUncentred: state.totalUncentred + rawTotal,
    ...(shrunk === undefined ? {} : { shrunk }),
  };

  const moved = carryAndCoordinates(K, state, b, c, projections, rows, product);
  return {
    state: next,
    mix,
    oldRows: r,
    newRows: rows,
    models: scored.map((model, i) => withDistance(model, moved.distances[i]!)),
    coordinates: moved.coordinates,
    carry: moved.carry,
    drift: driftOf(spec, moved.carry.rotation, r, rows, solve, product),
  };
};

/** Field by field: of objects made by spreading others V8 kept every one until a collection of the whole heap. */
const withDistance = (
  { centred2, captured2, rawNorm2, meanEntry }: Omit<ModelUpdate, 'distance2'>,
  distance2: number,
): ModelUpdate => ({ centred2, captured2, rawNorm2, meanEntry, distance2 });

/** How far the directions at the cuts have turned. @param rotation old x now, cosines of old directions with new ones */
export const driftOf = (
  spec: SubspaceSpec,
  rotation: Float64Array,
  old: number,
  now: number,
  solve: EigenSolver,
  product?: DoubleProduct,
): SubspaceUpdate['drift'] =>
  cutsOf(spec.rank).map((j) => (j <= old && j <= now ? principalAngles(rotation, now, j, solve, product) : null));

/** K, the Gram matrix of [S; X − x̄; c (m − x̄)]: (r + b + 1)², x̄ the block's mean, or zero where nothing is centred. */
const centredGram = (
  spec: SubspaceSpec,
  { eigenvalues }: SubspaceState,
  { rowRow, rowMean, meanMean, rowX, meanX, xx }: Products,
  b: number,
  c: number,
): Float64Array => {
  const r = eigenvalues.length;
  const size = r + b + 1;
  const last = size - 1;
  const K = new Float64Array(size * size);
  const rowAverages = rowMeans(rowX, r, b, spec.center);
  const xAverages = rowMeans(xx, b, b, spec.center);
  const grand = rowMeans(xAverages, 1, b, spec.center)[0]!;
  const meanAverage = rowMeans(meanX, 1, b, spec.center)[0]!;
  for (let j = 0; j < r; j++) {
    if (rowRow === null) K[j * size + j] = eigenvalues[j]!;
    else K.set(rowRow.subarray(j * r, j * r + j + 1), j * size);
    const average = rowAverages[j]!;
    setColumn(K, size, r, j, rowX, b, average);
    K[last * size + j] = c * (rowMean[j]! - average);
  }
  for (let i = 0; i < b; i++) {
    setCentred(K, (r + i) * size + r, xx, b, i, xAverages, grand);
    K[last * size + r + i] = c * (meanX[i]! - meanAverage - (xAverages[i]! - grand));
  }
  K[last * size + last] = c * c * (meanMean - 2 * meanAverage + grand);
  mirrorUp(K, size);
  return K;
};

// Loops stand in functions of their own: what is hot is compiled, and small functions are compiled soon.

/** Column j from row `first` on: row j of `values`, b numbers, − average. */
const setColumn = (
  K: Float64Array,
  size: number,
  first: number,
  j: number,
  values: Float64Array,
  b: number,
  average: number,
): void => {
  for (let i = 0; i < b; i++) K[(first + i) * size + j] = values[j * b + i]! - average;
};

/** Products of row i of the block with those up to itself, about the block's mean. */
const setCentred = (
  K: Float64Array,
  at: number,
  products: Float64Array,
  b: number,
  i: number,
  averages: Float64Array,
  grand: number,
): void => {
  for (let l = 0; l <= i; l++) K[at + l] = products[i * b + l]! - averages[i]! - averages[l]! + grand;
};

const mirrorUp = (K: Float64Array, size: number): void => {
  for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) K[j * size + i] = K[i * size + j]!;
};

/** C: makes [S; X − x̄; c (m − x̄)] out of [m; S; X], (r + b + 1) x (1 + r + b). */
const centringOf = ({ center }: SubspaceSpec, r: number, b: number, c: number): Float64Array => {
  const width = 1 + r + b;
  const C = new Float64Array((r + b + 1) * width);
  const mean = center ? 1 / b : 0;
  for (let i = 0; i < r + b; i++) {
    if (i >= r) C.fill(-mean, i * width + 1 + r, (i + 1) * width);
    const at = i * width + 1 + i;
    C[at] = C[at]! + 1;
  }
  C[(r + b) * width] = c;
  C.fill(-c * mean, (r + b) * width + 1 + r);
  return C;
};

/** Products of [m; S; X] with the new mean, share · (n m + Σ x). */
const dotsWithMean = (
  { meanMean, rowMean, rowX, meanX, xx }: Products,
  r: number,
  b: number,
  n: number,
  share: number,
): Float64Array => {
  const dots = new Float64Array(1 + r + b);
  dots[0] = share * (n * meanMean + sumOf(meanX));
  for (let j = 0; j < r; j++) dots[1 + j] = share * (n * rowMean[j]! + sumOf(rowX, j * b, (j + 1) * b));
  for (let i = 0; i < b; i++) dots[1 + r + i] = share * (n * meanX[i]! + sumOf(xx, i * b, (i + 1) * b));
  return dots;
};

/** The parts of a Gram by name; the state's own come from the state unless they were measured anew. */
export interface Products {
  /** r x r when measured; null when the rows are taken as orthogonal. */
  readonly rowRow: Float64Array | null;
  readonly rowMean: Float64Array;
  readonly meanMean: number;
  /** r x b. */
  readonly rowX: Float64Array;
  readonly meanX: Float64Array;
  readonly shiftX: Float64Array;
  readonly onesX: Float64Array;
  /** b x b. */
  readonly xx: Float64Array;
  readonly shiftShift: number;
}

const productsOf = ({ values, columns, block }: BlockGram, state: SubspaceState): Products => {
  const r = state.eigenvalues.length;
  const before = rowsBeforeBlock(r);
  const full = columns !== block;
  const part = (from: number, to: number, start: number, stop: number): Float64Array => {
    if (start === 0 && stop === columns) return values.subarray(from * columns, to * columns);
    const out = new Float64Array((to - from) * (stop - start));
    for (let row = from; row < to; row++) {
      out.set(values.subarray(row * columns + start, row * columns + stop), (row - from) * (stop - start));
    }
    return out;
  };
  const withX = (from: number, to: number): Float64Array => part(from, to, columns - block, columns);
  return {
    rowRow: full ? part(3, before, 3, before) : null,
    rowMean: full ? part(3, before, 2, 3) : state.rowsDotMean,
    meanMean: full ? values[2 * columns + 2]! : state.meanNorm2,
    rowX: withX(3, before),
    meanX: withX(2, 3),
    shiftX: withX(1, 2),
    onesX: withX(0, 1),
    xx: withX(before, before + block),
    shiftShift: full ? values[columns + 1]! : state.shiftNorm2,
  };
};

/** Scores the block's models against the subspace as it was before them. */
export const scoreModels = (
  spec: SubspaceSpec,
  state: SubspaceState,
  { block, shiftSum }: BlockGram,
  products: Products,
  k: number,
): Omit<ModelUpdate, 'distance2'>[] => {
  const { rowX, rowMean, meanX, meanMean, shiftX, shiftShift, onesX, xx } = products;
  const floor = RANK_THRESHOLD * largestNorm2(products, block);
  return Array.from({ length: block }, (_, i) => {
    const norm2 = xx[i * block + i]!;
    const rawNorm2 = spec.shiftIsOrigin ? norm2 : Math.max(norm2 - 2 * shiftX[i]! + shiftShift, 0);
    const meanEntry = (onesX[i]! + shiftSum) / spec.features;
    const centred2 = spec.center ? norm2 - 2 * meanX[i]! + meanMean : norm2;
    if (state.models === 0 || !(centred2 > floor)) return { centred2: null, captured2: null, rawNorm2, meanEntry };
    let captured2 = 0;
    for (let j = 0; j < k; j++) captured2 += (rowX[j * block + i]! - rowMean[j]!) ** 2 / state.eigenvalues[j]!;
    return { centred2, captured2, rawNorm2, meanEntry };
  });
};

/** Coordinates of the block in the new directions, and how older models' coordinates and distances move. */
const carryAndCoordinates = (
  K: Float64Array,
  { eigenvalues, models: n }: SubspaceState,
  b: number,
  c: number,
  projections: Float64Array,
  rows: number,
  product: DoubleProduct,
): { coordinates: Float64Array; distances: Float64Array; carry: CoordinateCarry } => {
  const r = eigenvalues.length;
  const size = r + b + 1;
  const last = size - 1;
  // With c = sqrt(nb/(n+b)): the mean moves by a·t towards older models, by a₂·t away from the block's, t the last row.
  const a = c === 0 ? 0 : Math.sqrt(b / (n * (n + b)));
  const a2 = c === 0 ? 0 : Math.sqrt(n / (b * (n + b)));
  // The old unit directions, the block's models and the mean's move, out of the rows of K: their parts along the new ones.
  const parts = new Float64Array(size * size);
  for (let l = 0; l < r; l++) parts[l * size + l] = 1 / Math.sqrt(eigenvalues[l]!);
  for (let i = r; i < last; i++) {
    parts[i * size + i] = 1;
    parts[i * size + last] = -a2;
  }
  parts[last * size + last] = a;
  const along = productOf(parts, projections, size, size, rows, { transposed: true, product });
  const gradient = new Float64Array(r);
  for (let l = 0; l < r; l++) gradient[l] = (2 * a * K[l * size + last]!) / Math.sqrt(eigenvalues[l]!);
  const lastNorm2 = K[last * size + last]!;
  const distances = new Float64Array(b);
  for (let i = 0; i < b; i++) {
    const row = (r + i) * size;
    distances[i] = Math.max(K[row + r + i]! - 2 * a2 * K[row + last]! + a2 * a2 * lastNorm2, 0);
  }
  return {
    coordinates: along.slice(r * rows, last * rows),
    distances,
    carry: {
      rotation: along.slice(0, r * rows),
      offset: along.slice(last * rows),
      gradient,
      constant: a * a * lastNorm2,
    },
  };
};

/** The largest squared norm among the mean and the block's models. */
export const largestNorm2 = ({ meanMean, xx }: Pick<Products, 'meanMean' | 'xx'>, b: number): number => {
  let largest = meanMean;
  for (let i = 0; i < b; i++) largest = Math.max(largest, xx[i * b + i]!);
  return largest;
};

/** Each row's mean; zeros where nothing is centred. */
const rowMeans = (values: Float64Array, rows: number, columns: number, center: boolean): Float64Array => {
  const means = new Float64Array(rows);
  if (!center) return means;
  for (let j = 0; j < rows; j++) means[j] = sumOf(values, j * columns, (j + 1) * columns) / columns;
  return means;
};
