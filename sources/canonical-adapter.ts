// One form for all factors of one change. ΔW = scale · B A is what a LoRA adapter does to a weight; A and B are not unique
// (M A and B M⁻¹ do the same), and products of ill-conditioned ones lose accuracy in float32. So they are rewritten, in
// float64: Aᵀ = Q R, C = scale · B Rᵀ, and CᵀC = W diag(s²) Wᵀ; then ΔW = (C W)(Q W)ᵀ, with C W = U diag(s).
// Split evenly: left = U diag(√s), right = diag(√s) (Q W)ᵀ, of which float32 keeps 7 digits of the largest s.
// Cost: about 5 (rows + cols) r² flops and r³ for the eigenvectors, about 10 ms for 4,096 x 4,096 at r = 16.
// Source: Golub & Van Loan 2013, sec. 5.2 (QR), 8.6 (SVD); Giraud et al. 2005 (Gram-Schmidt twice is enough).
import type { AdapterFactors } from './adapter-factors.ts';
import { smallMatrices } from './small-matrices.ts';

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
  const { q, r } = orthonormalize(Array.from({ length: rank }, (_, i) => a.subarray(i * cols, (i + 1) * cols)));
  const c = timesTransposed(b, r, rows, scale);
  const directions = balance(c);
  const largest = directions[0]!.size;
  const kept = directions.filter(({ size }) => size > NEGLIGIBLE * largest);
  const k = kept.length;
  const [tall, wide] = transposed ? [cols, rows] : [rows, cols];
  const left = into.subarray(0, tall * k);
  const right = into.subarray(tall * k, (tall + wide) * k);
  kept.forEach(({ weights, column, size }, j) => {
    const root = Math.sqrt(size);
    const outputs = timesNumber(column, 1 / root);
    const inputs = combine(q, timesNumber(weights, root));
    const [down, along] = transposed ? [inputs, outputs] : [outputs, inputs];
    for (let i = 0; i < tall; i++) left[i * k + j] = down[i]!;
    right.set(along, j * wide);
  });
  return { rows: tall, cols: wide, rank: k, left, right };
};

/** Twice the Gram-Schmidt process: Q by columns (zeros for what depends on those before), R[i][j] in `r[j][i]`. */
const orthonormalize = (vectors: readonly Float64Array[]) => {
  const q: Float64Array[] = [];
  const r = vectors.map((vector, j) => {
    const row = new Float64Array(vectors.length);
    const rest = vector.slice();
    const size = norm(vector);
    for (let pass = 0; pass < 2; pass++) {
      const along = dots(q, rest);
      subtract(q, along, rest);
      for (let i = 0; i < j; i++) row[i] = row[i]! + along[i]!;
    }
    const left = norm(rest);
    const depends = !(left > size * 2 ** -50);
    row[j] = depends ? 0 : left;
    q.push(timesNumber(rest, depends ? 0 : 1 / left));
    return row;
  });
  return { q, r };
};

/** Columns of scale · B Rᵀ: column i is Σ_j B[:, j] R[i][j]. */
const timesTransposed = (b: Float64Array, r: readonly Float64Array[], rows: number, scale: number): Float64Array[] => {
  const rank = r.length;
  const own = r.map((_, j) => {
    const column = new Float64Array(rows);
    for (let i = 0; i < rows; i++) column[i] = b[i * rank + j]!;
    return column;
  });
  return r.map((_, i) =>
    combine(
      own,
      Float64Array.from(r, (column) => column[i]! * scale),
    ),
  );
};

/**
 * Orthonormal W (its columns are `weights`) that make the columns of C W orthogonal, and these, the largest first. What the
 * rounding of CᵀC does to W changes how evenly the factors are split, and not their product.
 */
const balance = (c: readonly Float64Array[]) => {
  const rank = c.length;
  const unit = Math.max(...c.map(largestOf)) || 1;
  const scaled = c.map((column) => timesNumber(column, 1 / unit));
  const { EigenvalueDecomposition, Matrix } = smallMatrices();
  const gram = new Matrix(rank, rank);
  scaled.forEach((column, i) => {
    dots(scaled.slice(0, i + 1), column).forEach((value, j) => {
      gram.set(i, j, value);
      gram.set(j, i, value);
    });
  });
  const vectors = new EigenvalueDecomposition(gram, { assumeSymmetric: true }).eigenvectorMatrix;
  return Array.from({ length: rank }, (_, j) => {
    const weights = Float64Array.from(vectors.getColumn(j));
    const column = combine(c, weights);
    return { weights, column, size: norm(column) };
  }).sort((x, y) => y.size - x.size);
};

const largestOf = (values: Float64Array): number => {
  let largest = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (size > largest) largest = size;
  }
  return largest;
};

/** In units of the largest entry: squares of what is as small as 1e-200 would be 0. */
const norm = (x: Float64Array): number => {
  const unit = largestOf(x);
  if (unit === 0) return 0;
  const unitless = timesNumber(x, 1 / unit);
  return unit * Math.sqrt(dots([unitless], unitless)[0]!);
};

/** A loop: the map of typed arrays costs 10 ns an entry. */
const timesNumber = (x: Float64Array, factor: number): Float64Array => {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = factor * x[i]!;
  return out;
};

/** ⟨columns[j], x⟩ of each, four at a time: one sum alone would wait for every addition. */
const dots = (columns: readonly Float64Array[], x: Float64Array): Float64Array => {
  const out = new Float64Array(columns.length);
  let j = 0;
  for (; j + 4 <= columns.length; j += 4) {
    const p = columns[j]!;
    const q = columns[j + 1]!;
    const r = columns[j + 2]!;
    const s = columns[j + 3]!;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    for (let i = 0; i < x.length; i++) {
      const value = x[i]!;
      a += p[i]! * value;
      b += q[i]! * value;
      c += r[i]! * value;
      d += s[i]! * value;
    }
    out[j] = a;
    out[j + 1] = b;
    out[j + 2] = c;
    out[j + 3] = d;
  }
  for (; j < columns.length; j++) {
    const p = columns[j]!;
    let a = 0;
    for (let i = 0; i < x.length; i++) a += p[i]! * x[i]!;
    out[j] = a;
  }
  return out;
};

/** Σ_j columns[j] · weights[j] */
const combine = (columns: readonly Float64Array[], weights: Float64Array): Float64Array => {
  const out = new Float64Array(columns[0]!.length);
  addTo(out, columns, weights, 1);
  return out;
};

const subtract = (columns: readonly Float64Array[], weights: Float64Array, from: Float64Array): void =>
  addTo(from, columns, weights, -1);

const addTo = (out: Float64Array, columns: readonly Float64Array[], weights: Float64Array, sign: number): void => {
  let j = 0;
  for (; j + 4 <= columns.length; j += 4) {
    const p = columns[j]!;
    const q = columns[j + 1]!;
    const r = columns[j + 2]!;
    const s = columns[j + 3]!;
    const a = sign * weights[j]!;
    const b = sign * weights[j + 1]!;
    const c = sign * weights[j + 2]!;
    const d = sign * weights[j + 3]!;
    for (let i = 0; i < out.length; i++) out[i] = out[i]! + (a * p[i]! + b * q[i]! + (c * r[i]! + d * s[i]!));
  }
  for (; j < columns.length; j++) {
    const p = columns[j]!;
    const a = sign * weights[j]!;
    for (let i = 0; i < out.length; i++) out[i] = out[i]! + a * p[i]!;
  }
};
