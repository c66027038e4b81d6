// The exit codes, in one place; the numbers are those of sysexits.h. An error that is not listed is a bug.
// NumericalFailure is 65, not 70: weights that no eigensolver can digest are bad data, and 70 stays the sign of a defect
// in weightspan itself.
import { signalExitCode } from './signals.ts';

export const exitCodes = {
  done: 0,
  usage: 64,
  data: 65,
  device: 69,
  bug: 70,
  output: 73,
  io: 74,
  later: 75,
} as const;

interface Tagged {
  readonly _tag: string;
  readonly reason?: unknown;
  readonly signal?: NodeJS.Signals;
  readonly canResume?: boolean;
}

const isTagged = (error: unknown): error is Tagged =>
  typeof error === 'object' && error !== null && '_tag' in error && typeof error._tag === 'string';

/** The exit code of an error; 70 for whatever is not one of ours. */
export function exitCodeOf(error: unknown): number {
  if (!isTagged(error)) return exitCodes.bug;
  switch (error._tag) {
    case 'ShowHelp':
    case 'ConfigInvalid':
      return exitCodes.usage;
    case 'SourceMalformed':
    case 'NumericalFailure':
    case 'RunChanged':
    case 'RunUnusable':
    case 'RunsDiffer':
      return exitCodes.data;
    case 'DeviceUnavailable':
    case 'DeviceFailed':
      return exitCodes.device;
    case 'SinkFailed':
      return error.reason === 'occupied' ? exitCodes.output : exitCodes.io;
    case 'SourceUnavailable':
      return exitCodes.io;
    case 'Interrupted':
      return error.canResume === true ? exitCodes.later : signalExitCode(error.signal ?? 'SIGTERM');
    case 'RunLocked':
      return exitCodes.later;
    default:
      return exitCodes.bug;
  }
}
