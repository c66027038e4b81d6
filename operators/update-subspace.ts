// The incremental PCA update in coefficient space: from the Gram matrix of [state; mean; block] to the mixing matrix
// that makes the next state. All of it is float64 algebra on r + b + 1 rows; the weights themselves are never touched.
// Cost O((r + b)^3), about 1 ms for rank 32 and block 32 with LAPACK.
// Source: Ross, Lim, Lin & Yang 2008, sec. 2.1.1 (mean correction); Levy & Lindenbaum 2000 (sequential Karhunen-Loeve).
import { type PrincipalAngles, principalAngles } from './linalg/principal-angles.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { RANK_THRESHOLD, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';

/** Rows before the mean in every tile: the ones row and the negated shift. */
export const CONSTANT_ROWS = 2;
/** Tile rows that are not models: ones, −shift, mean, then r state rows. */
export const rowsBeforeBlock = (stateRows: number): number => CONSTANT_ROWS + 1 + stateRows;

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

/**
 * Folds a block of b models into a state of r rows.
 * @throws RangeError when a block is empty
 */
export const updateSubspace = (
  spec: SubspaceSpec,
  state: SubspaceState,
  gram: BlockGram,
  solve: EigenSolver,
): SubspaceUpdate => {
  const b = gram.block;
  if (b < 1) throw new RangeError('a block needs at least one model');
  const r = state.eigenvalues.length;
  const n = state.models;
  const view = gramView(gram, state);
  const k = Math.min(spec.rank, r);

  // --- the centred Gram K of [S; X − x̄; c (m − x̄)]
  const size = r + b + 1;
  const last = size - 1;
  const K = new Float64Array(size * size);
  const c = spec.center && n > 0 ? Math.sqrt((n * b) / (n + b)) : 0;
  const meanOver = (f: (i: number) => number): number => {
    if (!spec.center) return 0;
    let sum = 0;
    for (let i = 0; i < b; i++) sum += f(i);
    return sum / b;
  };
  let oldTrace = 0;
  for (let j = 0; j < r; j++) {
    for (let l = 0; l <= j; l++) K[j * size + l] = view.rowRow(j, l);
    oldTrace += K[j * size + j]!;
    const average = meanOver((i) => view.rowX(j, i));
    for (let i = 0; i < b; i++) K[(r + i) * size + j] = view.rowX(j, i) - average;
    K[last * size + j] = c * (view.rowMean(j) - average);
  }
  const xMeans = new Float64Array(b);
  for (let i = 0; i < b; i++) xMeans[i] = meanOver((l) => view.xx(i, l));
  const grand = meanOver((i) => xMeans[i]!);
  const meanX = meanOver((i) => view.meanX(i));
  for (let i = 0; i < b; i++) {
    for (let l = 0; l <= i; l++) K[(r + i) * size + r + l] = view.xx(i, l) - xMeans[i]! - xMeans[l]! + grand;
    K[last * size + r + i] = c * (view.meanX(i) - meanX - (xMeans[i]! - grand));
  }
  K[last * size + last] = c * c * (view.meanMean - 2 * meanX + grand);
  let trace = 0;
  let largestNorm2 = Math.max(state.largestNorm2, view.meanMean);
  for (let i = 0; i < size; i++) {
    trace += K[i * size + i]!;
    for (let j = 0; j < i; j++) K[j * size + i] = K[i * size + j]!;
  }
  for (let i = 0; i < b; i++) largestNorm2 = Math.max(largestNorm2, view.xx(i, i));

  // --- the eigenpairs worth keeping
  const { values, vectors } = solve(K, size);
  const models = n + b;
  const cap = Math.min(2 * spec.rank, spec.features, spec.center ? models - 1 : models, size);
  const blockNorm2 = largestDiagonal(view, b);
  const floor = RANK_THRESHOLD * Math.max(values[0]!, blockNorm2);
  let rows = 0;
  let kept = 0;
  while (rows < cap && values[rows]! > floor) kept += values[rows++]!;
  const eigenvalues = values.slice(0, rows);
  const dropped = rows < size ? Math.max(values[rows]!, 0) : 0;

  // --- P = Q C, and the mean row
  const width = 1 + r + b;
  const mix = new Float64Array((1 + rows) * width);
  const share = spec.center ? 1 / models : 0;
  mix[0] = n * share;
  for (let i = 0; i < b; i++) mix[1 + r + i] = share;
  for (let j = 0; j < rows; j++) {
    const q = vectors.subarray(j * size, (j + 1) * size);
    const out = mix.subarray((1 + j) * width, (2 + j) * width);
    const lift = c * q[last]!;
    out[0] = lift;
    for (let l = 0; l < r; l++) out[1 + l] = q[l]!;
    const average = meanOver((i) => q[r + i]!);
    for (let i = 0; i < b; i++) out[1 + r + i] = q[r + i]! - average - lift / b;
  }

  // --- what the next block needs of the new rows: products with the new mean
  const dotMean = new Float64Array(width);
  dotMean[0] = share * (n * view.meanMean + sumOver(b, view.meanX));
  for (let j = 0; j < r; j++) dotMean[1 + j] = share * (n * view.rowMean(j) + sumOver(b, (i) => view.rowX(j, i)));
  for (let i = 0; i < b; i++) dotMean[1 + r + i] = share * (n * view.meanX(i) + sumOver(b, (l) => view.xx(l, i)));
  const times = (row: number): number => {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += mix[row * width + i]! * dotMean[i]!;
    return sum;
  };

  const scored = scoreModels(spec, state, gram, view, k);
  let rawTotal = 0;
  for (let i = 0; i < b; i++) rawTotal += scored[i]!.rawNorm2;
  const next: SubspaceState = {
    models,
    eigenvalues,
    total: state.total + trace - oldTrace,
    lost: Math.max(state.lost + trace - kept - (oldTrace - sumOf(state.eigenvalues)), 0),
    truncation: state.truncation + dropped,
    largestNorm2,
    rowsDotMean: Float64Array.from({ length: rows }, (_, j) => times(1 + j)),
    meanNorm2: times(0),
    shiftDotMean: share * (n * state.shiftDotMean + sumOver(b, view.shiftX)),
    shiftNorm2: view.shiftShift,
    totalUncentred: state.totalUncentred + rawTotal,
  };

  const moved = carryAndCoordinates(K, size, r, b, n, c, state.eigenvalues, eigenvalues, vectors);
  return {
    state: next,
    mix,
    oldRows: r,
    newRows: rows,
    models: scored.map((model, i) => ({ ...model, distance2: moved.distances[i]! })),
    coordinates: moved.coordinates,
    carry: moved.carry,
    drift: cutsOf(spec.rank).map((j) =>
      j <= r && j <= rows ? principalAngles(moved.carry.rotation, rows, j, solve) : null,
    ),
  };
};

