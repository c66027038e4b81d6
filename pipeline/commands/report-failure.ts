// What a person reads when a command fails: a line a mistake, without a stack trace; only a defect of weightspan itself
// shows one, because there it is what a report needs.
import { Cause, Option } from 'effect';
import { escapeControls } from '../../sinks/terminal-text.ts';
import { exitCodeOf, exitCodes } from '../exit-codes.ts';

export interface Failure {
  readonly exitCode: number;
  /** The error's tag, or `Bug`. */
  readonly error: string;
  /** For standard error, without a trailing newline; empty where it has been said already. */
  readonly text: string;
  /** The same without prefix and trace. */
  readonly message: string;
}

/** Reads the first error of a cause; whatever is not one of the documented errors is a bug. */
export function describeFailure(cause: Cause.Cause<unknown>): Failure {
  const error = Option.getOrUndefined(Cause.findErrorOption(cause));
  const exitCode = exitCodeOf(error);
  if (exitCode === exitCodes.bug || !(error instanceof Error)) {
    const squashed = Cause.squash(cause);
    const text = [
      'weightspan: this is a bug; please report it with these lines',
      `Node ${process.version}, ${process.platform} ${process.arch}`,
      Cause.pretty(cause),
    ].join('\n');
    const message = squashed instanceof Error ? squashed.message : String(squashed);
    return { exitCode: exitCodes.bug, error: 'Bug', text, message };
  }
  // The CLI has printed the mistakes of a malformed command line.
  if ('_tag' in error && error._tag === 'ShowHelp')
    return { exitCode, error: 'Usage', text: '', message: error.message };
  const lines = error.message.split('\n').map(escapeControls);
  return {
    exitCode,
    error: error.name,
    text: lines.map((line) => `weightspan: ${line}`).join('\n'),
    message: lines.join('\n'),
  };
}
