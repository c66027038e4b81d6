// The files of the modes rows and cols, read back: a mean of more weights than a page takes comes in row groups.
import { mkdirSync } from 'node:fs';
import { expect, it } from 'vitest';
import type { ModesOfSlot } from '../../operators/exact-modes.ts';
import { writeModeBases } from '../../pipeline/basis-writer.ts';
import { openMatrixReader } from '../../sinks/matrix-reader.ts';
import { useTestFolder } from '../sinks/test-folder.ts';

const folder = useTestFolder();

it('writes a large mean and a basis in groups of rows, entry for entry', async () => {
  const [rows, cols] = [2, 300_001];
  const mean = Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i));
  const directions = Float32Array.from({ length: 2 * cols }, (_, i) => Math.cos(i));
  for (const name of ['basis', 'mean']) mkdirSync(folder.join(name));
  const found = {
    slot: { id: 7, name: 'w', rows, cols },
    spectra: [{ mode: 'rows', side: cols, rank: 2, directions }],
    mean,
  } as unknown as ModesOfSlot;
  const written = writeModeBases(folder.path, found, true);
  expect([...written]).toEqual([
    ['basis/slot-00007.rows.parquet', 2 * cols * 4],
    ['mean/slot-00007.parquet', rows * cols * 4],
  ]);
  const expected = new Map([
    ['basis/slot-00007.rows.parquet', [directions.subarray(0, cols), directions.subarray(cols)]],
    ['mean/slot-00007.parquet', [mean]],
  ]);
  for (const [file, columns] of expected) {
    const matrix = await openMatrixReader(folder.join(file));
    expect(matrix.rows).toBe(columns[0]!.length);
    expect(matrix.rowGroups.length).toBe(Math.ceil(matrix.rows / 2 ** 18));
    for (const [group, { from, to }] of matrix.rowGroups.entries()) {
      const values = await matrix.read(group);
      columns.forEach((column, j) => {
        expect(Buffer.compare(Buffer.from(values[j]!.buffer), Buffer.from(column.slice(from, to).buffer))).toBe(0);
      });
    }
    await matrix.close();
  }
});
