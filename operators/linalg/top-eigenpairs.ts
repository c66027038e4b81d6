// The largest eigenpairs of a large symmetric positive semidefinite matrix that is only ever multiplied: a block Krylov
// space grown by the residuals of the pairs still moving, restarted with the best Ritz vectors when it is full (Davidson's
// expansion without a preconditioner; thick restart as in Stathopoulos & Saad 1998). All in float64.
// Ritz values never exceed the eigenvalues they stand for; a residual says how far off they can be.
import type { DoubleProduct } from './dense-products.ts';
import type { EigenSolver } from './symmetric-eigen.ts';

export interface TopEigenpairs {
  /** k eigenvalues, descending. */
  readonly values: Float64Array;
  /** k x n, unit rows. */
  readonly vectors: Float64Array;
  /** ‖S v − λ v‖ of each pair, as measured. */
  readonly residuals: Float64Array;
  /** Products with blocks that were made. */
  readonly steps: number;
  readonly converged: boolean;
}

export interface TopEigenOptions {
  readonly side: number;
  readonly wanted: number;
  /** S X for the p rows of X (p x n, row-major). */
  readonly multiply: (x: Float64Array, p: number) => Promise<Float64Array>;
  readonly product: DoubleProduct;
  readonly solve: EigenSolver;
}

/** A residual below this share of the largest eigenvalue is below what float32 products leave uncertain. */
const TOLERANCE = 2 ** -21;
/** Vectors a product takes: one reading of the matrix for all of them. */
export const KRYLOV_BLOCK = 16;
const MOST_STEPS = 2000;
/** Steps between two looks at the residuals, which cost about as much as a step. */
const LOOK_EVERY = 4;

/** Vectors kept at most. */
export const krylovRows = (side: number, wanted: number): number =>
  Math.min(side, Math.max(4 * wanted, wanted + 12 * KRYLOV_BLOCK));

/** Rejects with what `multiply` rejects with; pairs that did not settle come with the residuals they had. */
export const topEigenpairs = async (options: TopEigenOptions): Promise<TopEigenpairs> => {
  const { side: n, wanted, multiply, product, solve } = options;
  const k = Math.min(wanted, n);
  const most = krylovRows(n, k);
  const basis = new Float64Array(most * n);
  const image = new Float64Array(most * n);
  // basis · image transposed, most x most.
  const small = new Float64Array(most * most);
  let rows = 0;
  let steps = 0;
  let next = startingRows(Math.min(KRYLOV_BLOCK, n), n);
  for (;;) {
    const added = orthonormalise(next, basis, rows, n, most - rows, product);
    if (added > 0) {
      const fresh = basis.subarray(rows * n, (rows + added) * n);
      image.set(await multiply(fresh, added), rows * n);
      steps++;
      extend(small, most, basis, image, rows, added, n, product);
      rows += added;
    }
    // Between looks the space grows by what the matrix makes of its last rows (block Lanczos).
    const room = rows + 2 * KRYLOV_BLOCK <= most;
    if (added > 0 && room && steps % LOOK_EVERY !== 0 && rows >= k) {
      next = image.slice((rows - added) * n, rows * n);
      continue;
    }
    const { values, vectors } = solve(corner(small, most, rows), rows);
    const pairs = Math.min(k, rows);
    const residuals = residualRows(values, vectors, basis, image, rows, pairs, n, product);
    const norms = rowNorms(residuals, pairs, n);
    const floor = TOLERANCE * Math.max(values[0]!, 0);
    const open = [...norms.keys()].filter((j) => norms[j]! > floor);
    const settled = open.length === 0 && pairs === k;
    if (settled || added === 0 || steps === MOST_STEPS || rows === n) {
      const ritz = mixRows(vectors, basis, rows, pairs, n, product);
      return { values: values.slice(0, pairs), vectors: ritz, residuals: norms, steps, converged: settled };
    }
    next = rowsOf(residuals, open.slice(0, KRYLOV_BLOCK), n);
    if (open.length === 0) next = startingRows(KRYLOV_BLOCK, n, steps);
    if (rows + next.length / n > most) {
      // The best Ritz vectors span what is worth keeping; their small matrix is diagonal.
      const kept = Math.min(rows, k + KRYLOV_BLOCK);
      basis.set(mixRows(vectors, basis, rows, kept, n, product));
      image.set(mixRows(vectors, image, rows, kept, n, product));
      small.fill(0);
      for (let j = 0; j < kept; j++) small[j * most + j] = values[j]!;
      rows = kept;
    }
  }
};

