// Interpolative decomposition in float64: some columns of a matrix, chosen so that all others are combinations of them with
// small coefficients. The columns are those of a submatrix whose volume no exchange of two columns makes larger by more than
// a factor. Source: Gu & Eisenstat 1996 (strong rank-revealing QR); Goreinov et al. 2010 (maximal volume).

export interface Interpolation {
  /** Columns of M in the order in which it is M₁ [1 V]: the first m stand for all. A column among them keeps its place. */
  readonly order: Int32Array;
  /** V, m x (n − m), row-major. */
  readonly values: Float64Array;
}

/** A pivot below this share of the largest entry is rounding. */
const SINGULAR = 2 ** -40;

/**
 * M = M₁ [1 V] up to the order of columns, |V| ≤ `most`. The first m columns of M stay where that allows it.
 * @param a M, m x n, row-major, m ≤ n
 * @param most above 1; the larger, the fewer columns are exchanged
 * @returns null where M does not have m columns that are independent
 */
export const interpolate = (a: Float64Array, m: number, n: number, most: number): Interpolation | null => {
  const table = a.slice();
  const basis = new Int32Array(m).fill(-1);
  const least = SINGULAR * largestOf(table);
  for (let step = 0; step < m; step++) {
    const at = bestPivot(table, basis, m, n, most);
    if (Math.abs(table[at]!) <= least) return null;
    const row = Math.floor(at / n);
    basis[row] = at - row * n;
    reduce(table, m, n, row, basis[row]!);
  }
  const isFree = new Uint8Array(n).fill(1);
  for (const column of basis) isFree[column] = 0;
  // Each exchange makes the volume larger by more than `most`, so this ends; rounding is given no chance to go in circles.
  for (let exchanges = 0; exchanges < m * n; exchanges++) {
    const at = largestIn(table, isFree, m, n);
    if (at < 0 || Math.abs(table[at]!) <= most) break;
    const row = Math.floor(at / n);
    isFree[basis[row]!] = 1;
    basis[row] = at - row * n;
    isFree[basis[row]!] = 0;
    reduce(table, m, n, row, basis[row]!);
  }
  return inOrder(table, basis, isFree, m, n);
};

// Loops stand in functions of their own: what is hot is compiled, and small functions are compiled soon.

const largestOf = (values: Float64Array): number => {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
};

/** Where the largest entry of rows without a column stands; one of the first m columns is taken if it is nearly as large. */
const bestPivot = (table: Float64Array, basis: Int32Array, m: number, n: number, most: number): number => {
  let [staying, other] = [-1, -1];
  for (let i = 0; i < m; i++) {
    if (basis[i]! >= 0) continue;
    staying = largerIn(table, i * n, i * n + m, staying);
    other = largerIn(table, i * n + m, (i + 1) * n, other);
  }
  const size = (at: number): number => (at < 0 ? 0 : Math.abs(table[at]!));
  return size(other) > most * size(staying) ? other : staying;
};

/** The place of the largest of some entries; `best` where none is larger than that. */
const largerIn = (table: Float64Array, from: number, to: number, best: number): number => {
  let at = best;
  let largest = best < 0 ? -1 : Math.abs(table[best]!);
  for (let j = from; j < to; j++) {
    const size = Math.abs(table[j]!);
    if (size <= largest) continue;
    largest = size;
    at = j;
  }
  return at;
};

/** Where the largest coefficient stands; −1 where there is none. */
const largestIn = (table: Float64Array, isFree: Uint8Array, m: number, n: number): number => {
  let at = -1;
  let largest = 0;
  for (let j = 0; j < n; j++) {
    if (isFree[j] === 0) continue;
    for (let i = 0; i < m; i++) {
      const size = Math.abs(table[i * n + j]!);
      if (size <= largest) continue;
      largest = size;
      at = i * n + j;
    }
  }
  return at;
};

/** Makes a column one of the identity. */
const reduce = (table: Float64Array, m: number, n: number, row: number, column: number): void => {
  const pivot = table[row * n + column]!;
  for (let j = row * n; j < (row + 1) * n; j++) table[j] = table[j]! / pivot;
  for (let i = 0; i < m; i++) if (i !== row) subtractRow(table, n, i, row, table[i * n + column]!);
};

/** Row i −= factor · row l. */
const subtractRow = (table: Float64Array, n: number, i: number, l: number, factor: number): void => {
  if (factor === 0) return;
  const [to, from] = [i * n, l * n];
  for (let j = 0; j < n; j++) table[to + j] = table[to + j]! - factor * table[from + j]!;
};

/** Columns of the first m that stand for themselves keep their places, and those that do not change theirs with others that do. */
const inOrder = (table: Float64Array, basis: Int32Array, isFree: Uint8Array, m: number, n: number): Interpolation => {
  const order = Int32Array.from({ length: n }, (_, j) => j);
  let next = m;
  for (let p = 0; p < m; p++) {
    if (isFree[p] === 0) continue;
    while (isFree[next] === 1) next++;
    order[p] = next;
    order[next] = p;
    next++;
  }
  const rowOf = new Int32Array(n);
  for (const [row, column] of basis.entries()) rowOf[column] = row;
  const values = new Float64Array(m * (n - m));
  for (let p = 0; p < m; p++) {
    const row = rowOf[order[p]!]! * n;
    for (let j = m; j < n; j++) values[p * (n - m) + j - m] = table[row + order[j]!]!;
  }
  return { order, values };
};
