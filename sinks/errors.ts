// What can go wrong while writing. From 'effect/Data' alone, as operators/errors.ts: workers load this file.
import * as Data from 'effect/Data';

/** The run folder cannot be used or written. `occupied` exits 73, the others 74. */
export class SinkFailed extends Data.TaggedError('SinkFailed')<{
  readonly path: string;
  readonly reason: 'occupied' | 'no-space' | 'io';
  readonly detail: string;
}> {
  override get message(): string {
    return `${this.path}: ${this.detail}`;
  }
}

/** A file that does not hold what was written to it: cut off, changed or gone. Never used; the next older state is. */
export class DamagedFile extends Error {
  readonly path: string;
  readonly detail: string;

  constructor(path: string, detail: string) {
    super(`${path}: ${detail}`);
    this.path = path;
    this.detail = detail;
  }
}
