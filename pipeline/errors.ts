// What can end a run that is nobody's fault.
import { Data } from 'effect';

/**
 * A signal asked the run to stop, and it stopped between two blocks.
 * Exit code 130 for SIGINT, 143 for SIGTERM and the others.
 */
export class Interrupted extends Data.TaggedError('Interrupted')<{
  readonly signal: NodeJS.Signals;
  /** What was done by then, and what is left of it. */
  readonly detail: string;
}> {
  override get message(): string {
    return `${this.signal}: ${this.detail}`;
  }
}