interface GramView {
  readonly rowRow: (j: number, l: number) => number;
  readonly rowMean: (j: number) => number;
  readonly meanMean: number;
  readonly rowX: (j: number, i: number) => number;
  readonly meanX: (i: number) => number;
  readonly shiftX: (i: number) => number;
  readonly onesX: (i: number) => number;
  readonly xx: (i: number, l: number) => number;
  readonly shiftShift: number;
}

/** Names the parts of a Gram; the state's own products come from the state unless they were measured anew. */
const gramView = (gram: BlockGram, state: SubspaceState): GramView => {
  const r = state.eigenvalues.length;
  const before = rowsBeforeBlock(r);
  const full = gram.columns !== gram.block;
  const x0 = full ? before : 0;
  const { values, columns } = gram;
  const at = (row: number, column: number): number => values[row * columns + column]!;
  return {
    rowRow: full ? (j, l) => at(3 + j, 3 + l) : (j, l) => (j === l ? state.eigenvalues[j]! : 0),
    rowMean: full ? (j) => at(3 + j, 2) : (j) => state.rowsDotMean[j]!,
    meanMean: full ? at(2, 2) : state.meanNorm2,
    rowX: (j, i) => at(3 + j, x0 + i),
    meanX: (i) => at(2, x0 + i),
    shiftX: (i) => at(1, x0 + i),
    onesX: (i) => at(0, x0 + i),
    xx: (i, l) => at(before + i, x0 + l),
    shiftShift: full ? at(1, 1) : state.shiftNorm2,
  };
};

