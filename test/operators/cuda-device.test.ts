// The cuda device by itself, on the double of a card, which ends the process where CUDA is used wrongly (test/cuda-double/README.md).
// Tolerances: a chunk of 256 products of float32 numbers, added up in order, is right to sqrt(256) 2^-24 = 1e-6 of the norms (its
// rounding errors as a random walk; 2e-7 as a rule); in TF32, 10 bits of mantissa, to 1e-3, and not to 1e-6.
import koffi from 'koffi';
import { describe, expect, it } from 'vitest';
import { CUDA_CHUNK, CudaDevice } from '../../operators/devices/cuda-device.ts';
import { CUDA_EIGEN_ROWS } from '../../operators/devices/cuda-eigen.ts';
import type { CudaPrecision, PlacedRows } from '../../operators/devices/device.ts';
import { jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { bytesPerElement, widen } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import { isRealCard } from '../card.ts';
import { cudaSpec } from './devices.ts';
import { normals } from './planted.ts';

const open = (precision: CudaPrecision = 'float32'): CudaDevice =>
  new CudaDevice(cudaSpec!.paths, precision, { solve: jsEigenSolver, multiplyDouble: jsDoubleProduct });

/** What the double says is alive: allocations, their bytes, pinned memory, streams, events; and cuBLAS handles. */
const alive = (): number[] => {
  const library = koffi.load(cudaSpec!.paths.runtime);
  const out = new BigInt64Array(5);
  library.func('void weightspan_double_report(void *out)')(out);
  return [...out, library.func('int64_t weightspan_double_handles()')() as bigint].map(Number);
};

const stored = (dtype: Dtype, width: number, rows: readonly Uint8Array[], at: readonly number[]): PlacedRows => ({
  batch: {
    kind: 'stored',
    dtype,
    width,
    models: Int32Array.from(rows.keys()),
    bytes: Buffer.concat(rows),
    stride: width * bytesPerElement(dtype),
  },
  rows: [...rows.keys()],
  at,
});

const floatRows = (count: number, width: number, seed: number): Float32Array[] => {
  const normal = normals(seed);
  return Array.from({ length: count }, () => Float32Array.from({ length: width }, () => normal()));
};
const bytesOf = (row: Float32Array): Uint8Array => new Uint8Array(row.buffer);

describe.skipIf(cudaSpec === null)('cuda', () => {
  it.each(['F32', 'F64', 'BF16', 'F16', 'F8_E4M3', 'F8_E5M2'] as const)(
    'widens %s as the processor does, in every bit pattern, wherever rows go',
    async (dtype) => {
      const size = bytesPerElement(dtype);
      const width = size === 1 ? 256 : 65_536;
      const patterns = new Uint8Array(width * size);
      if (size <= 2)
        for (let i = 0; i < width; i++) {
          patterns[i * size] = i & 255;
          if (size === 2) patterns[i * size + 1] = i >> 8;
        }
      else {
        // Bits at random, NaN, infinities and denormals among them.
        let state = 9;
        for (let i = 0; i < patterns.length; i++) {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          patterns[i] = state >>> 24;
        }
      }
      const reversed = patterns.slice();
      for (let i = 0; i < width; i++)
        reversed.set(patterns.subarray((width - 1 - i) * size, (width - i) * size), i * size);
      const device = open();
      const matrix = device.allocate(6, width);
      const shift = Float32Array.from({ length: width }, (_, i) => Math.sin(i));
      device.write(matrix, 0, shift);
      // Rows 5, 3, 4: two that follow each other, and one that does not.
      const rows = [patterns, reversed, patterns];
      const expected = rows.map((row) => {
        const out = new Float32Array(width);
        widen(dtype, row, out);
        return out;
      });
      device.widen([stored(dtype, width, rows, [5, 3, 4])], 0, matrix, null);
      const same = (found: Float32Array, wanted: Float32Array): void => {
        const differs = found.findIndex((x, i) => !Object.is(x, wanted[i]!));
        expect(differs).toBe(-1);
      };
      [5, 3, 4].forEach((at, i) => void same(device.read(matrix, at, 1), expected[i]!));
      device.widen([stored(dtype, width, [rows[0]!], [2])], 0, matrix, 0);
      same(
        device.read(matrix, 2, 1),
        expected[0]!.map((x, i) => x + shift[i]!),
      );
      await device.close();
    },
  );

  it('takes features from the middle of rows', async () => {
    const rows = floatRows(3, 500, 1);
    const device = open();
    const matrix = device.allocate(3, 133);
    device.widen([stored('F32', 500, rows.map(bytesOf), [0, 1, 2])], 211, matrix, null);
    rows.forEach((row, i) => {
      expect(device.read(matrix, i, 1)).toEqual(row.subarray(211, 344));
    });
    await device.close();
  });

  it('sends many rows one after the other, and none is overtaken by the next', async () => {
    // A row of a tile is 64 KiB: 200 rows fill the two pieces of pinned memory more than once.
    const rows = floatRows(200, 16_384, 2);
    const device = open();
    const matrix = device.allocate(200, 16_384);
    device.widen([stored('F32', 16_384, rows.map(bytesOf), [...rows.keys()])], 0, matrix, null);
    const more = rows.map((row) => row.map((x) => -x));
    const second = device.allocate(200, 16_384);
    device.widen([stored('F32', 16_384, more.map(bytesOf), [...rows.keys()])], 0, second, null);
    for (const i of [0, 63, 64, 127, 128, 199]) {
      expect(device.read(matrix, i, 1)).toEqual(rows[i]);
      expect(device.read(second, i, 1)).toEqual(more[i]);
    }
    await device.close();
  });

  it.each([7, CUDA_CHUNK - 1, CUDA_CHUNK, 2 * CUDA_CHUNK, 3 * CUDA_CHUNK + 5])(
    'Grams of %i features, in float32 and in TF32',
    async (width) => {
      const rows = floatRows(9, width, width);
      const errors: Record<string, number> = {};
      for (const precision of ['float32', 'tf32'] as const) {
        const device = open(precision);
        expect(device.info.precision).toBe(precision);
        const matrix = device.allocate(9, width);
        rows.forEach((row, i) => void device.write(matrix, i, row));
        const out = new Float64Array(5 * 3).fill(100);
        const whole = new Float64Array(81);
        device.gram(matrix, 1, 5, 6, 3, out);
        device.gram(matrix, 1, 5, 6, 3, out);
        device.gramOfAll(matrix, 9, whole);
        device.settle();
        let worst = 0;
        const inner = (i: number, j: number): number => rows[i]!.reduce((sum, x, l) => sum + x * rows[j]![l]!, 0);
        for (let i = 0; i < 5; i++)
          for (let j = 0; j < 3; j++)
            worst = Math.max(worst, Math.abs(out[i * 3 + j]! - 100 - 2 * inner(1 + i, 6 + j)) / (2 * width));
        for (let i = 0; i < 9; i++)
          for (let j = i; j < 9; j++) worst = Math.max(worst, Math.abs(whole[i * 9 + j]! - inner(i, j)) / width);
        errors[precision] = worst;
        await device.close();
      }
      expect(errors.float32).toBeLessThan(Math.sqrt(CUDA_CHUNK) * 2 ** -24);
      expect(errors.tf32).toBeLessThan(1e-3);
      expect(errors.tf32).toBeGreaterThan(1e-6);
    },
  );

  it('mixes rows into another matrix, and onto some of the same', async () => {
    const rows = floatRows(8, 300, 3);
    const weights = Float64Array.from(floatRows(1, 6, 4)[0]!);
    const device = open();
    const [from, to] = [device.allocate(8, 300), device.allocate(8, 300)];
    rows.forEach((row, i) => void device.write(from, i, row));
    device.combine(weights, 2, from, 4, 3, to, 2);
    const mixed = (i: number, n: number, first: number): Float32Array =>
      Float32Array.from({ length: 300 }, (_, l) =>
        Array.from({ length: n }, (_, j) => Math.fround(weights[i * n + j]!) * rows[first + j]![l]!).reduce(
          (a, b) => a + b,
        ),
      );
    const near = (found: Float32Array, wanted: Float32Array): void =>
      found.forEach((x, i) => void expect(Math.abs(x - wanted[i]!)).toBeLessThan(1e-6));
    expect(device.read(to, 0, 1)).toEqual(rows[0]);
    expect(device.read(to, 1, 1)).toEqual(rows[1]);
    near(device.read(to, 2, 1), mixed(0, 3, 4));
    near(device.read(to, 3, 1), mixed(1, 3, 4));
    // Other weights, of the same size.
    device.accumulate(
      weights.map((w) => -w),
      2,
      from,
      1,
      3,
    );
    near(
      device.read(from, 1, 1),
      mixed(0, 3, 3).map((x, i) => rows[1]![i]! - x),
    );
    near(
      device.read(from, 2, 1),
      mixed(1, 3, 3).map((x, i) => rows[2]![i]! - x),
    );
    expect(device.read(from, 3, 1)).toEqual(rows[3]);
    await device.close();
  });

  it.each(['rows', 'columns'] as const)(
    'adds samples that stand in %s to many blocks as to each by itself',
    async (stand) => {
      // More samples than go up at a time, and a short chunk at the end.
      const [side, count] = [37, 2 * CUDA_CHUNK * 8 + 11];
      const vectors = floatRows(count, side, 6);
      const stride = (stand === 'rows' ? side : count) + 3;
      const values = new Float32Array(stride * (stand === 'rows' ? count : side));
      vectors.forEach((vector, s) => {
        for (let i = 0; i < side; i++) values[stand === 'rows' ? s * stride + i : i * stride + s] = vector[i]!;
      });
      const samples = { values, stride, stand, side, count };
      const extents = [
        { from: 0, to: 20 },
        { from: 20, to: 37 },
      ];
      const blocks = extents.flatMap((rows, i) =>
        extents.slice(0, i + 1).map((columns) => ({ index: 0, offset: 0, rows, columns })),
      );
      const device = open();
      const rooms = () =>
        blocks.map(({ rows, columns }) => new Float64Array((rows.to - rows.from) * (columns.to - columns.from)));
      const [together, alone] = [rooms(), rooms()];
      for (const some of [blocks.slice(0, 1), blocks.slice(1)])
        device.addScatterBlocks(
          samples,
          some.map((block) => ({ block, out: together[blocks.indexOf(block)]! })),
        );
      for (const [b, block] of blocks.entries()) device.addScatter(samples, block, alone[b]!);
      expect(together).toEqual(alone);
      blocks.forEach(({ rows, columns }, b) => {
        for (let i = rows.from; i < rows.to; i++)
          for (let j = columns.from; j < columns.to; j++) {
            const truth = vectors.reduce((sum, x) => sum + x[i]! * x[j]!, 0);
            const found = together[b]![(i - rows.from) * (columns.to - columns.from) + j - columns.from]!;
            expect(Math.abs(found - truth) / count).toBeLessThan(Math.sqrt(CUDA_CHUNK) * 2 ** -24);
          }
      });
      await device.close();
    },
  );

  it.each([5, 64, 1000])('finds the largest entries of rows of %i, the first of equals', async (width) => {
    const rows = floatRows(4, width, 7);
    rows[1]!.fill(0);
    // Equals in an order that no part of a row sees alone.
    const [first, second] = [Math.floor(width / 2), width - 1];
    rows[2]![first] = -9;
    rows[2]![second] = 9;
    rows[3]![second] = -9;
    rows[3]![0] = 9;
    const device = open();
    const matrix = device.allocate(5, width);
    rows.forEach((row, i) => void device.write(matrix, 1 + i, row));
    const largest = rows[0]!.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most));
    expect([...device.peaks(matrix, 1, 4)]).toEqual([largest, 0, -9, 9]);
    await device.close();
  });

  it('takes sums down that are larger than what comes down at a time', async () => {
    const device = open();
    const rows = floatRows(800, 3, 8);
    const matrix = device.allocate(800, 3);
    rows.forEach((row, i) => void device.write(matrix, i, row));
    const [small, large] = [new Float64Array(4).fill(1), new Float64Array(800 * 800)];
    device.gram(matrix, 0, 2, 5, 2, small);
    device.gramOfAll(matrix, 800, large);
    device.settle();
    const inner = (i: number, j: number): number => rows[i]!.reduce((sum, x, l) => sum + x * rows[j]![l]!, 0);
    for (const [i, j] of [
      [0, 0],
      [655, 360],
      [655, 359],
      [799, 799],
    ] as const)
      expect(Math.abs(large[i * 800 + j]! - inner(i, j))).toBeLessThan(1e-5);
    expect(Math.abs(small[3]! - 1 - inner(1, 6))).toBeLessThan(1e-5);
    await device.close();
  });

  it('solves large symmetric problems on the card, and small ones beside it', async () => {
    const device = open();
    const n = 40;
    const normal = normals(5);
    // As large as the card takes them, mostly diagonal, so that the double is soon done.
    const large = CUDA_EIGEN_ROWS;
    const matrix = new Float64Array(large * large);
    for (let i = 0; i < large; i++) matrix[i * large + i] = 1 + i;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < i; j++) matrix[i * large + j] = matrix[j * large + i] = normal() / 4;
    const { values, vectors } = device.solve(matrix, large);
    expect(values[0]).toBeCloseTo(large, 9);
    for (const j of [0, 1, large - n, large - 1]) {
      const v = vectors.subarray(j * large, (j + 1) * large);
      for (let i = 0; i < large; i++) {
        let sum = 0;
        for (let l = 0; l < large; l++) sum += matrix[i * large + l]! * v[l]!;
        expect(Math.abs(sum - values[j]! * v[i]!)).toBeLessThan(1e-9 * large);
      }
    }
    expect(device.solve(Float64Array.of(2, 0, 0, 3), 2).values).toEqual(Float64Array.of(3, 2));
    await device.close();
  });

  it.skipIf(isRealCard)('gives back all it took from the card', async () => {
    const before = alive();
    const device = open();
    const matrix = device.allocate(4, 5000);
    device.widen([stored('F16', 5000, [new Uint8Array(10_000)], [1])], 0, matrix, null);
    device.gram(matrix, 0, 2, 1, 2, new Float64Array(4));
    device.accumulate(Float64Array.of(1, 2), 1, matrix, 0, 2);
    device.addEnergies(
      { values: new Float32Array(60), stride: 6, stand: 'rows', side: 6, count: 10 },
      0,
      10,
      new Float32Array(12),
      new Float64Array(2),
    );
    expect(alive()).not.toEqual(before);
    device.free(matrix);
    await device.close();
    expect(alive()).toEqual(before);
  });
});
