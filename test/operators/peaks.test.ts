// A device that finds the largest entries of rows by itself finds those that are found in rows that it gives out.
import { describe, expect, it } from 'vitest';
import { largerPeak } from '../../operators/linalg/larger-peak.ts';
import { devicesAndCard } from './devices.ts';
import { normals } from './planted.ts';

describe.each(devicesAndCard.filter(({ name }) => name !== 'tfjs'))('on $name', ({ openDevice }) => {
  it.each([1, 5, 31, 64, 100, 2048])('of %i entries, the first of equals', async (width) => {
    const device = await openDevice();
    const normal = normals(width);
    const place = (): number => Math.floor(Math.abs(normal() * 1e6)) % width;
    const count = 40;
    const rows = Array.from({ length: count }, (_, i) => {
      const row = Float32Array.from({ length: width }, () => normal());
      // Two equals, wherever they stand, in most of the rows; nothing at all in the last one.
      if (i % 4 > 0) [row[place()], row[place()]] = [-9, 9];
      return i === count - 1 ? row.fill(0) : row;
    });
    const matrix = device.allocate(2 + count, width);
    rows.forEach((row, i) => void device.write(matrix, 2 + i, row));
    expect([...device.peaks!(matrix, 2, count)]).toEqual(rows.map((row) => largerPeak(0, row)));
    device.free(matrix);
    await device.close();
  });
});
