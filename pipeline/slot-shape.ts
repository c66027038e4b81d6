// Which tensors are slots, and the matrix that a tensor is seen as.

/** A tensor's shape as rows x cols; null for tensors that are no matrix. */
export interface MatrixShape {
  readonly rows: number;
  readonly cols: number;
}

/**
 * A tensor of two or more dims is a slot. Leading 1s are dropped as long as two dims remain; three dims count as
 * (all but the last) x last, four and more (convolutions) as first x rest.
 * `[1, 17, 64]` is 17 x 64, `[1, 1, 64]` is 1 x 64, `[64, 3, 7, 7]` is 64 x 147, `[64]` is none.
 */
export const matrixShape = (shape: readonly number[]): MatrixShape | null => {
  if (shape.length < 2) return null;
  let from = 0;
  while (shape.length - from > 2 && shape[from] === 1) from++;
  const dims = shape.slice(from);
  const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);
  return dims.length >= 4
    ? { rows: dims[0]!, cols: product(dims.slice(1)) }
    : { rows: product(dims.slice(0, -1)), cols: dims.at(-1)! };
};

/** Orders names with their numbers as numbers: layer.2 before layer.10. */
export const compareNatural = (a: string, b: string): number => {
  const parts = (name: string): string[] => name.split(/(\d+)/);
  const left = parts(a);
  const right = parts(b);
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const [x, y] = [left[i]!, right[i]!];
    if (x === y) continue;
    const difference = i % 2 === 1 ? Number(x) - Number(y) : 0;
    if (difference !== 0) return difference;
    return x < y ? -1 : 1;
  }
  return left.length - right.length;
};
