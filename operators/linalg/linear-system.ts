// Small dense linear systems in float64: Gaussian elimination with partial pivoting, on plain arrays. (ml-matrix gives the
// same digits, but its first call costs 20 ms while its accessors are young, a third of a block of a short run.)

/**
 * X with A X = B; null where A is singular.
 * @param a m x m, row-major
 * @param b m x columns, row-major
 * @returns m x columns, row-major
 */
export const solveLinear = (a: Float64Array, b: Float64Array, m: number): Float64Array | null => {
  const columns = b.length / m;
  const left = a.slice();
  const x = b.slice();
  for (let step = 0; step < m; step++) {
    const pivot = pivotOf(left, m, step);
    if (left[pivot * m + step] === 0) return null;
    if (pivot !== step) {
      swapRows(left, m, pivot, step);
      swapRows(x, columns, pivot, step);
    }
    eliminate(left, x, m, columns, step);
  }
  for (let step = m - 1; step >= 0; step--) {
    divideRow(x, columns, step, left[step * m + step]!);
    for (let i = 0; i < step; i++) subtractRow(x, columns, i, step, left[i * m + step]!, 0);
  }
  return x;
};

// Loops stand in functions of their own: what is hot is compiled, and small functions are compiled soon.

/** Makes column `step` zero below its diagonal. */
const eliminate = (left: Float64Array, x: Float64Array, m: number, columns: number, step: number): void => {
  for (let i = step + 1; i < m; i++) {
    const factor = left[i * m + step]! / left[step * m + step]!;
    if (factor === 0) continue;
    subtractRow(left, m, i, step, factor, step + 1);
    subtractRow(x, columns, i, step, factor, 0);
  }
};

const divideRow = (values: Float64Array, columns: number, i: number, divisor: number): void => {
  for (let j = i * columns; j < (i + 1) * columns; j++) values[j] = values[j]! / divisor;
};

const pivotOf = (left: Float64Array, m: number, step: number): number => {
  let pivot = step;
  for (let i = step + 1; i < m; i++) {
    if (Math.abs(left[i * m + step]!) > Math.abs(left[pivot * m + step]!)) pivot = i;
  }
  return pivot;
};

const swapRows = (values: Float64Array, columns: number, i: number, l: number): void => {
  const row = values.slice(i * columns, (i + 1) * columns);
  values.copyWithin(i * columns, l * columns, (l + 1) * columns);
  values.set(row, l * columns);
};

/** Row i −= factor · row l, from column `from` on. */
const subtractRow = (
  values: Float64Array,
  columns: number,
  i: number,
  l: number,
  factor: number,
  from: number,
): void => {
  for (let j = from; j < columns; j++) {
    values[i * columns + j] = values[i * columns + j]! - factor * values[l * columns + j]!;
  }
};
