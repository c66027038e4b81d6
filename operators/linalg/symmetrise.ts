// Float64 matrices that are symmetric but for rounding.

/** Takes away, in place, what rounding made of an n x n matrix on one side of its diagonal alone; gives it back. */
export const symmetrise = (matrix: Float64Array, n: number): Float64Array => {
  for (let i = 0; i < n; i++)
    for (let j = 0; j < i; j++) matrix[i * n + j] = matrix[j * n + i] = (matrix[i * n + j]! + matrix[j * n + i]!) / 2;
  return matrix;
};
