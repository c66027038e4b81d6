import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openTable } from '../../sinks/parquet-table.ts';
import { type ColumnType, type TableBatch, type TableName, tables } from '../../sinks/tables.ts';
import { failingDisk, fullDisk } from './failing-disk.ts';
import { queryDuckDb, type Row, readMetadata, readWithHyparquet } from './parquet-readers.ts';
import { useTestFolder } from './test-folder.ts';

const folder = useTestFolder();

// Copied by hand from the description of the run folder: name and Parquet type, ! where null is not allowed.
const golden: Record<TableName, string> = {
  slots:
    'slot_id INT32! | name UTF8 | rows INT64 | cols INT64 | original_shape UTF8 | dtypes UTF8 | group INT32 | models INT64 | status UTF8 | reason UTF8',
  models:
    'model_id INT32! | name UTF8 | source UTF8 | kind UTF8 | role UTF8 | status UTF8 | reason UTF8 | fingerprint UTF8 | content_sha256 UTF8 | bytes INT64 | base_model UTF8 | generation INT32 | seed_group UTF8 | duplicate_of INT32',
  model_slots:
    'slot_id INT32! | model_id INT32! | status UTF8 | reason UTF8 | dtype UTF8 | lora_rank INT64 | lora_scale DOUBLE | raw_norm2 DOUBLE | mean_entry DOUBLE',
  subspaces:
    'slot_id INT32! | mode UTF8 | engine UTF8 | n_models INT64 | n_samples INT64 | features INT64 | rank INT32 | state_rows INT64 | total DOUBLE | total_uncentred DOUBLE | mean_norm2 DOUBLE | lost DOUBLE | flat_evr DOUBLE | captured DOUBLE | mean_only DOUBLE | n_effective DOUBLE | components_90 INT64 | exactness UTF8 | passes INT64 | seed INT64',
  spectrum:
    'slot_id INT32! | mode UTF8 | component INT32 | eigenvalue DOUBLE | singular_value DOUBLE | evr DOUBLE | cumulative_evr DOUBLE | bound_low DOUBLE | bound_high DOUBLE | bound_kind UTF8',
  coefficients:
    'slot_id INT32! | model_id INT32! | norm2 DOUBLE | residual2 DOUBLE | c_0 FLOAT | c_1 FLOAT | c_2 FLOAT',
  energies: 'slot_id INT32! | mode UTF8 | model_id INT32! | norm2 DOUBLE | c_0 FLOAT | c_1 FLOAT | c_2 FLOAT',
  core: 'slot_id INT32! | rank_models INT32 | rank_rows INT32 | rank_cols INT32 | energy DOUBLE | share DOUBLE | bound_low DOUBLE | bound_high DOUBLE | share_low DOUBLE | share_high DOUBLE',
  scores:
    'slot_id INT32! | mode UTF8 | model_id INT32! | phase UTF8 | block INT32 | centred2 DOUBLE | captured2 DOUBLE | mean_only DOUBLE',
  convergence:
    'slot_id INT32! | mode UTF8 | generation INT32 | block INT32 | models_seen INT64 | total DOUBLE | lost DOUBLE | captured DOUBLE | mean_only DOUBLE | evr_1 DOUBLE | evr_4 DOUBLE | evr_16 DOUBLE | evr_k DOUBLE | angle_max_1 DOUBLE | angle_max_4 DOUBLE | angle_max_16 DOUBLE | angle_max_k DOUBLE | angle_mean_1 DOUBLE | angle_mean_4 DOUBLE | angle_mean_16 DOUBLE | angle_mean_k DOUBLE | overlap_1 DOUBLE | overlap_4 DOUBLE | overlap_16 DOUBLE | overlap_k DOUBLE',
  convergence_spectrum: 'slot_id INT32! | mode UTF8 | models_seen INT64 | component INT32 | eigenvalue DOUBLE',
  warnings: 'code UTF8 | slot_id INT32 | mode UTF8 | model_id INT32 | value DOUBLE | text UTF8',
  comparison:
    'slot UTF8 | mode UTF8 | status UTF8 | reason UTF8 | rows INT64 | cols INT64 | features INT64 | slot_id_a INT32 | slot_id_b INT32 | rank_a INT32 | rank_b INT32 | angle_max DOUBLE | angle_mean DOUBLE | overlap DOUBLE | chance DOUBLE | chance_deviation DOUBLE | chance_low DOUBLE | chance_high DOUBLE | grassmann DOUBLE | chordal DOUBLE',
  timings:
    'group INT32 | block INT32 | models_seen INT64 | seconds DOUBLE | bytes INT64 | read_s DOUBLE | wait_s DOUBLE | widen_s DOUBLE | gram_s DOUBLE | mix_s DOUBLE | write_s DOUBLE',
};

