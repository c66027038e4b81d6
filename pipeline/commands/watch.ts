// `weightspan watch`: a page that shows a run, live or finished, until the command is stopped.
import { existsSync } from 'node:fs';
import { Effect } from 'effect';
import { Command } from 'effect/cli';
import { ConfigInvalid } from '../../configs/errors.ts';
import { escapeControls } from '../../sinks/terminal-text.ts';
import { startWatchServer } from '../../watch/server/watch-server.ts';
import { RunUnusable } from '../errors.ts';
import { onStopRequested } from '../signals.ts';
import { runFolder } from './continue-run.ts';
import { writeOutput } from './standard-output.ts';
import { notARun, type WatchFlags, watchFlags, watchOptions } from './watch-options.ts';

const execute = Effect.fn('watch')(function* (run: string, flags: WatchFlags) {
  const options = yield* watchOptions(run, flags);
  const wrong = notARun(run);
  if (wrong !== null) return yield* new RunUnusable({ run, detail: wrong });
  const server = yield* Effect.tryPromise({
    try: () => startWatchServer(options),
    catch: (cause) => cannotListen(options.port, cause),
  });
  writeOutput(`${server.url}\n`);
  if (!existsSync(run)) process.stderr.write(`${escapeControls(run)} is not there yet: the page waits for it\n`);
  yield* Effect.promise(() => new Promise<void>((resolve) => void onStopRequested(() => resolve())));
  yield* Effect.promise(() => server.close());
});

export const cannotListen = (port: number, cause: unknown): ConfigInvalid => {
  const { code, message } = cause as NodeJS.ErrnoException;
  const advice = code === 'EADDRINUSE' ? `${port} is in use; leave it out for one that is free` : message;
  return new ConfigInvalid({ issues: [`port: ${advice}`] });
};

export const watch = Command.make('watch', { run: runFolder, ...watchFlags }, ({ run, ...flags }) =>
  execute(run, flags),
).pipe(
  Command.withDescription(
    'Serve a web page on 127.0.0.1 that shows a run: one that another process writes, one that is finished, or a folder copied from elsewhere. Prints the address, reads the run folder, changes nothing, and ends with SIGINT.',
  ),
  Command.withShortDescription('Show a run on a web page'),
  Command.withExamples([
    { command: 'weightspan watch runs/first', description: 'A run, live or finished' },
    {
      command: 'ssh -L 8080:127.0.0.1:8080 machine weightspan watch runs/first --port 8080',
      description: 'A run on another machine: then open http://localhost:8080',
    },
  ]),
);
