// What can go wrong with a source. Malformed is permanent (the bytes are wrong), Unavailable may pass (the disk, the path).
// Every message says what was found, what was expected and, where there is one, what to do next.
// Header workers load this file: the whole of effect would make each start 0.35 s later.
import * as Data from 'effect/Data';
import { displayPath } from './display-name.ts';

/** A model's bytes break a rule. Exit code 65. */
export class SourceMalformed extends Data.TaggedError('SourceMalformed')<{
  /** The file, as a person would name it. */
  readonly path: string;
  /** The tensor at fault, escaped for display; absent where the whole file is. */
  readonly tensor?: string;
  /** A short stable identifier of the broken rule, e.g. `header-length`. */
  readonly rule: string;
  /** Found against expected, in one line. */
  readonly detail: string;
}> {
  override get message(): string {
    return `${displayPath(this.path)}${this.tensor === undefined ? '' : `: tensor ${this.tensor}`}: ${this.detail} [${this.rule}]`;
  }
}

/** A source cannot be read now: it is missing, forbidden, or the disk failed. Exit code 74. */
export class SourceUnavailable extends Data.TaggedError('SourceUnavailable')<{
  readonly path: string;
  readonly detail: string;
  /** Set where this process or machine has too many files open. */
  readonly isExhausted?: boolean;
}> {
  override get message(): string {
    return `${displayPath(this.path)}: ${this.detail}`;
  }
}
