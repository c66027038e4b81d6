// Products in pieces, by the machine's own BLAS whatever its kernel: against float64, and nothing beside the cells of the product is
// written. Tolerance: sums of k products of normal numbers of size 1/4 in float32, added up by a BLAS, are right to 1e-6 of their
// norms, k / 16, or of one product.
import { describe, expect, it } from 'vitest';
import { type BlasLibrary, loadBlas } from '../../operators/devices/blas-library.ts';
import type { Device } from '../../operators/devices/device.ts';
import { findDevice } from '../../operators/devices/device-spec.ts';
import { alignedFloats } from '../../operators/devices/float-arena.ts';
import {
  isOwnPieced,
  isPieced,
  multipliesSmall,
  multiplyOwnRows,
  multiplyRows,
} from '../../operators/devices/small-products.ts';
import { addressOf } from '../../sources/c-library.ts';
import { devices, everyDevice } from './devices.ts';
import { normals } from './planted.ts';

const GUARD = 7;
const tolerance = (k: number): number => 1e-6 * Math.max(1, k / 16);

const library = async (): Promise<BlasLibrary> => {
  const { spec } = await findDevice('blas');
  if (spec.name !== 'blas') throw new Error('expected a BLAS');
  return loadBlas(spec.path);
};

/** Rows of float32, `stride` apart, and their inner products in float64. */
const rowsOf = (count: number, width: number, seed: number) => {
  const stride = width + 5;
  const normal = normals(seed);
  const values = alignedFloats(count * stride + 64);
  for (let i = 0; i < values.length; i++) values[i] = normal() / 4;
  const inner = (i: number, j: number): number => {
    let sum = 0;
    for (let l = 0; l < width; l++) sum += values[i * stride + l]! * values[j * stride + l]!;
    return sum;
  };
  return { values, stride, inner };
};

const guarded = (m: number, ldc: number): Float32Array => alignedFloats(m * ldc + 64).fill(GUARD);

describe.skipIf(devices[0]!.name !== 'blas')('products in pieces', () => {
  it.each([
    [1, 1, 1],
    [35, 32, 2048],
    [67, 32, 2048],
    [99, 33, 2049],
    [131, 64, 700],
    [3, 128, 63],
    [36, 97, 961],
    [37, 31, 1000],
    [200, 7, 2048],
  ])('rows by rows: %i x %i over %i', async (m, n, k) => {
    const { multiplyAt } = await library();
    const { values, stride, inner } = rowsOf(m + n, k, m + n);
    const ldc = n + 3;
    const out = guarded(m, ldc);
    const at = addressOf(values);
    const shape = { m, n, k, lda: stride, ldb: stride, ldc };
    multiplyRows(multiplyAt, shape, at, at + m * stride * 4, addressOf(out));
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) expect(Math.abs(out[i * ldc + j]! - inner(i, m + j))).toBeLessThan(tolerance(k));
    out.forEach((value, cell) => {
      if (cell >= m * ldc || cell % ldc >= n) expect(value).toBe(GUARD);
    });
  });

  it.each([
    [1, 5],
    [34, 2048],
    [35, 2048],
    [140, 1000],
    [259, 2048],
  ])('rows by themselves: %i over %i', async (n, k) => {
    const { multiplyAt } = await library();
    const { values, stride, inner } = rowsOf(n, k, n);
    const out = guarded(n, n);
    multiplyOwnRows(multiplyAt, { n, k, lda: stride, ldc: n }, addressOf(values), addressOf(out));
    for (let i = 0; i < n; i++)
      for (let j = i; j < n; j++) expect(Math.abs(out[i * n + j]! - inner(i, j))).toBeLessThan(tolerance(k));
    expect(out.subarray(n * n).every((value) => value === GUARD)).toBe(true);
  });
});

/** Rows in a device's matrix, and their norms. */
const onDevice = (device: Device, count: number, width: number) => {
  const { values, stride, inner } = rowsOf(count, width, count);
  const norms = Array.from({ length: count }, (_, i) => Math.sqrt(inner(i, i)));
  const matrix = device.allocate(count, width);
  for (let i = 0; i < count; i++) device.write(matrix, i, values.subarray(i * stride, i * stride + width));
  return { matrix, inner, norms };
};

/** Rows either side of where pieces end, right to 1e-6 of their norms, as the contract of devices has it; added to what is there: the lower triangle of a Gram of all rows is not asked for. */
describe.each(everyDevice.filter(({ name }) => name === 'blas'))('Grams on $name', ({ openDevice }) => {
  it.each([
    [100, 32, true],
    [265, 64, true],
    [266, 64, false],
    [532, 32, false],
  ])('%i x %i', async (m, n, pieced) => {
    expect(isPieced(m, n)).toBe(pieced);
    const device = await openDevice();
    const width = 700;
    const { matrix, inner, norms } = onDevice(device, m, width);
    const out = new Float64Array(m * n).fill(GUARD);
    device.gram(matrix, 0, m, m - n, n, out);
    device.settle();
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++)
        expect(Math.abs(out[i * n + j]! - GUARD - inner(i, m - n + j))).toBeLessThan(
          1e-6 * norms[i]! * norms[m - n + j]!,
        );
    device.free(matrix);
  });

  it.each([
    [128, true],
    [400, true],
    [401, false],
  ])('%i rows by themselves', async (n, pieced) => {
    expect(isOwnPieced(n)).toBe(pieced);
    const device = await openDevice();
    const width = 300;
    const { matrix, inner, norms } = onDevice(device, n, width);
    const out = new Float64Array(n * n).fill(GUARD);
    device.gramOfAll(matrix, n, out);
    device.settle();
    for (let i = 0; i < n; i += 3)
      for (let j = i; j < n; j++)
        expect(Math.abs(out[i * n + j]! - GUARD - inner(i, j))).toBeLessThan(1e-6 * norms[i]! * norms[j]!);
    device.free(matrix);
  });
});

it.each([
  ['OpenBLAS', '0.3.21', 'Cooperlake', true],
  ['OpenBLAS', '0.3.31', 'SkylakeX', true],
  ['OpenBLAS', '0.4.0', 'SapphireRapids', true],
  ['OpenBLAS', '1.0.0', 'SkylakeX', true],
  ['OpenBLAS', '0.3.20', 'SkylakeX', false],
  ['OpenBLAS', '0.2.99', 'SkylakeX', false],
  ['OpenBLAS', '0.3.21', 'Haswell', false],
  ['OpenBLAS', '0.3.21', 'Zen', false],
  ['OpenBLAS', 'unknown', 'SkylakeX', false],
  ['libmkl_rt.so', 'unknown', 'unknown', false],
] as const)('%s %s with kernel %s: %s', (name, version, kernel, expected) => {
  expect(multipliesSmall({ library: name, version, kernel } as BlasLibrary)).toBe(expected);
});
