// How rows come into a panel and out of it, on every device: the same numbers wherever they stand, in whichever order they
// come, and nothing beside them touched. Exact but for the shift, which is added in float32.
import { describe, expect, it } from 'vitest';
import type { Device, PlacedRows } from '../../operators/devices/device.ts';
import { bytesPerElement } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import type { StoredRows } from '../../sources/weight-rows.ts';
import { everyDevice } from './devices.ts';
import { normals } from './planted.ts';

const WIDTH = 90;
const FROM = 7;
const BEFORE = 3;

const normal = normals(5);
const floats = (length: number): Float32Array => Float32Array.from({ length }, () => normal());

/**
 * Rows of more features than are taken, and what is taken of each as float32.
 * @param gap elements between one row and the next
 */
const batchOf = (dtype: Dtype, rows: number, gap = 0) => {
  const width = FROM + WIDTH + 2;
  const between = width + gap;
  const length = (rows - 1) * between + width;
  const stored = dtype === 'F64' ? Float64Array.from(floats(length)) : floats(length);
  const bytes = new Uint8Array(stored.buffer);
  expect(bytes.length).toBe(length * bytesPerElement(dtype));
  const batch: StoredRows = {
    kind: 'stored',
    dtype,
    width,
    models: Int32Array.from({ length: rows }, (_, i) => i),
    bytes,
    stride: between * bytesPerElement(dtype),
  };
  const taken = (row: number): Float32Array =>
    Float32Array.from(stored.subarray(row * between + FROM, row * between + FROM + WIDTH));
  return { batch, taken };
};

const [ordered, others, doubles] = [batchOf('F32', 12), batchOf('F32', 12), batchOf('F64', 12)];
const [apart, doublesApart] = [batchOf('F32', 12, 31), batchOf('F64', 12, 5)];
type Batch = typeof ordered;

/** What is placed, as [batch, its row, its place]. */
const placements: readonly (readonly [string, readonly (readonly [Batch, readonly number[], readonly number[]])[]])[] =
  [
    ['neighbours, in order', [[ordered, [2, 3, 4, 5], [0, 1, 2, 3]]]],
    ['neighbours with a gap between them', [[apart, [2, 3, 4, 11], [0, 1, 2, 3]]]],
    ['all rows with a gap between them', [[apart, [...Array(12).keys()], [...Array(12).keys()]]]],
    ['doubles with a gap between them', [[doublesApart, [9, 10, 11], [0, 1, 2]]]],
    ['one left out', [[ordered, [0, 2, 3], [0, 1, 2]]]],
    ['in another order', [[ordered, [4, 0, 1], [2, 0, 1]]]],
    ['backwards', [[ordered, [5, 6, 7], [2, 1, 0]]]],
    [
      'two batches that take turns',
      [
        [ordered, [0, 1], [0, 2]],
        [others, [8, 9], [1, 3]],
      ],
    ],
    [
      'two batches, one behind the other',
      [
        [ordered, [3, 4], [2, 3]],
        [others, [10, 11], [0, 1]],
      ],
    ],
    [
      'two dtypes, and a batch of none',
      [
        [ordered, [1, 2], [0, 1]],
        [others, [], []],
        [doubles, [0, 1], [2, 3]],
      ],
    ],
  ];

const rowOf = (values: Float32Array, row: number, stride = WIDTH): Float32Array =>
  values.subarray(row * stride, row * stride + WIDTH);

const opened = async (open: () => Promise<Device>, rows: number) => {
  const device = await open();
  const matrix = device.allocate(rows, WIDTH);
  return { device, matrix };
};

describe.each(everyDevice)('on $name', ({ openDevice }) => {
  it.each(placements)('widens %s, without a shift and with one', async (_, placed) => {
    const count = placed.reduce((sum, [, rows]) => sum + rows.length, 0);
    const { device, matrix } = await opened(openDevice, BEFORE + count + 2);
    const first = floats(BEFORE * WIDTH);
    for (const shift of [null, 1]) {
      device.write(matrix, 0, first);
      const batches = placed.map(
        ([{ batch }, rows, at]): PlacedRows => ({ batch, rows, at: at.map((place) => BEFORE + place) }),
      );
      device.widen(batches, FROM, matrix, shift);
      const found = device.read(matrix, 0, BEFORE + count).slice();
      expect(found.subarray(0, first.length)).toEqual(first);
      for (const [{ taken }, rows, at] of placed) {
        rows.forEach((row, i) => {
          const want = shift === null ? taken(row) : taken(row).map((x, j) => x + rowOf(first, shift)[j]!);
          expect(rowOf(found, BEFORE + at[i]!)).toEqual(want);
        });
      }
    }
    device.free(matrix);
  });

  it.each([
    ['one row', 4, 1],
    ['a few, of two that came together', 1, 5],
    ['many', 2, 14],
    ['all', 0, 17],
  ])('reads %s, and into rows of another length', async (_, at, rows) => {
    const { device, matrix } = await opened(openDevice, 17);
    const [first, others] = [floats(3 * WIDTH), floats(14 * WIDTH)];
    device.write(matrix, 0, first);
    device.write(matrix, 3, others);
    const all = Float32Array.from([...first, ...others]);
    expect(device.read(matrix, at, rows).slice()).toEqual(all.slice(at * WIDTH, (at + rows) * WIDTH));
    const stride = WIDTH + 5;
    const out = new Float32Array(rows * stride).fill(-1);
    device.readInto(matrix, at, rows, out, stride);
    for (let i = 0; i < rows; i++) {
      expect(rowOf(out, i, stride)).toEqual(rowOf(all, at + i));
      expect([...out.subarray(i * stride + WIDTH, (i + 1) * stride)]).toEqual([-1, -1, -1, -1, -1]);
    }
    device.free(matrix);
  });
});