/** Rows of signs that look random and are the same every time. */
const startingRows = (count: number, n: number, seed = 0): Float64Array => {
  let state = 0x9e3779b9 ^ seed;
  return Float64Array.from({ length: count * n }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state < 0 ? -1 : 1;
  });
};

/** Appends what is new in some rows to an orthonormal basis, at most `room` rows; returns how many that were. */
const orthonormalise = (
  fresh: Float64Array,
  basis: Float64Array,
  rows: number,
  n: number,
  room: number,
  product: DoubleProduct,
): number => {
  const count = fresh.length / n;
  const before = rowNorms(fresh, count, n);
  // Twice is enough (Kahan; Parlett 1998, sec. 6.9).
  for (let pass = 0; pass < 2 && rows > 0; pass++) {
    const inner = new Float64Array(count * rows);
    product({ a: false, b: true }, { m: count, n: rows, k: n }, fresh, n, basis, n, inner, rows);
    for (let i = 0; i < inner.length; i++) inner[i] = -inner[i]!;
    product({ a: false, b: false }, { m: count, n, k: rows }, inner, rows, basis, n, fresh, n);
  }
  let added = 0;
  for (let i = 0; i < count && added < room; i++) {
    const row = fresh.subarray(i * n, (i + 1) * n);
    for (let pass = 0; pass < 2; pass++) {
      for (let j = 0; j < added; j++) {
        const other = basis.subarray((rows + j) * n, (rows + j + 1) * n);
        let inner = 0;
        for (let l = 0; l < n; l++) inner += row[l]! * other[l]!;
        for (let l = 0; l < n; l++) row[l] = row[l]! - inner * other[l]!;
      }
    }
    const norm = rowNorms(row, 1, n)[0]!;
    // What is left of a row that the basis has already is rounding.
    if (!(norm > 1e-10 * before[i]!)) continue;
    const target = basis.subarray((rows + added) * n, (rows + added + 1) * n);
    for (let l = 0; l < n; l++) target[l] = row[l]! / norm;
    added++;
  }
  return added;
};

/** Fills the rows and columns of the small matrix that new basis rows bring. */
const extend = (
  small: Float64Array,
  stride: number,
  basis: Float64Array,
  image: Float64Array,
  rows: number,
  added: number,
  n: number,
  product: DoubleProduct,
): void => {
  const all = rows + added;
  const block = new Float64Array(added * all);
  product({ a: false, b: true }, { m: added, n: all, k: n }, image.subarray(rows * n), n, basis, n, block, all);
  for (let i = 0; i < added; i++) {
    for (let j = 0; j < all; j++) {
      small[(rows + i) * stride + j] = block[i * all + j]!;
      small[j * stride + rows + i] = block[i * all + j]!;
    }
  }
};

const corner = (small: Float64Array, stride: number, rows: number): Float64Array => {
  const out = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) out.set(small.subarray(i * stride, i * stride + rows), i * rows);
  return out;
};

/** The first `count` eigenvectors (rows of `vectors`) times some rows: count x n. */
const mixRows = (
  vectors: Float64Array,
  source: Float64Array,
  rows: number,
  count: number,
  n: number,
  product: DoubleProduct,
): Float64Array => {
  const out = new Float64Array(count * n);
  product({ a: false, b: false }, { m: count, n, k: rows }, vectors, rows, source, n, out, n);
  return out;
};

/** S v − θ v of the first pairs. */
const residualRows = (
  values: Float64Array,
  vectors: Float64Array,
  basis: Float64Array,
  image: Float64Array,
  rows: number,
  pairs: number,
  n: number,
  product: DoubleProduct,
): Float64Array => {
  const out = mixRows(vectors, image, rows, pairs, n, product);
  const scaled = new Float64Array(pairs * rows);
  for (let j = 0; j < pairs; j++) {
    for (let i = 0; i < rows; i++) scaled[j * rows + i] = -values[j]! * vectors[j * rows + i]!;
  }
  product({ a: false, b: false }, { m: pairs, n, k: rows }, scaled, rows, basis, n, out, n);
  return out;
};

const rowNorms = (values: Float64Array, rows: number, n: number): Float64Array =>
  Float64Array.from({ length: rows }, (_, i) => {
    let sum = 0;
    for (let l = i * n; l < (i + 1) * n; l++) sum += values[l]! * values[l]!;
    return Math.sqrt(sum);
  });

const rowsOf = (values: Float64Array, which: readonly number[], n: number): Float64Array => {
  const out = new Float64Array(which.length * n);
  which.forEach((row, i) => {
    out.set(values.subarray(row * n, (row + 1) * n), i * n);
  });
  return out;
};
