import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openMatrixFile } from '../../sinks/matrix-file.ts';
import { hasDirectReads, shareOf } from '../sources/cold-files.ts';
import { failingDisk, fullDisk, shortWritingDisk } from './failing-disk.ts';
import { queryDuckDb, readMetadata, readWithHyparquet } from './parquet-readers.ts';
import { useTestFolder } from './test-folder.ts';

const folder = useTestFolder();
const columns = ['mean', 'pc_0', 'pc_1'];

/** Tile t of `rows` rows: a column's values lie together, over shared memory. */
function tile(first: number, rows: number, width = columns.length): Float32Array[] {
  const memory = new Float32Array(new SharedArrayBuffer(4 * rows * width));
  for (let j = 0; j < width; j++) {
    for (let i = 0; i < rows; i++) memory[j * rows + i] = Math.sin((first + i) * (j + 1));
  }
  return Array.from({ length: width }, (_, j) => memory.subarray(j * rows, (j + 1) * rows));
}

function expectedRow(row: number): Record<string, number> {
  return Object.fromEntries(columns.map((name, j) => [name, Math.fround(Math.sin(row * (j + 1)))]));
}

function write(path: string, disk = shortWritingDisk(1 << 20)): void {
  const file = openMatrixFile(path, { columns, metadata: { slot: 'layer.0.weight' }, disk });
  file.appendRowGroup([tile(0, 5000), tile(5000, 5000)]);
  file.appendRowGroup([]);
  file.appendRowGroup([tile(10_000, 5000), tile(15_000, 123)]);
  expect(file.rows).toBe(15_123);
  file.close();
}

describe('openMatrixFile', () => {
  it('comes back the same through hyparquet and DuckDB, with a short last tile', async () => {
    const path = folder.join('m.parquet');
    write(path);
    const expected = Array.from({ length: 15_123 }, (_, row) => expectedRow(row));
    expect(await readWithHyparquet(path)).toEqual(expected);
    expect(await queryDuckDb(path)).toEqual(expected);
  });

  it('keeps NaN, infinities and signed zeros as they are', async () => {
    const path = folder.join('m.parquet');
    const values = Float32Array.of(Number.NaN, Infinity, -Infinity, -0, 1.4e-45, 3.4028234663852886e38);
    const file = openMatrixFile(path, { columns: ['x'] });
    file.appendRowGroup([[values]]);
    file.close();
    expect((await readWithHyparquet(path)).map(({ x }) => x)).toEqual([...values]);
    expect((await queryDuckDb(path)).map(({ x }) => x)).toEqual([...values]);
  });

  it('is required float32, plain, uncompressed, one row group a call', async () => {
    const path = folder.join('m.parquet');
    write(path);
    const schema = await queryDuckDb(path, 'select * from parquet_schema(FILE)');
    expect(schema.slice(1).map(({ name, type, repetition_type }) => [name, type, repetition_type])).toEqual(
      columns.map((name) => [name, 'FLOAT', 'REQUIRED']),
    );
    const chunks = await queryDuckDb(path, 'select * from parquet_metadata(FILE)');
    expect(new Set(chunks.map(({ compression }) => compression))).toEqual(new Set(['UNCOMPRESSED']));
    expect(new Set(chunks.map(({ encodings }) => encodings))).toEqual(new Set(['PLAIN, RLE']));
    const metadata = await readMetadata(path);
    expect(metadata.row_groups.map(({ num_rows }) => num_rows)).toEqual([10_000n, 5123n]);
    expect(metadata.key_value_metadata).toEqual([
      { key: 'schema_version', value: '1' },
      { key: 'slot', value: 'layer.0.weight' },
    ]);
  });

  it('gives the same bytes for the same matrix, and after short writes', () => {
    write(folder.join('a.parquet'));
    write(folder.join('b.parquet'), shortWritingDisk(777));
    expect(fs.readFileSync(folder.join('a.parquet')).equals(fs.readFileSync(folder.join('b.parquet')))).toBe(true);
  });

  it('has written when it returns: the tile may be reused', async () => {
    const path = folder.join('m.parquet');
    const values = new Float32Array(20_000).fill(1);
    const file = openMatrixFile(path, { columns: ['x'] });
    file.appendRowGroup([[values]]);
    values.fill(2);
    file.appendRowGroup([[values]]);
    file.close();
    expect(await queryDuckDb(path, 'select x, count(*)::int n from FILE group by x order by x')).toEqual([
      { x: 1, n: 20_000 },
      { x: 2, n: 20_000 },
    ]);
  });

  it('has no final name before close, and leaves nothing after abort', () => {
    const file = openMatrixFile(folder.join('m.parquet'), { columns });
    file.appendRowGroup([tile(0, 9)]);
    expect(folder.list()).toEqual(['.tmp-m.parquet']);
    file.abort();
    expect(folder.list()).toEqual([]);
  });

  it('refuses ragged tiles before it writes a byte', () => {
    const file = openMatrixFile(folder.join('m.parquet'), { columns });
    expect(() => file.appendRowGroup([tile(0, 9), tile(9, 9, 2)])).toThrow('tile 1 has 2 columns, the file has 3');
    const [a, b] = tile(0, 9);
    expect(() => file.appendRowGroup([[a!, b!, tile(0, 8)[0]!]])).toThrow('8 rows in column 2, 9 in column 0');
    expect(file.rows).toBe(0);
    file.abort();
  });

  it.each([
    ['no-space', fullDisk()],
    ['io', failingDisk('write', 'EIO')],
  ])('fails with %s and leaves nothing', (reason, disk) => {
    const file = openMatrixFile(folder.join('m.parquet'), { columns, disk });
    expect(() => file.appendRowGroup([tile(0, 9)])).toThrow(expect.objectContaining({ _tag: 'SinkFailed', reason }));
    file.abort();
    expect(folder.list()).toEqual([]);
  });

  it('closed later, is the same file, and has its name when the promise is kept', async () => {
    const [now, later] = ['now', 'later'].map((name) => openMatrixFile(folder.join(name), { columns }));
    for (const file of [now!, later!]) file.appendRowGroup([tile(0, 9)]);
    now!.close();
    const closing = later!.closeLater();
    expect(folder.list()).toEqual(['.tmp-later', 'now']);
    await closing;
    expect(folder.list()).toEqual(['later', 'now']);
    const { size } = fs.statSync(now!.path);
    if (hasDirectReads) expect([now!, later!].map(({ path }) => shareOf(path, size))).toEqual([1, 0]);
    expect(fs.readFileSync(later!.path)).toEqual(fs.readFileSync(now!.path));
  });

  it.each(['syncLater', 'sync', 'rename'] as const)(
    'closed later on a disk whose %s fails, says so and leaves nothing',
    async (operation) => {
      const file = openMatrixFile(folder.join('m.parquet'), { columns, disk: failingDisk(operation, 'EIO') });
      file.appendRowGroup([tile(0, 9)]);
      await expect(file.closeLater()).rejects.toMatchObject({ _tag: 'SinkFailed', reason: 'io' });
      expect(folder.list()).toEqual([]);
    },
  );
});
