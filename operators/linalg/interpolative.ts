// Interpolative decomposition in float64: some columns of a matrix, chosen so that all others are combinations of them with
// small coefficients. Elimination chooses a column for each row in turn; then columns change places as long as that makes the
// volume of those chosen larger by more than a factor. Source: Gu & Eisenstat 1996 (strong rank-revealing factorizations);
// Goreinov et al. 2010 (submatrices of maximal volume, found from where Gaussian elimination leaves off).

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
 * @param most above 1; the larger, the fewer columns change places
 * @returns null where M does not have m columns that are independent, or entries that are not finite
 */
export const interpolate = (a: Float64Array, m: number, n: number, most: number): Interpolation | null => {
  const table = a.slice();
  const least = SINGULAR * largestOf(table);
  const chosen = new Int32Array(m);
  const isFree = new Uint8Array(n).fill(1);
  for (let row = 0; row < m; row++) {
    const column = pivotOf(table, isFree, row, m, n, most);
    if (!(Math.abs(table[row * n + column]!) > least)) return null;
    // Zeros below the pivot.
    for (let i = row + 1; i < m; i++) addRow(table, n, i, row, -table[i * n + column]! / table[row * n + column]!);
    chosen[row] = column;
    isFree[column] = 0;
  }
  const free = Int32Array.from({ length: n }, (_, j) => j).filter((j) => isFree[j] === 1);
  const v = coefficients(table, m, n, chosen, free);
  // Each exchange makes the volume larger by more than `most`, so this ends; rounding is given no chance to go in circles.
  for (let exchanges = 0; exchanges < m * n; exchanges++) {
    const at = largestAt(v);
    if (at < 0 || Math.abs(v[at]!) <= most) break;
    exchange(v, free.length, at, chosen, free);
  }
  return inOrder(v, m, n, chosen, free);
};

// Loops stand in functions of their own: what is hot is compiled, and small functions are compiled soon.

const largestOf = (values: Float64Array): number => {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
};

/** Where the largest number is; −1 where there is none. */
const largestAt = (values: Float64Array): number => {
  let at = -1;
  let largest = -1;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (size <= largest) continue;
    largest = size;
    at = i;
  }
  return at;
};

/** The column of a row's largest entry, of those not yet taken; one of the first m if it is nearly as large. */
const pivotOf = (table: Float64Array, isFree: Uint8Array, row: number, m: number, n: number, most: number): number => {
  let column = 0;
  let largest = -1;
  for (let j = 0; j < n; j++) {
    const size = Math.abs(table[row * n + j]!) * (j < m ? most : 1);
    if (isFree[j] === 0 || size <= largest) continue;
    largest = size;
    column = j;
  }
  return column;
};

/** U⁻¹ times the free columns, U the chosen ones, upper triangular. */
const coefficients = (
  table: Float64Array,
  m: number,
  n: number,
  chosen: Int32Array,
  free: Int32Array,
): Float64Array => {
  const rest = free.length;
  const v = new Float64Array(m * rest);
  for (let i = 0; i < m; i++) for (let j = 0; j < rest; j++) v[i * rest + j] = table[i * n + free[j]!]!;
  for (let l = m - 1; l >= 0; l--) {
    const column = chosen[l]!;
    const pivot = table[l * n + column]!;
    for (let j = l * rest; j < (l + 1) * rest; j++) v[j] = v[j]! / pivot;
    for (let i = 0; i < l; i++) addRow(v, rest, i, l, -table[i * n + column]!);
  }
  return v;
};

/** Row i += factor · row l. */
const addRow = (rows: Float64Array, width: number, i: number, l: number, factor: number): void => {
  if (factor === 0) return;
  const [to, from] = [i * width, l * width];
  for (let j = 0; j < width; j++) rows[to + j] = rows[to + j]! + factor * rows[from + j]!;
};

/** The chosen column of a row of V and the free one of a column of V change places. */
const exchange = (v: Float64Array, width: number, at: number, chosen: Int32Array, free: Int32Array): void => {
  const row = Math.floor(at / width);
  const column = at - row * width;
  const pivot = v[at]!;
  // The row's own column of the identity comes in place of the free one.
  v[at] = 1;
  for (let j = row * width; j < (row + 1) * width; j++) v[j] = v[j]! / pivot;
  for (let i = 0; i < chosen.length; i++) {
    if (i === row) continue;
    const factor = v[i * width + column]!;
    v[i * width + column] = 0;
    addRow(v, width, i, row, -factor);
  }
  [chosen[row], free[column]] = [free[column]!, chosen[row]!];
};

/** Chosen columns among the first m keep their places, and the others there change theirs with chosen ones from beyond. */
const inOrder = (v: Float64Array, m: number, n: number, chosen: Int32Array, free: Int32Array): Interpolation => {
  const order = Int32Array.from({ length: n }, (_, j) => j);
  const from = chosen.filter((j) => j >= m).sort();
  const to = free.filter((j) => j < m).sort();
  for (let i = 0; i < to.length; i++) [order[to[i]!], order[from[i]!]] = [from[i]!, to[i]!];
  const rowOf = new Int32Array(n);
  const columnOf = new Int32Array(n);
  for (let i = 0; i < m; i++) rowOf[chosen[i]!] = i;
  for (let j = 0; j < n - m; j++) columnOf[free[j]!] = j;
  const values = new Float64Array(v.length);
  for (let i = 0; i < m; i++) {
    const row = rowOf[order[i]!]! * (n - m);
    for (let j = m; j < n; j++) values[i * (n - m) + j - m] = v[row + columnOf[order[j]!]!]!;
  }
  return { order, values };
};
