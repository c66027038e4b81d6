// One table of the run folder as a Parquet file. Rows gather in memory until a row group is full (about half a
// million cells, whatever the width of the table), so hundreds of thousands of rows take tens of megabytes.
// Uncompressed: names and ids go through dictionaries, and float64 measurements hardly compress. The same rows
// give the same bytes, however they were split into appends. Encoding by hyparquet-writer.
import { join } from 'node:path';
import { ParquetWriter } from 'hyparquet-writer';
import { BufferedWriter } from './buffered-writer.ts';
import { type Disk, nodeDisk } from './disk.ts';
import { DurableFile } from './durable-file.ts';
import { type ColumnType, SCHEMA_VERSION, type TableBatch, type TableName, tables } from './tables.ts';

const CELLS_A_ROW_GROUP = 1 << 19;
const MOST_ROWS_A_ROW_GROUP = 1 << 16;

export interface TableOptions {
  /** Names of float32 columns after the table's own, as c_0 … c_{k-1} of coefficients. */
  readonly extraFloat32?: readonly string[];
  /** Key-value metadata of the file, beside `schema_version`. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** Name of the file. Default: `<name>.parquet`. */
  readonly file?: string;
  readonly disk?: Disk;
}

export interface Table<N extends TableName> {
  readonly path: string;
  /** Rows appended so far. */
  readonly rows: number;
  /**
   * Appends a row, or as many as the arrays of `batch` are long. `extra[j]` holds the cells of the j-th extra
   * column; the columns it does not reach are null. NaN becomes null: it is nothing anybody knows.
   * Throws `SinkFailed`; RangeError where a value does not fit its column.
   */
  append(batch: TableBatch<N>, extra?: readonly (Float32Array | readonly (number | null)[])[]): void;
  /** Makes the file durable under its name. A table without rows leaves no file. Throws `SinkFailed`. */
  close(): void;
  /** Leaves nothing. */
  abort(): void;
}

type Cell = number | bigint | string | null;
type Kind = ColumnType | 'float32';

const PHYSICAL = {
  id: 'INT32',
  int32: 'INT32',
  int64: 'INT64',
  float32: 'FLOAT',
  float64: 'DOUBLE',
  utf8: 'BYTE_ARRAY',
} as const satisfies Record<Kind, string>;

interface Column {
  readonly name: string;
  readonly kind: Kind;
  cells: Cell[];
}

/** Opens `<folder>/<name>.parquet`. Nothing is on the disk before the first row group is full or `close`. */
export function openTable<N extends TableName>(folder: string, name: N, options: TableOptions = {}): Table<N> {
  return new ParquetTable<N>(folder, name, options);
}

class ParquetTable<N extends TableName> implements Table<N> {
  readonly path: string;
  rows = 0;
  readonly #columns: Column[];
  readonly #own: number;
  readonly #rowsAGroup: number;
  readonly #metadata: { key: string; value: string }[];
  readonly #disk: Disk;
  #buffered = 0;
  #file: DurableFile | null = null;
  #parquet: ParquetWriter | null = null;

