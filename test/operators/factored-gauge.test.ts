// Only ΔW = B A means anything: M A and B M⁻¹ are the same adapter. With M of condition 1,000 no spectrum of canonical factors may
// change beyond 1e-6 of its largest, in any mode; that of factors as they come does, which is why they are made canonical.
// The canonical form here is this test's own: QR of both factors, SVD of the middle, in float64.
import { inverse, Matrix, QrDecomposition, SingularValueDecomposition } from 'ml-matrix';
import { describe, expect, it } from 'vitest';
import { exactSpectrum } from '../../operators/exact-spectrum.ts';
import { factoredGram } from '../../operators/factored-gram.ts';
import { factoredModes } from '../../operators/factored-modes.ts';
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import { sourceOf } from './adapters.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

const [ROWS, COLS] = [44, 36];

/** ΔW = B A in float64. */
interface Raw {
  readonly b: Matrix;
  readonly a: Matrix;
}

const gaussian = (rows: number, cols: number, normal: () => number): Matrix =>
  new Matrix(Array.from({ length: rows }, () => Array.from({ length: cols }, () => normal())));

const orthogonal = (size: number, normal: () => number): Matrix =>
  new QrDecomposition(gaussian(size, size, normal)).orthogonalMatrix;

/** Singular values from 1 down to 1 / 1,000, evenly in their logarithm. */
const gauge = (size: number, normal: () => number): Matrix =>
  orthogonal(size, normal)
    .mmul(Matrix.diag(Array.from({ length: size }, (_, i) => 10 ** ((-3 * i) / (size - 1)))))
    .mmul(orthogonal(size, normal));

const stored = (left: Matrix, right: Matrix): AdapterFactors => ({
  rows: left.rows,
  cols: right.columns,
  rank: left.columns,
  left: Float32Array.from(left.to1DArray()),
  right: Float32Array.from(right.to1DArray()),
});

const canonical = ({ b, a }: Raw): AdapterFactors => {
  const [ofB, ofA] = [new QrDecomposition(b), new QrDecomposition(a.transpose())];
  const middle = ofB.upperTriangularMatrix.mmul(ofA.upperTriangularMatrix.transpose());
  const svd = new SingularValueDecomposition(middle);
  const roots = Matrix.diag(svd.diagonal.map(Math.sqrt));
  const left = ofB.orthogonalMatrix.mmul(svd.leftSingularVectors).mmul(roots);
  const right = roots.mmul(svd.rightSingularVectors.transpose()).mmul(ofA.orthogonalMatrix.transpose());
  return stored(left, right);
};

describe.each(devices)('a gauge of condition 1,000 on $name', ({ open }) => {
  const spectraOf = async (adapters: readonly AdapterFactors[]): Promise<readonly Float64Array[]> => {
    const tiles = await open();
    const gram = await factoredGram(sourceOf(adapters), { tiles, memory: 2 ** 30 });
    const spec = { features: ROWS * COLS, rank: 8, center: true, shiftIsOrigin: true };
    const { spectra } = await factoredModes(sourceOf(adapters), { modes: ['rows', 'cols'], rank: 8, tiles });
    await tiles.close();
    return [
      (await exactSpectrum(spec, gram, 8, tiles)).state.eigenvalues,
      ...spectra.map(({ eigenvalues }) => eigenvalues),
    ];
  };

  const apart = (some: readonly Float64Array[], others: readonly Float64Array[]): number =>
    Math.max(
      ...some.flatMap((values, m) => Array.from(values, (value, j) => Math.abs(value - others[m]![j]!) / values[0]!)),
    );

  it('changes no spectrum of canonical factors', async () => {
    const normal = normals(17);
    const raw = [4, 8, 4, 6, 8, 3, 4, 5, 8, 2].map(
      (rank): Raw => ({ b: gaussian(ROWS, rank, normal), a: gaussian(rank, COLS, normal) }),
    );
    const turned = raw.map(({ b, a }): Raw => {
      const m = gauge(a.rows, normal);
      return { b: b.mmul(inverse(m)), a: m.mmul(a) };
    });
    const truth = await spectraOf(raw.map(canonical));
    expect(apart(truth, await spectraOf(turned.map(canonical)))).toBeLessThan(1e-6);
    // As they come, factors of this gauge lose more than that: the test can fail.
    expect(apart(truth, await spectraOf(turned.map(({ b, a }) => stored(b, a))))).toBeGreaterThan(1e-6);
  });
});
