// What a slot's tiles hold in place of the state. A full mixing multiplies all 1 + r + b rows of [m; S; X] into the 1 + ℓ
// rows of the next state. But the state need not be held row by row: any rows Y with [m; S] = R Y will do, R a small
// float64 matrix that is applied to Gram matrices and not to weights. With M = P diag(R, I) the next state is
// M [Y; X] = M₁ (Z₁ + M₁⁻¹ M₂ Z₂), M₁ any 1 + ℓ columns and Z₁ their rows: adding few rows Z₂ onto the ones that stay gives
// the next Y, and R is M₁. That is b / (1 + r + b) of the products, and none while nothing is dropped. Z₁ is chosen so that
// little is added to it: mostly the rows of Y, and some of X that take the places of others. Now and then, and where that
// would blur the state's rows, they are mixed in full, after which R is the identity again.
import { joined } from './linalg/array-loops.ts';
import { type DoubleProduct, jsDoubleProduct, productOf } from './linalg/dense-products.ts';
import { interpolate } from './linalg/interpolative.ts';
import type { SubspaceSpec, SubspaceState } from './subspace-state.ts';
import type { Addition, Mix, Replacement } from './tile-tasks.ts';
import type { SubspaceUpdate } from './update-subspace.ts';
import { CONSTANT_ROWS } from './update-subspace.ts';

/**
 * How many times more the rounding of held rows may blur a state row than a full mixing of the same block would, in
 * squares of the error expected. Held rows pass on their own rounding (2⁻²⁴ of their length, through R).
 */
const MOST_BLUR2 = 256;

/**
 * How much of one row is added to another at most, each as if it were of length one. Rows change places for it, which costs
 * a hundredth of a full mixing a pair.
 */
const MOST_COEFFICIENT = 2;
/** Where rows cannot change places, they stay unless they are no use at all. */
const ANY_COEFFICIENT = 2 ** 60;

/** Features for each row held from which the products saved are worth the small algebra: about 1 ms for 65 rows. */
const LEAST_FEATURES_PER_ROW = 256;

/** Blocks after which the rows held are made the state's again. */
const RENEW_EVERY = 16;

/** Whether a block leaves rows that are the state's own, whose inner products the next one measures. */
export const renewsAfter = (block: number): boolean => (block + 1) % RENEW_EVERY === 0;

/** Whether adding is worth it at all for a slot that keeps m rows. */
export const mayAdd = (features: number, m: number): boolean => features >= LEAST_FEATURES_PER_ROW * m;

export interface StoredRows {
  /** R: [m; S] out of the rows that are held once nothing is due; null for the identity. (1 + r) x (1 + r). */
  readonly map: Float64Array | null;
  /** What the squared norms of the rows held have come to; null where they are the state's. */
  readonly norms2: Float64Array | null;
  /** Null when nothing is due. */
  readonly due: {
    /** What the next visit does to the tiles; where nothing is dropped, the block's rows simply stay (m = n). */
    readonly mix: Mix;
    /** [m; S] out of the rows that are held now. */
    readonly whole: Replacement;
  } | null;
}

/** A new slot's tiles hold a mean of zero. */
export const newRows: StoredRows = { map: null, norms2: null, due: null };

/** After the visit that did what was due. */
export const settleRows = (stored: StoredRows): StoredRows => ({ ...stored, due: null });

/**
 * A Gram of the rows held, [1; −shift; Y; X] with X or with all rows, as one of the state's rows [1; −shift; m; S; X].
 * @param stateRows r
 */
export const gramOfState = (
  values: Float64Array,
  columns: number,
  stateRows: number,
  { map }: StoredRows,
  product: DoubleProduct = jsDoubleProduct,
): Float64Array => {
  if (map === null) return values;
  const size = 1 + stateRows;
  const rows = values.length / columns;
  const out = values.slice();
  const from = CONSTANT_ROWS * columns;
  out.set(productOf(map, values.subarray(from, from + size * columns), size, size, columns, { product }), from);
  if (columns === rows) {
    // All rows, of which the map's columns are turned too.
    const turned = out.slice();
    for (let i = 0; i < rows; i++) turned.fill(0, i * columns + CONSTANT_ROWS, i * columns + CONSTANT_ROWS + size);
    const right = { a: false, b: true };
    const [held, target] = [out.subarray(CONSTANT_ROWS), turned.subarray(CONSTANT_ROWS)];
    product(right, { m: rows, n: size, k: size }, held, columns, map, size, target, columns);
    return turned;
  }
  return out;
};

/**
 * What the tiles owe after an update, and what they hold then.
 * @param before the state before the update
 * @param blockNorms2 ‖x‖² of the block's models
 * @param how.renew mix in full, so that the rows held are the state's
 * @param how.swaps whether rows can change places
 */
