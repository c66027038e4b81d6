// basis/ and mean/ files: a dense float32 matrix, one Parquet column a component, one row a weight. The engine's
// tiles already hold each column's values contiguously, so a tile's column is one PLAIN page, written as it lies
// in memory: no copy, no statistics, no compression (weights are noise to a compressor). 0.9 and more of the raw
// synced disk rate, where encoding value by value reaches a tenth. Footer and page headers by hyparquet-writer.
// Trade-off: no statistics, so a reader cannot skip row groups by value; nobody asks these files that.
import { writePageHeader } from 'hyparquet-writer/src/datapage.js';
import { writeMetadata } from 'hyparquet-writer/src/metadata.js';
import { BufferedWriter } from './buffered-writer.ts';
import { type Disk, nodeDisk } from './disk.ts';
import { DurableFile } from './durable-file.ts';
import { SCHEMA_VERSION } from './tables.ts';

type FileMetaData = Parameters<typeof writeMetadata>[1];
type RowGroup = FileMetaData['row_groups'][number];

/** `PAR1`, little-endian. */
const MAGIC = 0x31524150;

export interface MatrixFileOptions {
  readonly columns: readonly string[];
  /** Key-value metadata of the file, beside `schema_version`. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly disk?: Disk;
}

export interface MatrixFile {
  readonly path: string;
  /** Rows written so far. */
  readonly rows: number;
  /**
   * Appends one row group: `parts[t][j]` holds the values of column j in tile t, float32, possibly over a
   * SharedArrayBuffer; tiles may differ in length. Written when it returns: the memory may be reused.
   * Around 16 tiles of 16,384 a call keep reads and footer small. Throws `SinkFailed`.
   */
  appendRowGroup(parts: readonly (readonly Float32Array[])[]): void;
  /** Makes the file durable under its name. Throws `SinkFailed`. */
  close(): void;
  /** As `close`, but the disk is waited for on another thread. Rejects with `SinkFailed`. */
  closeLater(): Promise<void>;
  /** Leaves nothing. */
  abort(): void;
}

/** Opens a matrix file; `path` appears when it is closed. Throws `SinkFailed`. */
export function openMatrixFile(path: string, options: MatrixFileOptions): MatrixFile {
  return new ParquetMatrixFile(path, options);
}

class ParquetMatrixFile implements MatrixFile {
  readonly path: string;
  rows = 0;
  readonly #columns: readonly string[];
  readonly #metadata: Readonly<Record<string, string>>;
  readonly #file: DurableFile;
  readonly #writer: BufferedWriter;
  readonly #rowGroups: RowGroup[] = [];

  constructor(path: string, { columns, metadata = {}, disk = nodeDisk }: MatrixFileOptions) {
    if (columns.length === 0) throw new RangeError(`${path}: a matrix file needs a column`);
    this.path = path;
    this.#columns = columns;
    this.#metadata = { schema_version: String(SCHEMA_VERSION), ...metadata };
    this.#file = new DurableFile(path, disk);
    this.#writer = new BufferedWriter(this.#file);
    this.#writer.appendUint32(MAGIC);
  }

  appendRowGroup(parts: readonly (readonly Float32Array[])[]): void {
    const rows = this.#countRows(parts);
    if (rows === 0) return;
    const start = this.#writer.offset;
    const columns = this.#columns.map((name, column) => this.#writeColumn(name, column, parts, rows));
    this.#writer.flush();
    const bytes = BigInt(this.#writer.offset - start);
    this.#rowGroups.push({
      columns,
      total_byte_size: bytes,
      total_compressed_size: bytes,
      num_rows: BigInt(rows),
    });
    this.rows += rows;
  }

  close(): void {
    this.#writeFooter();
    this.#writer.finish();
  }

  async closeLater(): Promise<void> {
    this.#writeFooter();
    await this.#writer.finishLater();
  }

  #writeFooter(): void {
    const metadata: FileMetaData = {
      version: 1,
      created_by: 'weightspan',
      schema: [
        { name: 'root', num_children: this.#columns.length },
        ...this.#columns.map((name) => ({ name, type: 'FLOAT' as const, repetition_type: 'REQUIRED' as const })),
      ],
      num_rows: BigInt(this.rows),
      row_groups: this.#rowGroups,
      key_value_metadata: Object.entries(this.#metadata).map(([key, value]) => ({ key, value })),
      metadata_length: 0, // computed, not read, by writeMetadata
    };
    writeMetadata(this.#writer, metadata);
    this.#writer.appendUint32(MAGIC);
  }

  abort(): void {
    this.#file.abort();
  }

  /** Checked before the first byte is written: a ragged tile would make a file no reader can trust. */
  #countRows(parts: readonly (readonly Float32Array[])[]): number {
    let rows = 0;
    for (const [tile, values] of parts.entries()) {
      const length = values[0]?.length ?? 0;
      if (values.length !== this.#columns.length) {
        throw new RangeError(
          `${this.path}: tile ${tile} has ${values.length} columns, the file has ${this.#columns.length}`,
        );
      }
      const odd = values.findIndex((column) => column.length !== length);
      if (odd >= 0) {
        throw new RangeError(
          `${this.path}: tile ${tile} has ${values[odd]!.length} rows in column ${odd}, ${length} in column 0`,
        );
      }
      rows += length;
    }
    return rows;
  }

  #writeColumn(name: string, column: number, parts: readonly (readonly Float32Array[])[], rows: number) {
    const writer = this.#writer;
    const start = writer.offset;
    for (const tile of parts) {
      const values = tile[column]!;
      if (values.length === 0) continue;
      const page = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      writePageHeader(writer, {
        type: 'DATA_PAGE',
        uncompressed_page_size: page.length,
        compressed_page_size: page.length,
        data_page_header: {
          num_values: values.length,
          encoding: 'PLAIN',
          definition_level_encoding: 'RLE',
          repetition_level_encoding: 'RLE',
        },
      });
      writer.appendBytes(page);
    }
    const bytes = BigInt(writer.offset - start);
    return {
      file_offset: BigInt(start),
      meta_data: {
        type: 'FLOAT' as const,
        encodings: ['PLAIN' as const, 'RLE' as const],
        path_in_schema: [name],
        codec: 'UNCOMPRESSED' as const,
        num_values: BigInt(rows),
        total_compressed_size: bytes,
        total_uncompressed_size: bytes,
        data_page_offset: BigInt(start),
      },
    };
  }
}
