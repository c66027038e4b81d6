// What can end a run that is nobody's fault.
import { Data } from 'effect';

/**
 * A signal asked the command to stop. A run that stopped between two blocks, with a checkpoint to go on from, exits 75;
 * everything else 130 for SIGINT, 143 for SIGTERM and the others.
 */
export class Interrupted extends Data.TaggedError('Interrupted')<{
  readonly signal: NodeJS.Signals;
  readonly canResume: boolean;
  /** What was done by then, and what is left of it. */
  readonly detail: string;
}> {
  override get message(): string {
    return `${this.signal}: ${this.detail}`;
  }
}

/** A run folder cannot be continued as asked: its sources or the machine are not what they were. Exit code 65. */
export class RunChanged extends Data.TaggedError('RunChanged')<{
  readonly run: string;
  readonly differences: readonly string[];
  /** What can be done. */
  readonly advice: string;
}> {
  override get message(): string {
    const shown = this.differences.slice(0, SHOWN);
    const more = this.differences.length - shown.length;
    return [
      ...shown.map((difference) => `${this.run}: ${difference}`),
      ...(more > 0 ? [`${this.run}: and ${more} more`] : []),
      `${this.run}: ${this.advice}`,
    ].join('\n');
  }
}

/** Differences that a message names. */
const SHOWN = 5;

/** A folder is no run, is damaged beyond use, or does not allow what is asked of it. Exit code 65. */
export class RunUnusable extends Data.TaggedError('RunUnusable')<{
  readonly run: string;
  readonly detail: string;
}> {
  override get message(): string {
    return `${this.run}: ${this.detail}`;
  }
}

/** Runs that cannot be put side by side, or into one, with everything that stands against it. Exit code 65. */
export class RunsDiffer extends Data.TaggedError('RunsDiffer')<{
  /** Each with the runs, slots or models it is about, and what can be done. */
  readonly problems: readonly string[];
}> {
  override get message(): string {
    return this.problems.join('\n');
  }
}

/** Another process writes the run. Exit code 75: later it may go. */
export class RunLocked extends Data.TaggedError('RunLocked')<{
  readonly run: string;
  readonly owner: string;
}> {
  override get message(): string {
    return `${this.run}: ${this.owner} is writing it; one process at a time may`;
  }
}