export const rowsAfter = (
  spec: SubspaceSpec,
  stored: StoredRows,
  before: SubspaceState,
  update: SubspaceUpdate,
  blockNorms2: Float64Array,
  { renew, swaps }: { readonly renew: boolean; readonly swaps: boolean },
  product: DoubleProduct = jsDoubleProduct,
): StoredRows => {
  const old = 1 + update.oldRows;
  const m = 1 + update.newRows;
  const n = old + blockNorms2.length;
  const values = wholeMix(update.mix, stored.map, old, m, n, product);
  const whole: Replacement = { kind: 'replace', values, m, n };
  if (!renew && mayAdd(spec.features, m)) {
    // Uncentred, the mean is a row of zeros, which stays as it is.
    if (!spec.center) values[0] = 1;
    const stateNorms2 = joined(Float64Array.of(before.meanNorm2), before.eigenvalues);
    const heldNorms2 = joined(stored.norms2 ?? stateNorms2, blockNorms2);
    const mixingBlur2 = blurOf(update.mix, joined(stateNorms2, blockNorms2), m, n);
    const addition = additionOf(values, m, n, mixingBlur2, heldNorms2, swaps);
    if (addition !== null) return { map: addition.map, norms2: addition.norms2, due: { mix: addition.mix, whole } };
  }
  return { map: null, norms2: null, due: { mix: whole, whole } };
};

/**
 * What the tiles owe where every row stays and `block` more are added onto them.
 * @param mix [I A], m x (m + block)
 */
export const rowsAdded = (mix: Float64Array, m: number, block: number): StoredRows => {
  const n = m + block;
  const values = new Float64Array(m * block);
  for (let i = 0; i < m; i++) values.set(mix.subarray(i * n + m, (i + 1) * n), i * block);
  return {
    map: null,
    norms2: null,
    due: { mix: { kind: 'add', values, m, n, exchanges: [] }, whole: { kind: 'replace', values: mix, m, n } },
  };
};

/** All rows held made new ones, after what was due. @param mix m x m */
export const rowsReplaced = ({ due }: StoredRows, mix: Float64Array, m: number): StoredRows => {
  const n = due?.whole.n ?? m;
  const values = due === null ? mix : new Float64Array(m * n);
  if (due !== null) jsDoubleProduct({ a: false, b: false }, { m, n, k: m }, mix, m, due.whole.values, n, values, n);
  const whole: Replacement = { kind: 'replace', values, m, n };
  return { map: null, norms2: null, due: { mix: whole, whole } };
};

/** M = P diag(R, I), m x n. */
const wholeMix = (
  p: Float64Array,
  map: Float64Array | null,
  old: number,
  m: number,
  n: number,
  product: DoubleProduct,
): Float64Array => {
  const values = p.slice();
  if (map === null) return values;
  for (let i = 0; i < m; i++) values.fill(0, i * n, i * n + old);
  product({ a: false, b: false }, { m, n: old, k: old }, p, n, map, old, values, n);
  return values;
};

/** For each row of `factors` (m x n) what the rounding of rows of these squared norms adds up to, squared. */
const blurOf = (factors: Float64Array, norms2: Float64Array, m: number, n: number): Float64Array => {
  const blur = new Float64Array(m);
  for (let i = 0; i < m; i++) {
    let sum = 0;
    for (let j = 0; j < n; j++) sum += factors[i * n + j]! ** 2 * norms2[j]!;
    blur[i] = sum;
  }
  return blur;
};

/**
 * Which rows stay, what the others add to them, and what they stand for then; null where that would blur the state's rows.
 * Rows are chosen as if all were equally long and each state row equally blurred.
 * @param whole M, m x n
 * @param heldNorms2 squared norms of the n rows held
 */
const additionOf = (
  whole: Float64Array,
  m: number,
  n: number,
  mixingBlur2: Float64Array,
  heldNorms2: Float64Array,
  swaps: boolean,
): { mix: Addition; map: Float64Array; norms2: Float64Array } | null => {
  // Of a row of zeros, such as the first mean, any multiple is as good.
  const lengths = heldNorms2.map((norm2) => Math.sqrt(norm2) || 1);
  const weighted = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    const scale = mixingBlur2[i] === 0 ? 1 : 1 / Math.sqrt(mixingBlur2[i]!);
    for (let j = 0; j < n; j++) weighted[i * n + j] = scale * whole[i * n + j]! * lengths[j]!;
  }
  const found = interpolate(weighted, m, n, swaps ? MOST_COEFFICIENT : ANY_COEFFICIENT);
  if (found === null) return null;
  const { order, values } = found;
  const exchanges: [number, number][] = [];
  for (let to = 0; to < m; to++) if (order[to] !== to) exchanges.push([to, order[to]!]);
  if (exchanges.length > 0 && !swaps) return null;
  const map = new Float64Array(m * m);
  const rest = n - m;
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < m; j++) map[i * m + j] = whole[i * n + order[j]!]!;
    for (let j = 0; j < rest; j++) {
      values[i * rest + j] = (values[i * rest + j]! * lengths[order[i]!]!) / lengths[order[m + j]!]!;
    }
  }
  const inOrder = (of: Float64Array): Float64Array => of.map((_, j) => of[order[j]!]!);
  const ordered = inOrder(heldNorms2);
  // As if rows were at right angles, which is what can be said of rounding errors.
  const norms2 = blurOf(values, ordered.subarray(m), m, rest).map((added, i) => ordered[i]! + added);
  const blur2 = blurOf(map, norms2, m, m);
  if (!blur2.every((blur, i) => blur <= MOST_BLUR2 * mixingBlur2[i]!)) return null;
  return { mix: { kind: 'add', values, m, n, exchanges }, map, norms2 };
};
