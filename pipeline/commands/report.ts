// `weightspan report`: a finished run as one HTML file.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Effect } from 'effect';
import { Command, Flag } from 'effect/cli';
import { ConfigInvalid } from '../../configs/errors.ts';
import { writeTextDurably } from '../../sinks/durable-file.ts';
import type { SinkFailed } from '../../sinks/errors.ts';
import { formatBytes } from '../../sinks/human-format.ts';
import { escapeControls } from '../../sinks/terminal-text.ts';
import { renderReport } from '../../watch/report/render-report.ts';
import { RunUnusable } from '../errors.ts';
import { runFolder } from './continue-run.ts';
import { writeOutput } from './standard-output.ts';

const execute = Effect.fn('report')(function* (run: string, file: string) {
  if (!/\.html?$/i.test(file))
    return yield* new ConfigInvalid({ issues: [`out: expected a file name that ends in .html, found ${file}`] });
  if (!existsSync(join(run, 'run.json')))
    return yield* new RunUnusable({
      run,
      detail: 'expected a finished run, found no run.json; look at it with: weightspan watch',
    });
  const html = yield* Effect.tryPromise({
    try: () => renderReport(run),
    catch: (cause) =>
      new RunUnusable({ run, detail: `its tables cannot be read: ${cause instanceof Error ? cause.message : cause}` }),
  });
  yield* Effect.try({
    try: () => writeTextDurably(file, html),
    catch: (cause) => cause as SinkFailed,
  });
  writeOutput(`${escapeControls(file)}: ${formatBytes(Buffer.byteLength(html))}\n`);
});

const out = Flag.String('out').pipe(
  Flag.withAlias('o'),
  Flag.withMetavar('FILE.html'),
  Flag.withDescription('File to write'),
);

export const report = Command.make('report', { run: runFolder, out }, (flags) => execute(flags.run, flags.out)).pipe(
  Command.withDescription(
    'Write a finished run as one HTML file that needs nothing else: pictures, the numbers beside them as tables, and what each shows and does not.',
  ),
  Command.withShortDescription('Write a finished run as one HTML file'),
  Command.withExamples([
    { command: 'weightspan report runs/first -o report.html', description: 'To send to a colleague' },
  ]),
);
