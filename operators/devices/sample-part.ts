// Parts of matrices in memory, for devices that copy what they multiply.

/** `rows` rows from `row` on, and `columns` columns from `column` on, of a row-major matrix. */
export const partOf = (
  values: Float32Array,
  stride: number,
  row: number,
  rows: number,
  column: number,
  columns: number,
): Float32Array => {
  const out = new Float32Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    const at = (row + i) * stride + column;
    out.set(values.subarray(at, at + columns), i * columns);
  }
  return out;
};
