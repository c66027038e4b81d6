// Two independent readers for what the sinks write: hyparquet and DuckDB.
import { parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { asyncBufferFromFile } from 'hyparquet/src/node.js';

export type Row = Record<string, unknown>;

export async function readWithHyparquet(path: string): Promise<Row[]> {
  return parquetReadObjects({ file: await asyncBufferFromFile(path) });
}

export async function readMetadata(path: string) {
  return parquetMetadataAsync(await asyncBufferFromFile(path));
}

/** Rows of a query over `path`, which stands as FILE in `sql`. */
export async function queryDuckDb(path: string, sql = 'select * from FILE'): Promise<Row[]> {
  // A bundle has none (bench/bundle.mjs).
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const instance = await DuckDBInstance.create(':memory:');
  const connection = await instance.connect();
  try {
    const result = await connection.runAndReadAll(sql.replace('FILE', `'${path}'`));
    return result.getRowObjectsJS();
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}
