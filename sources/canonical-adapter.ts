// One form for all factors of one change. ΔW = scale · B A is what a LoRA adapter does to a weight; A and B are not unique
// (M A and B M⁻¹ do the same), and products of ill-conditioned ones lose accuracy in float32. So they are rewritten, in
// float64: Aᵀ = Q R by Householder, C = scale · B Rᵀ, and CᵀC = W diag(s²) Wᵀ; then ΔW = (C W)(Q W)ᵀ, with C W = U diag(s).
// Split evenly: left = U diag(√s), right = diag(√s) (Q W)ᵀ, of which float32 keeps 7 digits of the largest s.
// Cost: about 4 (rows + cols) r² flops and r³ for the eigenvectors, 3 ms for 4,096 x 4,096 at r = 16.
// Source: Golub & Van Loan 2013, sec. 5.2 (QR), 8.6 (SVD of a product).
import { EigenvalueDecomposition, Matrix } from 'ml-matrix';
import type { AdapterFactors } from './adapter-factors.ts';

/** Directions below this share of the largest are rounding of the factors in float64. */
const NEGLIGIBLE = 2 ** -44;

/**
 * @param a rank x cols, row-major, finite
 * @param b rows x rank, row-major, finite
 * @param scale α/r or α/√r
 * @param transposed the weight is stored as (B A)ᵀ
 * @param into the memory that left and right take, (rows + cols) · rank floats at least
 */
export const canonicalAdapter = (
  a: Float64Array,
  b: Float64Array,
  scale: number,
  rank: number,
  transposed = false,
  into: Float32Array = new Float32Array(a.length + b.length),
): AdapterFactors => {
  const cols = a.length / rank;
  const rows = b.length / rank;
  const q = columnsOf(a, rank, cols);
  const r = triangularize(q, cols);
  const c = timesTransposed(b, r, rows, rank, scale);
  const { weights, sizes } = balance(c, rows, rank);
  const kept = sizes.findIndex((size) => !(size > NEGLIGIBLE * sizes[0]!));
  const k = kept < 0 ? rank : kept;
  const [wide, tall] = transposed ? [rows, cols] : [cols, rows];
  const left = into.subarray(0, tall * k);
  const right = into.subarray(tall * k, (tall + wide) * k);
  const u = into32(transposed ? right : left, transposed);
  const v = into32(transposed ? left : right, !transposed);
  for (let j = 0; j < k; j++) {
    const root = Math.sqrt(sizes[j]!);
    const w = weights[j]!;
    u(combine(c, w, rows, 1 / root), j, k);
    // W's column, turned back by the reflections: a column of Q W.
    const column = new Float64Array(cols);
    for (let i = 0; i < Math.min(rank, cols); i++) column[i] = w[i]! * root;
    reflectBack(q, column);
    v(column, j, k);
  }
  return { rows: tall, cols: wide, rank: k, left, right };
};

/** Puts a vector into a float32 matrix, as row j or as column j of k. */
const into32 =
  (out: Float32Array, asRow: boolean) =>
  (vector: Float64Array, j: number, k: number): void => {
    if (asRow) out.set(vector, j * vector.length);
    else for (let i = 0; i < vector.length; i++) out[i * k + j] = vector[i]!;
  };

/** Rows of A, which are the columns of Aᵀ, each with a memory of its own. */
const columnsOf = (a: Float64Array, rank: number, cols: number): Float64Array[] =>
  Array.from({ length: rank }, (_, i) => a.slice(i * cols, (i + 1) * cols));

/**
 * Householder QR in place: column j becomes the unit reflection vector from place j on (zeros before it, and all zeros where
 * there is nothing to reflect).
 * @returns R, by columns: R[i][j] in `r[j][i]`, for i up to min(rank, length)
 */
