// Reads what a slot's page and the report show from the Parquet tables of a finished run. A table is read for one slot at a
// time: where its rows stand is found out once, from the column of ids, so that memory follows the slot, not the run.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type AsyncBuffer, asyncBufferFromFile, parquetReadObjects } from 'hyparquet';
import type { TableName } from '../../sinks/tables.ts';

export type Cell = number | string | null;
export type Row = Readonly<Record<string, Cell>>;

/** Ids are numbers; int64 counts are far below 2^53. */
const plain = (value: unknown): Cell =>
  typeof value === 'bigint' ? Number(value) : typeof value === 'number' || typeof value === 'string' ? value : null;

interface Range {
  readonly start: number;
  readonly end: number;
}

export class RunTables {
  readonly run: string;
  readonly #files = new Map<TableName, Promise<AsyncBuffer | null>>();
  readonly #ranges = new Map<TableName, Promise<ReadonlyMap<number, Range>>>();

  constructor(run: string) {
    this.run = run;
  }

  /** run.json; null where it is missing or not JSON. */
  readSettings(): Record<string, unknown> | null {
    try {
      const settings: unknown = JSON.parse(readFileSync(join(this.run, 'run.json'), 'utf8'));
      return typeof settings === 'object' && settings !== null ? (settings as Record<string, unknown>) : null;
    } catch {
      return null;
    }
  }

  /** All rows of a small table; none where it was not written. */
  async rows(table: TableName, columns?: readonly string[]): Promise<readonly Row[]> {
    const file = await this.#file(table);
    if (file === null) return [];
    return rowsOf(file, columns === undefined ? {} : { columns: [...columns] });
  }

  /** The rows of one slot, in all modes. */
  async rowsOfSlot(table: TableName, slotId: number): Promise<readonly Row[]> {
    const file = await this.#file(table);
    if (file === null) return [];
    const range = (await this.#rangesOf(table)).get(slotId);
    if (range === undefined) return [];
    const rows = await rowsOf(file, { rowStart: range.start, rowEnd: range.end });
    return rows.filter((row) => row.slot_id === slotId);
  }

  #file(table: TableName): Promise<AsyncBuffer | null> {
    let file = this.#files.get(table);
    if (file === undefined) {
      const path = join(this.run, `${table}.parquet`);
      file = existsSync(path) ? asyncBufferFromFile(path) : Promise.resolve(null);
      this.#files.set(table, file);
    }
    return file;
  }

  #rangesOf(table: TableName): Promise<ReadonlyMap<number, Range>> {
    let ranges = this.#ranges.get(table);
    if (ranges === undefined) {
      ranges = this.rows(table, ['slot_id']).then((rows) => {
        const found = new Map<number, Range>();
        rows.forEach(({ slot_id }, i) => {
          const id = Number(slot_id);
          // From the first to the last: a slot's rows in another mode may stand apart.
          found.set(id, { start: found.get(id)?.start ?? i, end: i + 1 });
        });
        return found;
      });
      this.#ranges.set(table, ranges);
    }
    return ranges;
  }
}

const rowsOf = async (
  file: AsyncBuffer,
  options: { readonly columns?: string[]; readonly rowStart?: number; readonly rowEnd?: number },
): Promise<readonly Row[]> =>
  (await parquetReadObjects({ file, ...options })).map((row) =>
    Object.fromEntries(Object.entries(row).map(([name, value]) => [name, plain(value)])),
  );
