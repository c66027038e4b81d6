// `weightspan status`: what a run folder holds, without touching it.
import { Effect, Option } from 'effect';
import { Command } from 'effect/cli';
import { runStatus } from '../run.ts';
import { renderStatus, statusToJson } from '../run-status.ts';
import { runFolder } from './continue-run.ts';
import { withFailureEvent } from './failure-event.ts';
import { options } from './options.ts';
import { writeOutput } from './standard-output.ts';

const execute = Effect.fn('status')(function* (run: string, json: boolean) {
  const status = yield* runStatus(run);
  writeOutput(json ? `${JSON.stringify(statusToJson(status))}\n` : `${renderStatus(status).join('\n')}\n`);
});

export const status = Command.make('status', { run: runFolder, json: options.json }, (flags) => {
  const json = Option.getOrElse(flags.json, () => false);
  return withFailureEvent(execute(flags.run, json), () => json);
}).pipe(
  Command.withDescription(
    'Say what a run is, how far it has come and how fast, whether its newest checkpoint holds, and who is writing it. Reads every file of that checkpoint, and changes nothing.',
  ),
  Command.withShortDescription('Say how far a run has come'),
  Command.withExamples([{ command: 'weightspan status runs/first', description: 'A run, live or not' }]),
);
