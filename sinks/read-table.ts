// Reads a table of a run folder back, whole: rows of plain values, int64 as numbers. Decoding by hyparquet.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parquetReadObjects } from 'hyparquet';
import { DamagedFile } from './errors.ts';
import type { TableName, tables } from './tables.ts';

/** A row as it is read: what a column does not have is null, and so is a column that an older version did not write. */
export type ReadRow<N extends TableName> = {
  readonly [C in keyof (typeof tables)[N]]: (typeof tables)[N][C] extends 'utf8' ? string | null : number | null;
};

/**
 * @param columns only these. Default: all
 * Rejects with `DamagedFile` where there is no such table, or it cannot be read.
 */
export const readTable = async <N extends TableName>(
  folder: string,
  name: N,
  columns?: (keyof ReadRow<N> & string)[],
): Promise<readonly ReadRow<N>[]> => {
  const path = join(folder, `${name}.parquet`);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new DamagedFile(path, code === 'ENOENT' ? 'it is not there' : message);
  }
  try {
    const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
    const rows = await parquetReadObjects({ file, ...(columns === undefined ? {} : { columns }) });
    const plain = (value: unknown): unknown => (typeof value === 'bigint' ? Number(value) : (value ?? null));
    return rows.map((row) =>
      Object.fromEntries(Object.entries(row).map(([column, value]) => [column, plain(value)])),
    ) as ReadRow<N>[];
  } catch (cause) {
    throw new DamagedFile(path, `it cannot be read as Parquet: ${(cause as Error).message}`);
  }
};