const triangularize = (columns: Float64Array[], length: number): Float64Array[] => {
  const rank = columns.length;
  return columns.map((column, j) => {
    for (let i = 0; i < Math.min(j, length); i++) reflect(columns[i]!, column, i);
    const r = new Float64Array(rank);
    for (let i = 0; i < Math.min(j, length); i++) r[i] = column[i]!;
    column.fill(0, 0, Math.min(j, length));
    if (j >= length) return r;
    const size = Math.sqrt(dot(column, column, j));
    // A number that is not 0 may have a square that is: then it is below what float64 can tell of the others.
    if (!(size > 0)) {
      column.fill(0);
      return r;
    }
    const sign = column[j]! < 0 ? -1 : 1;
    r[j] = -sign * size;
    column[j] = column[j]! + sign * size;
    const norm = Math.sqrt(dot(column, column, j));
    for (let i = j; i < length; i++) column[i] = column[i]! / norm;
    return r;
  });
};

/** x −= 2 v ⟨v, x⟩, v zero before `from`. */
const reflect = (v: Float64Array, x: Float64Array, from: number): void => {
  const twice = 2 * dot(v, x, from);
  for (let i = from; i < x.length; i++) x[i] = x[i]! - twice * v[i]!;
};

/** x becomes Q x. */
const reflectBack = (vectors: readonly Float64Array[], x: Float64Array): void => {
  for (let j = Math.min(vectors.length, x.length) - 1; j >= 0; j--) reflect(vectors[j]!, x, j);
};

/** Four sums at a time: one alone would wait for every addition. */
const dot = (x: Float64Array, y: Float64Array, from = 0): number => {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = from;
  for (; i + 4 <= x.length; i += 4) {
    a += x[i]! * y[i]!;
    b += x[i + 1]! * y[i + 1]!;
    c += x[i + 2]! * y[i + 2]!;
    d += x[i + 3]! * y[i + 3]!;
  }
  for (; i < x.length; i++) a += x[i]! * y[i]!;
  return a + b + (c + d);
};

/** Columns of scale · B Rᵀ: column i is Σ_j B[:, j] R[i][j]. */
const timesTransposed = (
  b: Float64Array,
  r: readonly Float64Array[],
  rows: number,
  rank: number,
  scale: number,
): Float64Array[] => {
  const own = Array.from({ length: rank }, (_, j) => {
    const column = new Float64Array(rows);
    for (let i = 0; i < rows; i++) column[i] = b[i * rank + j]!;
    return column;
  });
  const weights = new Float64Array(rank);
  return own.map((_, i) => {
    for (let j = 0; j < rank; j++) weights[j] = r[j]![i]!;
    return combine(own, weights, rows, scale);
  });
};

/** factor · Σ_j columns[j] · weights[j] */
const combine = (columns: readonly Float64Array[], weights: Float64Array, length: number, factor: number) => {
  const out = new Float64Array(length);
  columns.forEach((column, j) => {
    const weight = weights[j]! * factor;
    if (weight !== 0) for (let i = 0; i < length; i++) out[i] = out[i]! + weight * column[i]!;
  });
  return out;
};

/**
 * Orthonormal W (by columns) that make the columns of C W orthogonal, and the sizes of these, the largest first. What the
 * rounding of CᵀC does to W changes how evenly the factors are split, and not their product.
 */
const balance = (c: readonly Float64Array[], rows: number, rank: number) => {
  const gram = new Matrix(rank, rank);
  let largest = 0;
  for (const column of c) for (let i = 0; i < rows; i++) largest = Math.max(largest, Math.abs(column[i]!));
  // Squares of what is as small as 1e-200 would be 0.
  const unit = largest > 0 ? 1 / largest : 1;
  for (let i = 0; i < rank; i++) {
    for (let j = 0; j <= i; j++) {
      const value = dot(c[i]!, c[j]!) * unit * unit;
      gram.set(i, j, value);
      gram.set(j, i, value);
    }
  }
  const vectors = new EigenvalueDecomposition(gram, { assumeSymmetric: true }).eigenvectorMatrix;
  const found = Array.from({ length: rank }, (_, j) => {
    const weights = Float64Array.from(vectors.getColumn(j));
    const column = combine(c, weights, rows, unit);
    return { weights, size: Math.sqrt(dot(column, column)) * largest };
  }).sort((x, y) => y.size - x.size);
  return { weights: found.map(({ weights }) => weights), sizes: found.map(({ size }) => size) };
};
