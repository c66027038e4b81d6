// Under --json the reader of standard output learns of a failure there too: the last line is {"type":"failed",…}.
import { type Cause, Effect } from 'effect';
import type { TelemetryEvent } from '../telemetry.ts';
import { describeFailure } from './report-failure.ts';
import { writeOutput } from './standard-output.ts';

const failedEvent = (cause: Cause.Cause<unknown>): TelemetryEvent => {
  const { error, message } = describeFailure(cause);
  return { type: 'failed', error, message };
};

/** @param isWanted asked when the failure comes: --json, and nobody has written the line yet */
export const withFailureEvent = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  isWanted: () => boolean,
): Effect.Effect<A, E, R> =>
  Effect.tapCause(effect, (cause) =>
    Effect.sync(() => {
      if (isWanted()) writeOutput(`${JSON.stringify(failedEvent(cause))}\n`);
    }),
  );