const names = Object.keys(golden) as TableName[];
const EXTRA = ['c_0', 'c_1', 'c_2'];

function extrasOf(name: TableName): readonly string[] {
  return name === 'coefficients' || name === 'energies' ? EXTRA : [];
}

/** Numbers that rounding, sign or width would show, and a null every third row. */
function cell(kind: ColumnType | 'float32', row: number, column: number): unknown {
  if (kind !== 'id' && (row + column) % 3 === 0) return null;
  switch (kind) {
    case 'id':
    case 'int32':
      return row === 1 ? 2_147_483_647 : row * 7 - column;
    case 'int64':
      return row === 1 ? -(2n ** 63n) + BigInt(column) : BigInt(row) * 5_000_000_001n;
    case 'float64':
      return row === 1 ? -0.1 / (column + 1) : Math.PI ** (row % 40);
    case 'float32':
      return Math.fround(Math.sin(row * 31 + column));
    case 'utf8':
      return row % 5 === 1 ? `ünïcode "${row}"\n\u0000\u{1f9ea}` : ['models', 'rows', ''][row % 3];
  }
}

function rowsOf(name: TableName, count: number): Row[] {
  const kinds: [string, ColumnType | 'float32'][] = [
    ...Object.entries<ColumnType>(tables[name]),
    ...extrasOf(name).map((extra): [string, 'float32'] => [extra, 'float32']),
  ];
  return Array.from({ length: count }, (_, row) =>
    Object.fromEntries(kinds.map(([column, kind], i) => [column, cell(kind, row, i)])),
  );
}

/** Writes rows in appends of `step`; the columns as arrays. */
function write(name: TableName, rows: readonly Row[], step = rows.length): string {
  const extra = extrasOf(name);
  const table = openTable(folder.path, name, { extraFloat32: extra, metadata: { run_id: 'r1' } });
  for (let start = 0; start < rows.length; start += step) {
    const some = rows.slice(start, start + step);
    const columns = Object.keys(tables[name]).map((column) => [column, some.map((row) => row[column])]);
    table.append(
      Object.fromEntries(columns) as TableBatch<TableName>,
      extra.map((column) => some.map((row) => row[column] as number | null)),
    );
  }
  expect(table.rows).toBe(rows.length);
  table.close();
  return table.path;
}

describe.each(names)('table %s', (name) => {
  it('has the columns and types of the run folder', async () => {
    const path = write(name, rowsOf(name, 4));
    const schema = await queryDuckDb(path, 'select * from parquet_schema(FILE)');
    const columns = schema.slice(1).map(({ name: column, type, converted_type, logical_type, repetition_type }) => {
      if (type === 'BYTE_ARRAY') expect(logical_type).toBe('StringType()');
      else expect(logical_type).toBeNull();
      return `${column} ${converted_type ?? type}${repetition_type === 'REQUIRED' ? '!' : ''}`;
    });
    expect(columns.join(' | ')).toBe(golden[name]);
  });

  it('comes back the same through hyparquet and DuckDB', async () => {
    const rows = rowsOf(name, 50);
    const path = write(name, rows, 7);
    expect(await readWithHyparquet(path)).toEqual(rows);
    expect(await queryDuckDb(path)).toEqual(rows);
    expect(folder.list()).toEqual([`${name}.parquet`]);
  });

  it('says its schema version in the metadata', async () => {
    const { key_value_metadata, created_by } = await readMetadata(write(name, rowsOf(name, 1)));
    expect(key_value_metadata).toEqual([
      { key: 'schema_version', value: '1' },
      { key: 'table', value: name },
      { key: 'run_id', value: 'r1' },
    ]);
    expect(created_by).toBe('weightspan');
  });
});

