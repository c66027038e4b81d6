// The kernel addCross on every device, against plain float64 loops. Tolerance 1e-6 of the product of the norms: float32
// products of unit-sized numbers reach about 1e-7 of it.
import { describe, expect, it } from 'vitest';
import type { Samples } from '../../operators/devices/device.ts';
import { devicesAndCard } from './devices.ts';
import { normals } from './planted.ts';

const samplesOf = (stand: Samples['stand'], side: number, count: number, padding: number, seed: number): Samples => {
  const normal = normals(seed);
  const [lines, width] = stand === 'rows' ? [count, side] : [side, count];
  const stride = width + padding;
  // What stands in the padding must not be read.
  const values = new Float32Array(lines * stride).fill(Number.NaN);
  for (let i = 0; i < lines; i++) for (let j = 0; j < width; j++) values[i * stride + j] = normal();
  return { values, stride, stand, side, count };
};

const entry = ({ values, stride, stand }: Samples, index: number, sample: number): number =>
  values[stand === 'rows' ? sample * stride + index : index * stride + sample]!;

describe.each(devicesAndCard)('addCross on $name', ({ openDevice }) => {
  it.each([
    ['rows', 7, 5, 3],
    ['columns', 5, 9, 4],
    ['rows', 20, 31, 9001],
    ['columns', 33, 12, 9001],
  ] as const)('%s: %d x %d entries over %d samples', async (stand, sideA, sideB, count) => {
    const device = await openDevice();
    const a = samplesOf(stand, sideA, count, 3, 1);
    const b = samplesOf(stand, sideB, count, 5, 2);
    const [rows, columns] = [
      { from: 1, to: sideA - 1 },
      { from: 2, to: sideB },
    ];
    const out = new Float64Array((sideA - 2) * (sideB - 2)).fill(0.5);
    device.addCross(a, rows, b, columns, out);
    for (let i = rows.from; i < rows.to; i++) {
      for (let j = columns.from; j < columns.to; j++) {
        let truth = 0.5;
        for (let s = 0; s < count; s++) truth += entry(a, i, s) * entry(b, j, s);
        expect(Math.abs(out[(i - 1) * (sideB - 2) + j - 2]! - truth)).toBeLessThan(1e-6 * count);
      }
    }
  });
});
