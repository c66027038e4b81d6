// What a run has found out so far and keeps in memory or in files that are not finished: rows of tables, warnings, timings.
// Each is also a line of a log, so that a resumed run has them again, in the same order and with the same bits. JSON, but for
// what JSON cannot say: typed arrays are base64, and numbers that it would change carry their name.
import type { ModelVectors } from '../operators/core-tensor.ts';
import { AppendLog, type LogCut } from '../sinks/append-log.ts';
import { DamagedFile } from '../sinks/errors.ts';
import type { TableName } from '../sinks/tables.ts';
import type { Finding } from './find-warnings.ts';
import type { BlockTiming } from './run-folder.ts';
import type { Alike } from './same-models.ts';
import type { SlotSummary } from './telemetry.ts';

/** Rows for a table, as `Table.append` takes them. */
export interface TableRows {
  readonly table: TableName;
  readonly batch: Readonly<Record<string, unknown>>;
  readonly extra?: readonly (Float32Array | readonly (number | null)[])[];
  /** They stand behind all rows that are not. */
  readonly later?: true;
}

export type JournalEntry =
  | { readonly kind: 'rows'; readonly rows: TableRows }
  | { readonly kind: 'warning'; readonly finding: Finding }
  | { readonly kind: 'timing'; readonly timing: BlockTiming }
  | { readonly kind: 'skip'; readonly slot: number; readonly model: number; readonly reason: string }
  /** Directions of mode models, for the core tensor that a later group makes. */
  | { readonly kind: 'vectors'; readonly slot: number; readonly vectors: ModelVectors }
  | { readonly kind: 'summary'; readonly summary: SlotSummary }
  | { readonly kind: 'alike'; readonly alike: Alike }
  | { readonly kind: 'copies'; readonly copies: readonly (readonly [model: number, original: number])[] };

const arrays = { f64: Float64Array, f32: Float32Array, i32: Int32Array } as const;

type ArrayName = keyof typeof arrays;

const isArrayName = (name: string): name is ArrayName => name in arrays;

/** For `JSON.stringify`. */
export const encode = (_key: string, value: unknown): unknown => {
  for (const name of Object.keys(arrays) as ArrayName[]) {
    if (!(value instanceof arrays[name])) continue;
    return { [name]: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') };
  }
  if (typeof value !== 'number' || (Number.isFinite(value) && !Object.is(value, -0))) return value;
  return { number: Object.is(value, -0) ? '-0' : String(value) };
};

/** For `JSON.parse`. */
export const decode = (_key: string, value: unknown): unknown => {
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value);
  const [name, text] = entries[0] ?? [];
  if (entries.length !== 1 || typeof name !== 'string' || typeof text !== 'string') return value;
  if (name === 'number') return Number(text);
  if (!isArrayName(name)) return value;
  const bytes = Buffer.from(text, 'base64');
  // A buffer of its own: those of small Buffers are shared, and not aligned.
  return new arrays[name](new Uint8Array(bytes).buffer);
};

export class RunJournal {
  readonly log: AppendLog;

  private constructor(log: AppendLog) {
    this.log = log;
  }

  /** Throws `SinkFailed`. */
  static create(path: string): RunJournal {
    return new RunJournal(AppendLog.create(path));
  }

  /**
   * A journal as it was at a checkpoint.
   * @param each sees its entries in order
   * Throws `SinkFailed`, `DamagedFile`.
   */
  static reopen(path: string, cut: LogCut, each: (entry: JournalEntry) => void): RunJournal {
    let rest = Buffer.alloc(0);
    const log = AppendLog.reopen(path, cut, (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
        each(JSON.parse(rest.subarray(0, end).toString(), decode) as JournalEntry);
        rest = rest.subarray(end + 1);
      }
    });
    if (rest.length > 0) throw new DamagedFile(path, 'it ends within a line');
    return new RunJournal(log);
  }

  write(entry: JournalEntry): void {
    this.log.append(Buffer.from(`${JSON.stringify(entry, encode)}\n`));
  }
}