describe('openTable', () => {
  const spectrum = {
    slot_id: 3,
    mode: 'models',
    component: Int32Array.of(0, 1, 2),
    eigenvalue: Float64Array.of(9, 4, Number.NaN),
    singular_value: Float32Array.of(3, 2, 1.5),
    evr: [0.5, null, 0.25],
    cumulative_evr: [0.5, 0.75, 1],
    bound_low: null,
    bound_high: null,
    bound_kind: 'exact',
  } as const satisfies TableBatch<'spectrum'>;

  it('shares single values between the rows of a batch, and takes NaN for null', async () => {
    const table = openTable(folder.path, 'spectrum');
    table.append(spectrum);
    table.close();
    const rows = await queryDuckDb(table.path);
    expect(rows.map(({ slot_id, component, eigenvalue }) => [slot_id, component, eigenvalue])).toEqual([
      [3, 0, 9],
      [3, 1, 4],
      [3, 2, null],
    ]);
    expect(rows.map(({ singular_value, evr, bound_kind }) => [singular_value, evr, bound_kind])).toEqual([
      [3, 0.5, 'exact'],
      [2, null, 'exact'],
      [1.5, 0.25, 'exact'],
    ]);
  });

  it('takes a batch of single values for one row, and numbers for int64', async () => {
    const table = openTable(folder.path, 'timings');
    const row = { seconds: 1.5, read_s: 1, wait_s: 0.5, widen_s: 0.125, gram_s: 0.25, mix_s: 0, write_s: null };
    table.append({ group: 0, block: 1, models_seen: 32, bytes: 2 ** 40, ...row });
    table.append({ group: 0, block: 2, models_seen: 64n, bytes: BigInt64Array.of(7n), ...row });
    table.close();
    const rows = await readWithHyparquet(table.path);
    expect(rows.map(({ block, bytes, models_seen }) => [block, bytes, models_seen])).toEqual([
      [1, 2n ** 40n, 32n],
      [2, 7n, 64n],
    ]);
  });

  it('leaves extra columns null where a slot has fewer components', async () => {
    const table = openTable(folder.path, 'coefficients', { extraFloat32: EXTRA });
    table.append({ slot_id: 0, model_id: [0, 1], norm2: 1, residual2: 0 }, [Float32Array.of(0.1, 0.2)]);
    table.close();
    expect(await queryDuckDb(table.path, 'select c_0, c_1, c_2 from FILE')).toEqual([
      { c_0: Math.fround(0.1), c_1: null, c_2: null },
      { c_0: Math.fround(0.2), c_1: null, c_2: null },
    ]);
  });

  it('gives the same bytes however the rows were split, over several row groups', async () => {
    const rows = rowsOf('convergence_spectrum', 150_000);
    const whole = fs.readFileSync(write('convergence_spectrum', rows));
    const split = write('convergence_spectrum', rows, 13_577);
    expect(fs.readFileSync(split).equals(whole)).toBe(true);
    expect((await readMetadata(split)).row_groups.map(({ num_rows }) => num_rows)).toEqual([65_536n, 65_536n, 18_928n]);
    const [sums] = await queryDuckDb(
      split,
      'select count(*) n, count(eigenvalue) e, sum(slot_id::bigint)::double s from FILE',
    );
    expect(sums).toEqual({
      n: 150_000n,
      e: BigInt(rows.filter(({ eigenvalue }) => eigenvalue !== null).length),
      s: rows.reduce((sum, { slot_id }) => sum + (slot_id as number), 0),
    });
  });

  it('writes no file for a table without rows', () => {
    const table = openTable(folder.path, 'warnings');
    table.append({ code: [], slot_id: null, mode: null, model_id: null, value: null, text: [] });
    table.close();
    expect(folder.list()).toEqual([]);
  });

  it('has no final name before close, and leaves nothing after abort', () => {
    const table = openTable(folder.path, 'convergence_spectrum');
    const component = Int32Array.from({ length: 100_000 }, (_, i) => i);
    table.append({ slot_id: 0, mode: 'models', models_seen: 1, component, eigenvalue: 1 });
    expect(folder.list()).toEqual(['.tmp-convergence_spectrum.parquet']);
    table.abort();
    table.close();
    expect(folder.list()).toEqual([]);
  });

  it.each([
    ['an int32 beyond its width', { component: 2 ** 31 }],
    ['an int32 that is no integer', { component: 0.5 }],
    ['an id that is null', { slot_id: null }],
    ['an id that is missing', { slot_id: undefined }],
    ['a column that is missing', { evr: undefined }],
    ['a string for a number', { evr: '0.5' }],
    ['a number for a string', { mode: 1 }],
    ['arrays of different lengths', { evr: [0.5, 0.5] }],
  ])('refuses %s, naming the column', (_, wrong) => {
    const table = openTable(folder.path, 'spectrum');
    const batch = { ...spectrum, ...wrong } as unknown as TableBatch<'spectrum'>;
    const [column] = Object.keys(wrong);
    expect(() => table.append(batch)).toThrow(RangeError);
    expect(() => table.append(batch)).toThrow(`column ${column}`);
  });

  it.each([2 ** 53, 1.5, 2n ** 63n])('refuses %s for an int64', (models_seen) => {
    const table = openTable(folder.path, 'convergence_spectrum');
    expect(() => table.append({ slot_id: 0, mode: '', models_seen, component: 0, eigenvalue: 0 })).toThrow(
      'column models_seen is int64',
    );
  });

  it.each([
    ['no-space', fullDisk()],
    ['io', failingDisk('sync', 'EIO')],
  ])('fails with %s and leaves nothing', (reason, disk) => {
    const table = openTable(folder.path, 'spectrum', { disk });
    table.append(spectrum);
    expect(() => table.close()).toThrow(expect.objectContaining({ _tag: 'SinkFailed', reason }));
    expect(folder.list()).toEqual([]);
    table.abort();
    expect(() => table.close()).not.toThrow();
  });
});
