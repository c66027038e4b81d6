// Follows the events.ndjson of a run that another process may be writing: reads what was appended since the last look.
// A resumed run cuts the log back and goes on, so the bytes before the place reached are compared at every look; where they
// differ, or the file is shorter or gone, everything is read again. Memory: one chunk.
import { type FileHandle, open } from 'node:fs/promises';
import type { LoggedEvent } from '../pipeline/telemetry.ts';

export interface LogLine {
  readonly event: LoggedEvent;
  /** As it stands in the file, without its end. */
  readonly text: string;
}

export interface LogLook {
  /** What was read before does not hold any more. */
  readonly isAnew: boolean;
  readonly exists: boolean;
  readonly lines: readonly LogLine[];
  /** More is there already. */
  readonly hasMore: boolean;
}

const CHUNK = 1 << 22;
/** A line beyond this is not one of ours. */
const LONGEST_LINE = 1 << 26;
const TRACE = 256;

export class EventTail {
  readonly #path: string;
  #at = 0;
  /** The last bytes before `#at`. */
  #trace: Buffer = Buffer.alloc(0);
  /** The beginning of a line. */
  #rest: Buffer[] = [];
  #restBytes = 0;

  constructor(path: string) {
    this.#path = path;
  }

  async look(): Promise<LogLook> {
    let file: FileHandle;
    try {
      file = await open(this.#path, 'r');
    } catch {
      const isAnew = this.#at > 0;
      this.#restart();
      return { isAnew, exists: false, lines: [], hasMore: false };
    }
    try {
      const { size } = await file.stat();
      const isAnew = size < this.#at || !(await this.#isSame(file));
      if (isAnew) this.#restart();
      const lines: LogLine[] = [];
      const chunk = Buffer.allocUnsafe(Math.max(0, Math.min(CHUNK, size - this.#at)));
      const { bytesRead } = await file.read(chunk, 0, chunk.length, this.#at);
      this.#take(chunk.subarray(0, bytesRead), lines);
      return { isAnew, exists: true, lines, hasMore: this.#at < size && bytesRead > 0 };
    } finally {
      await file.close();
    }
  }

  #restart(): void {
    this.#at = 0;
    this.#trace = Buffer.alloc(0);
    this.#rest = [];
    this.#restBytes = 0;
  }

  async #isSame(file: FileHandle): Promise<boolean> {
    const now = Buffer.alloc(this.#trace.length);
    const { bytesRead } = await file.read(now, 0, now.length, this.#at - now.length);
    return bytesRead === now.length && now.equals(this.#trace);
  }

  #take(chunk: Buffer, lines: LogLine[]): void {
    this.#at += chunk.length;
    this.#trace = Buffer.from(Buffer.concat([this.#trace, chunk.subarray(-TRACE)]).subarray(-TRACE));
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      const text = Buffer.concat([...this.#rest, chunk.subarray(from, end)]).toString();
      this.#rest = [];
      this.#restBytes = 0;
      from = end + 1;
      const event = parseEvent(text);
      if (event !== null) lines.push({ event, text });
    }
    if (from < chunk.length) {
      this.#restBytes += chunk.length - from;
      // The rest of such a line is skipped like any other that says nothing.
      if (this.#restBytes > LONGEST_LINE) this.#rest = [Buffer.from('!')];
      else this.#rest.push(Buffer.from(chunk.subarray(from)));
    }
  }
}

/** Null for a line that is none of ours, or was torn by a crash. */
const parseEvent = (text: string): LoggedEvent | null => {
  try {
    const event = JSON.parse(text) as LoggedEvent;
    return Number.isSafeInteger(event?.seq) && typeof event.time === 'string' && typeof event.type === 'string'
      ? event
      : null;
  } catch {
    return null;
  }
};
