// What can go wrong while computing. From 'effect/Data' alone: workers load this file, and the whole of effect would take
// 28 MB in each of them.
import * as Data from 'effect/Data';

/** No device of the asked kind can multiply here. Exit code 69. */
export class DeviceUnavailable extends Data.TaggedError('DeviceUnavailable')<{
  readonly device: string;
  readonly detail: string;
}> {
  override get message(): string {
    return `device ${this.device}: ${this.detail}`;
  }
}

/** A result that is not a number where one must be: a failed eigensolver, a device that returned NaN. Exit code 65. */
export class NumericalFailure extends Data.TaggedError('NumericalFailure')<{
  readonly slot: string;
  readonly detail: string;
}> {
  override get message(): string {
    return `slot ${this.slot}: ${this.detail}`;
  }
}
