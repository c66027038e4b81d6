// Reads basis/ and mean/ files (matrix-file.ts) back, a row group at a time: memory is that of one row group, about 16 MB
// in files of the mode models. Every number is as it was written. Decoding by hyparquet.
import { open } from 'node:fs/promises';
import { type FileMetaData, parquetMetadataAsync, parquetRead } from 'hyparquet';
import { DamagedFile } from './errors.ts';

export interface MatrixReader {
  readonly path: string;
  readonly columns: readonly string[];
  readonly rows: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** Rows [from, to) of each row group, in order. */
  readonly rowGroups: readonly { readonly from: number; readonly to: number }[];
  /** A row group, a column each. Rejects with `DamagedFile` where the file does not hold what its footer says. */
  read(group: number): Promise<readonly Float32Array[]>;
  close(): Promise<void>;
}

/** Opens a matrix file. Rejects with `DamagedFile` for one that is not there, or is none. */
export const openMatrixReader = async (path: string): Promise<MatrixReader> => {
  const handle = await open(path).catch((cause: NodeJS.ErrnoException) => {
    throw new DamagedFile(path, cause.code === 'ENOENT' ? 'it is not there' : cause.message);
  });
  try {
    const { size } = await handle.stat();
    const file = {
      byteLength: size,
      slice: async (start: number, end = size): Promise<ArrayBuffer> => {
        const bytes = new Uint8Array(end - start);
        for (let done = 0; done < bytes.length; ) {
          const { bytesRead } = await handle.read(bytes, done, bytes.length - done, start + done);
          if (bytesRead === 0) throw new DamagedFile(path, `it ends at byte ${start + done}`);
          done += bytesRead;
        }
        return bytes.buffer;
      },
    };
    const attempt = async <R>(doing: string, step: () => Promise<R>): Promise<R> => {
      try {
        return await step();
      } catch (cause) {
        if (cause instanceof DamagedFile) throw cause;
        throw new DamagedFile(path, `${doing}: ${(cause as Error).message}`);
      }
    };
    const footer: FileMetaData = await attempt('its footer cannot be read', () => parquetMetadataAsync(file));
    const columns = footer.schema.slice(1).map(({ name }) => name);
    if (footer.schema.slice(1).some(({ type }) => type !== 'FLOAT'))
      throw new DamagedFile(path, 'expected columns of float32 alone');
    let at = 0;
    const rowGroups = footer.row_groups.map(({ num_rows }) => {
      const from = at;
      at += Number(num_rows);
      return { from, to: at };
    });
    return {
      path,
      columns,
      rows: at,
      metadata: Object.fromEntries((footer.key_value_metadata ?? []).map(({ key, value }) => [key, value ?? ''])),
      rowGroups,
      read: async (group) => {
        const { from, to } = rowGroups[group]!;
        const values = columns.map(() => new Float32Array(to - from));
        const filled = columns.map(() => 0);
        const index = new Map(columns.map((name, j) => [name, j]));
        await attempt(`rows ${from} to ${to} cannot be read`, () =>
          parquetRead({
            file,
            metadata: footer,
            rowStart: from,
            rowEnd: to,
            onChunk: ({ columnName, columnData, rowStart }) => {
              const j = index.get(columnName)!;
              values[j]!.set(columnData as ArrayLike<number>, rowStart - from);
              filled[j] = filled[j]! + columnData.length;
            },
          }),
        );
        const short = filled.findIndex((count) => count !== to - from);
        if (short >= 0)
          throw new DamagedFile(path, `column ${columns[short]} has ${filled[short]} of rows ${from} to ${to}`);
        return values;
      },
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
};
