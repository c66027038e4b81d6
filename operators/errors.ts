// What can go wrong while computing. From 'effect/Data' alone: workers load this file, and the whole of effect would take
// 28 MB in each of them.
import * as Data from 'effect/Data';
import type { FailureReason } from './devices/tensor-messages.ts';

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

/** A device that worked and does not any more: a lost GPU, memory that is not there, a shader it refuses. Exit code 69. */
export class DeviceFailed extends Data.TaggedError('DeviceFailed')<{
  readonly device: string;
  readonly reason: FailureReason;
  readonly detail: string;
}> {
  override get message(): string {
    return `device ${this.device}: ${this.detail}${ADVICE[this.reason]}`;
  }
}

const ADVICE: Readonly<Record<FailureReason, string>> = {
  lost: '',
  'out-of-memory': '; a smaller --memory makes smaller groups of slots',
  invalid: '',
  other: '',
};