/** Scores the block's models against the subspace as it was before them. */
const scoreModels = (
  spec: SubspaceSpec,
  state: SubspaceState,
  gram: BlockGram,
  view: GramView,
  k: number,
): Omit<ModelUpdate, 'distance2'>[] => {
  const floor = RANK_THRESHOLD * largestDiagonal(view, gram.block);
  return Array.from({ length: gram.block }, (_, i) => {
    const xx = view.xx(i, i);
    const rawNorm2 = spec.shiftIsOrigin ? xx : Math.max(xx - 2 * view.shiftX(i) + view.shiftShift, 0);
    const meanEntry = (view.onesX(i) + gram.shiftSum) / spec.features;
    const centred2 = spec.center ? xx - 2 * view.meanX(i) + view.meanMean : xx;
    if (state.models === 0 || !(centred2 > floor)) return { centred2: null, captured2: null, rawNorm2, meanEntry };
    let captured2 = 0;
    for (let j = 0; j < k; j++) captured2 += (view.rowX(j, i) - view.rowMean(j)) ** 2 / state.eigenvalues[j]!;
    return { centred2, captured2, rawNorm2, meanEntry };
  });
};

/** Coordinates of the block in the new directions, and how older models' coordinates and distances move. */
const carryAndCoordinates = (
  K: Float64Array,
  size: number,
  r: number,
  b: number,
  n: number,
  c: number,
  oldValues: Float64Array,
  newValues: Float64Array,
  vectors: Float64Array,
): { coordinates: Float64Array; distances: Float64Array; carry: CoordinateCarry } => {
  const rows = newValues.length;
  const last = size - 1;
  // With c = sqrt(nb/(n+b)): the mean moves by a·t towards older models, by a₂·t away from the block's, t the last row.
  const a = c === 0 ? 0 : Math.sqrt(b / (n * (n + b)));
  const a2 = c === 0 ? 0 : Math.sqrt(n / (b * (n + b)));
  const rotation = new Float64Array(r * rows);
  const offset = new Float64Array(rows);
  const coordinates = new Float64Array(b * rows);
  for (let j = 0; j < rows; j++) {
    const s = Math.sqrt(newValues[j]!);
    const q = vectors.subarray(j * size, (j + 1) * size);
    for (let l = 0; l < r; l++) rotation[l * rows + j] = (q[l]! * s) / Math.sqrt(oldValues[l]!);
    offset[j] = a * s * q[last]!;
    for (let i = 0; i < b; i++) coordinates[i * rows + j] = s * (q[r + i]! - a2 * q[last]!);
  }
  const gradient = new Float64Array(r);
  for (let l = 0; l < r; l++) gradient[l] = (2 * a * K[l * size + last]!) / Math.sqrt(oldValues[l]!);
  const lastNorm2 = K[last * size + last]!;
  const distances = new Float64Array(b);
  for (let i = 0; i < b; i++) {
    const row = (r + i) * size;
    distances[i] = Math.max(K[row + r + i]! - 2 * a2 * K[row + last]! + a2 * a2 * lastNorm2, 0);
  }
  return { coordinates, distances, carry: { rotation, offset, gradient, constant: a * a * lastNorm2 } };
};

const largestDiagonal = (view: GramView, b: number): number => {
  let largest = view.meanMean;
  for (let i = 0; i < b; i++) largest = Math.max(largest, view.xx(i, i));
  return largest;
};

const sumOver = (count: number, f: (i: number) => number): number => {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += f(i);
  return sum;
};

const sumOf = (values: Float64Array): number => sumOver(values.length, (i) => values[i]!);
