import { describe, expect, it } from 'vitest';
import { type DoubleProduct, jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import {
  blocksOf,
  blockValues,
  mirrorDiagonal,
  multiplyBlock,
  packedLength,
  packedTrace,
  unpacked,
} from '../../operators/linalg/packed-blocks.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { topEigenpairs } from '../../operators/linalg/top-eigenpairs.ts';

/** A symmetric matrix with given eigenvalues: reflections applied to a diagonal one. */
const withEigenvalues = (values: Float64Array): Float64Array => {
  const n = values.length;
  const matrix = new Float64Array(n * n);
  for (let i = 0; i < n; i++) matrix[i * n + i] = values[i]!;
  for (const seed of [1, 2, 3]) {
    const u = Float64Array.from({ length: n }, (_, i) => Math.sin(seed * 7919 + i * (seed + 0.37)));
    const norm2 = u.reduce((sum, x) => sum + x * x, 0);
    for (const side of [0, 1]) {
      for (let i = 0; i < n; i++) {
        let inner = 0;
        for (let j = 0; j < n; j++) inner += u[j]! * matrix[side === 0 ? j * n + i : i * n + j]!;
        for (let j = 0; j < n; j++) {
          const at = side === 0 ? j * n + i : i * n + j;
          matrix[at] = matrix[at]! - (2 * inner * u[j]!) / norm2;
        }
      }
    }
  }
  return matrix;
};

const packed = (matrix: Float64Array, n: number): Float64Array => {
  const out = new Float64Array(packedLength(n));
  for (const block of blocksOf(n)) {
    const { rows, columns } = block;
    const values = blockValues(out, block);
    for (let i = rows.from; i < rows.to; i++) {
      const width = columns.to - columns.from;
      values.set(matrix.subarray(i * n + columns.from, i * n + columns.to), (i - rows.from) * width);
    }
    // What lies below the diagonal is not to be trusted before it is mirrored.
    if (rows.from === columns.from && rows.to - rows.from > 1) values[rows.to - rows.from] = Number.NaN;
  }
  mirrorDiagonal(out, n);
  return out;
};

const multiplier = (matrix: Float64Array, n: number, product: DoubleProduct) => {
  const held = packed(matrix, n);
  return async (x: Float64Array, p: number): Promise<Float64Array> => {
    const y = new Float64Array(p * n);
    for (const block of blocksOf(n)) multiplyBlock(product, block, blockValues(held, block), x, y, p, n);
    return y;
  };
};

const spectra: readonly (readonly [string, (i: number, n: number) => number])[] = [
  ['1/j²', (i) => 1 / (1 + i) ** 2],
  ['0.8ʲ', (i) => 0.8 ** i],
  ['flat, a straight line', (i, n) => 1 - i / n],
  ['pairs of equals', (i) => 1 / (1 + Math.floor(i / 2))],
  ['a cluster of 20 equals above the rest', (i, n) => (i < 20 ? 1 : 0.5 * (1 - i / n))],
  ['of rank 7', (i) => (i < 7 ? 7 - i : 0)],
  ['nothing', () => 0],
];

describe('packed blocks', () => {
  it.each([1, 5, 512, 513, 1100])('hold a matrix of side %i once', (n) => {
    const values = Float64Array.from({ length: n }, (_, i) => 1 / (1 + i));
    const matrix = withEigenvalues(values);
    const blocks = packed(matrix, n);
    const back = unpacked(blocks, n);
    // Equal but for the asymmetry that making the matrix left.
    expect(back.every((value, i) => Math.abs(value - matrix[i]!) < 1e-13)).toBe(true);
    expect(packedTrace(blocks, n)).toBeCloseTo(
      values.reduce((a, b) => a + b),
      10,
    );
  });
});

describe('topEigenpairs', () => {
  // The bound is the one that is promised: a residual of 2^-21 of the largest eigenvalue, and Ritz values from below.
  it.each(spectra)('finds the first 8 of %s', async (_name, value) => {
    const n = 600;
    const values = Float64Array.from({ length: n }, (_, i) => value(i, n));
    const multiply = multiplier(withEigenvalues(values), n, jsDoubleProduct);
    const found = await topEigenpairs({ side: n, wanted: 8, multiply, product: jsDoubleProduct, solve: jsEigenSolver });
    expect(found.converged).toBe(true);
    for (let j = 0; j < 8; j++) {
      expect(found.residuals[j]!).toBeLessThanOrEqual(2 ** -21 * values[0]! + 1e-300);
      expect(found.values[j]!).toBeLessThanOrEqual(values[j]! + 1e-12);
      expect(values[j]!).toBeLessThanOrEqual(found.values[j]! + found.residuals[j]! + 1e-12);
    }
    for (let a = 0; a < 8; a++) {
      for (let b = 0; b < 8; b++) {
        let inner = 0;
        for (let l = 0; l < n; l++) inner += found.vectors[a * n + l]! * found.vectors[b * n + l]!;
        expect(inner).toBeCloseTo(a === b ? 1 : 0, 9);
      }
    }
  });

  it('is the same every time', async () => {
    const n = 300;
    const matrix = withEigenvalues(Float64Array.from({ length: n }, (_, i) => 1 / (1 + i)));
    const once = () =>
      topEigenpairs({
        side: n,
        wanted: 4,
        multiply: multiplier(matrix, n, jsDoubleProduct),
        product: jsDoubleProduct,
        solve: jsEigenSolver,
      });
    expect(await once()).toEqual(await once());
  });

  it('gives all pairs of a matrix smaller than what is wanted', async () => {
    const values = Float64Array.of(3, 2, 1);
    const multiply = multiplier(withEigenvalues(values), 3, jsDoubleProduct);
    const found = await topEigenpairs({ side: 3, wanted: 8, multiply, product: jsDoubleProduct, solve: jsEigenSolver });
    expect([...found.values].map((value) => Math.round(value * 1e9) / 1e9)).toEqual([3, 2, 1]);
  });
});
