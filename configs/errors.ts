// What can go wrong with a command or a config file.
import { Data } from 'effect';

/** All that is wrong with the command or config, at once. Exit code 64. */
export class ConfigInvalid extends Data.TaggedError('ConfigInvalid')<{
  /** One line each, starting with the path of the offending option: `rank: expected a whole number of at least 1, found 0`. */
  readonly issues: readonly string[];
}> {
  override get message(): string {
    return this.issues.join('\n');
  }
}
