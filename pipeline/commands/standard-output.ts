// Standard output may close under us (`run --json | head -n 1`). That is no error: its reader has had enough and the results
// are in the run folder, so the run goes on in silence and ends with its own exit code. When it fails otherwise, a full
// disk behind a redirect, a run goes on just so, but what standard output should have held is lost: that is said once,
// and the exit code is 74.
import { setImmediate as turn } from 'node:timers/promises';
import { openTextStream } from '../../sinks/text-stream.ts';
import { exitCodes } from '../exit-codes.ts';

let failed = false;

const output = openTextStream(process.stdout, (cause: NodeJS.ErrnoException) => {
  if (cause.code === 'EPIPE' || cause.code === undefined) return;
  failed = true;
  process.stderr.write(`weightspan: standard output: cannot be written: ${cause.code}\n`);
});
// There is nowhere left to say that standard error is gone.
process.stderr.on('error', () => {});

/** Writes as it is; drops what nobody can read any more. */
export const writeOutput = (text: string): void => output.write(text);

/** Ends the process once both streams have taken what was written. */
export async function exitAfterFlush(code: number): Promise<void> {
  process.exitCode = code;
  await output.flush();
  // A write that failed says so one turn after its callback.
  await turn();
  const finalCode = failed && code === exitCodes.done ? exitCodes.io : code;
  process.stderr.write('', () => process.exit(finalCode));
}