  constructor(folder: string, name: N, options: TableOptions) {
    const { extraFloat32 = [], metadata = {}, file = `${name}.parquet`, disk = nodeDisk } = options;
    this.path = join(folder, file);
    const own = Object.entries<ColumnType>(tables[name]);
    this.#own = own.length;
    this.#columns = [
      ...own.map(([column, kind]): Column => ({ name: column, kind, cells: [] })),
      ...extraFloat32.map((column): Column => ({ name: column, kind: 'float32', cells: [] })),
    ];
    const rows = Math.floor(CELLS_A_ROW_GROUP / this.#columns.length);
    this.#rowsAGroup = Math.max(1, Math.min(MOST_ROWS_A_ROW_GROUP, rows));
    this.#metadata = Object.entries({ schema_version: String(SCHEMA_VERSION), table: name, ...metadata }).map(
      ([key, value]) => ({ key, value }),
    );
    this.#disk = disk;
  }

  append(batch: TableBatch<N>, extra: readonly (Float32Array | readonly (number | null)[])[] = []): void {
    const extras = this.#columns.length - this.#own;
    if (extra.length > extras) {
      throw new RangeError(`${this.path}: ${extra.length} extra columns given, ${extras} declared`);
    }
    const given = this.#columns.map((column, index): unknown =>
      index < this.#own ? (batch as Record<string, unknown>)[column.name] : (extra[index - this.#own] ?? null),
    );
    const count = this.#countRows(given);
    for (let start = 0; start < count; ) {
      const end = Math.min(count, start + this.#rowsAGroup - this.#buffered);
      for (const [index, column] of this.#columns.entries()) appendCells(column, given[index], start, end, this.path);
      this.#buffered += end - start;
      this.rows += end - start;
      start = end;
      if (this.#buffered === this.#rowsAGroup) this.#writeRowGroup();
    }
  }

  close(): void {
    if (this.#buffered > 0) this.#writeRowGroup();
    void this.#parquet?.finish();
    this.#parquet = null;
  }

  abort(): void {
    for (const column of this.#columns) column.cells = [];
    this.#buffered = 0;
    this.#parquet = null;
    this.#file?.abort();
  }

  #countRows(given: readonly unknown[]): number {
    let count: number | null = null;
    for (const [index, cells] of given.entries()) {
      if (!isArrayOfCells(cells)) continue;
      if (count !== null && cells.length !== count) {
        const { name } = this.#columns[index]!;
        throw new RangeError(`${this.path}: column ${name} has ${cells.length} cells where others have ${count}`);
      }
      count = cells.length;
    }
    return count ?? 1;
  }

  #writeRowGroup(): void {
    if (this.#parquet === null) {
      this.#file = new DurableFile(this.path, this.#disk);
      this.#parquet = new ParquetWriter({
        writer: new BufferedWriter(this.#file),
        schema: [{ name: 'root', num_children: this.#columns.length }, ...this.#columns.map(schemaElement)],
        codec: 'UNCOMPRESSED',
        kvMetadata: this.#metadata,
        createdBy: 'weightspan',
      });
    }
    // Nothing to wait for: the writer below is synchronous.
    void this.#parquet.write({
      columnData: this.#columns.map(({ name, kind, cells }) => ({
        name,
        data: cells,
        offsetIndex: false,
        ...(kind === 'float32' || kind === 'float64' ? { encoding: 'PLAIN' as const } : {}),
      })),
      rowGroupSize: this.#buffered,
    });
    for (const column of this.#columns) column.cells = [];
    this.#buffered = 0;
  }
}

function schemaElement({ name, kind }: Column) {
  return {
    name,
    type: PHYSICAL[kind],
    repetition_type: kind === 'id' ? ('REQUIRED' as const) : ('OPTIONAL' as const),
    ...(kind === 'utf8' ? { converted_type: 'UTF8' as const, logical_type: { type: 'STRING' as const } } : {}),
  };
}

function isArrayOfCells(cells: unknown): cells is ArrayLike<unknown> {
  return Array.isArray(cells) || ArrayBuffer.isView(cells);
}

function appendCells(column: Column, given: unknown, start: number, end: number, path: string): void {
  const { cells, kind } = column;
  const refuse = (value: unknown): never => {
    throw new RangeError(`${path}: column ${column.name} is ${kind}, got ${typeof value} ${String(value)}`);
  };
  if (isArrayOfCells(given)) {
    for (let row = start; row < end; row++) cells.push(toCell(kind, given[row], refuse));
  } else {
    const cell = toCell(kind, given, refuse);
    for (let row = start; row < end; row++) cells.push(cell);
  }
}

function toCell(kind: Kind, value: unknown, refuse: (value: unknown) => never): Cell {
  if (value === null) return kind === 'id' ? refuse(value) : null;
  switch (kind) {
    case 'float32':
    case 'float64':
      if (typeof value !== 'number') return refuse(value);
      return Number.isNaN(value) ? null : value;
    case 'id':
    case 'int32':
      return typeof value === 'number' && (value | 0) === value ? value : refuse(value);
    case 'int64':
      if (typeof value === 'bigint') return BigInt.asIntN(64, value) === value ? value : refuse(value);
      return Number.isSafeInteger(value) ? BigInt(value as number) : refuse(value);
    case 'utf8':
      return typeof value === 'string' ? value : refuse(value);
  }
}
