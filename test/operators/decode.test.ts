// ΔW out of factors on every device, panel by panel, against left · right in float64. Tolerance: float32 sums of r products,
// (r + 2) 2⁻²⁴ of the sum of their magnitudes.
import { describe, expect, it } from 'vitest';
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import type { FactoredRows } from '../../sources/weight-rows.ts';
import { devices } from './devices.ts';
import { normals } from './planted.ts';

const normal = normals(3);
const random = (length: number): Float32Array => Float32Array.from({ length }, () => normal());

const factors = (rows: number, cols: number, rank: number): AdapterFactors => ({
  rows,
  cols,
  rank,
  left: random(rows * rank),
  right: random(rank * cols),
});

/** [the entry, the most it may be off] */
const entry = ({ cols, rank, left, right }: AdapterFactors, index: number): readonly [number, number] => {
  const [row, col] = [Math.floor(index / cols), index % cols];
  let sum = 0;
  let magnitude = 0;
  for (let l = 0; l < rank; l++) {
    const product = left[row * rank + l]! * right[l * cols + col]!;
    sum += product;
    magnitude += Math.abs(product);
  }
  return [sum, (rank + 2) * 2 ** -24 * magnitude];
};

describe.each(devices)('on $name', ({ openDevice }) => {
  it.each([
    // Rows longer than a panel, as long as one, shorter, and of one weight.
    [5, 5000],
    [40, 1024],
    [70, 96],
    [3000, 1],
    [1, 3000],
  ])('%i x %i', async (rows, cols) => {
    const device = await openDevice();
    const models = [4, 0, 1, 7].map((rank) => factors(rows, cols, rank));
    const start = Math.min(17, rows * cols - 1);
    const width = rows * cols - start;
    const batch: FactoredRows = { kind: 'factored', width, models: Int32Array.of(0, 1, 2, 3), start, factors: models };
    const panel = Math.min(device.info.panel, width - 1);
    const matrix = device.allocate(3 + models.length, panel);
    const shift = random(3 * panel);
    device.write(matrix, 0, shift);
    for (const from of [0, 1, Math.floor((width - panel) / 2), width - panel]) {
      // Not in order, and one of them left out.
      device.widen([{ batch, rows: [0, 1, 3], at: [5, 3, 4] }], from, matrix, 1);
      const found = device.read(matrix, 3, 3).slice();
      for (const [i, model] of [1, 3, 0].entries()) {
        for (let x = 0; x < panel; x++) {
          const [value, bound] = entry(models[model]!, start + from + x);
          const own = shift[panel + x]!;
          expect(Math.abs(found[i * panel + x]! - own - value)).toBeLessThanOrEqual(
            bound + 2 ** -23 * Math.abs(own + value) + 2 ** -23,
          );
        }
      }
      const row = new Float32Array(panel).fill(Number.NaN);
      device.widenRow(batch, 2, from, row);
      for (let x = 0; x < panel; x++) {
        const [value, bound] = entry(models[2]!, start + from + x);
        expect(Math.abs(row[x]! - value)).toBeLessThanOrEqual(bound);
      }
    }
    device.free(matrix);
  });
});
