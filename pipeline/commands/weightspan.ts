// The command `weightspan`: its subcommands, and what happens around every one of them. Standard output carries results
// and help that was asked for; mistakes, logs and progress go to standard error.
import { createRequire } from 'node:module';
import * as NodeServices from '@effect/platform-node/NodeServices';
import { Effect, Exit, Layer, Logger, Runtime } from 'effect';
import { CliConfig, CliOutput, Command, GlobalFlag, type HelpDoc } from 'effect/cli';
import { exitCodes } from '../exit-codes.ts';
import { compare } from './compare.ts';
import { extend } from './extend.ts';
import { merge } from './merge.ts';
import { plan } from './plan.ts';
import { report } from './report.ts';
import { describeFailure } from './report-failure.ts';
import { resume } from './resume.ts';
import { run } from './run.ts';
import { exitAfterFlush, writeOutput } from './standard-output.ts';
import { status } from './status.ts';
import { watch } from './watch.ts';

const { version } = createRequire(import.meta.url)('weightspan/package.json') as { readonly version: string };

const weightspan = Command.make('weightspan').pipe(
  Command.withDescription(
    'Stream the weights of many trained models through an incremental PCA, in bounded memory, and see layer by layer whether they share a low-dimensional subspace.',
  ),
  Command.withExamples([
    { command: 'weightspan plan ./checkpoints', description: 'What a run would do' },
    { command: 'weightspan run ./checkpoints --out runs/first', description: 'The run' },
    { command: 'weightspan resume runs/first', description: 'Go on where it was stopped' },
  ]),
  Command.withSubcommands([plan, run, resume, extend, status, merge, compare, watch, report]),
);

// Flags without a value are declared with an optional one (options.ts); help should not offer it.
const withoutBooleanValues = (doc: HelpDoc.HelpDoc): HelpDoc.HelpDoc => ({
  ...doc,
  flags: doc.flags.map((flag) => (flag.type === '[=boolean]' ? { ...flag, type: 'boolean' } : flag)),
});

const present = Effect.fnUntraced(function* (event: CliOutput.Presenter.Event) {
  const formatter = yield* CliOutput.Formatter;
  if (event._tag === 'Version') writeOutput(`${event.name} ${event.version}\n`);
  else if (event._tag === 'Help' && event.reason === 'Requested') {
    writeOutput(`${formatter.formatHelpDoc(withoutBooleanValues(event.helpDoc))}\n`);
  } else if (event._tag === 'Help')
    process.stderr.write(`${formatter.formatHelpDoc(withoutBooleanValues(event.helpDoc))}\n`);
  else {
    const lines = event.errors.map(
      (error) => `weightspan: ${formatter.formatCliError(error).replace(/\s*\n\s*/g, ' ')}\n`,
    );
    process.stderr.write(`${lines.join('')}See ${event.commandPath.join(' ')} --help\n`);
  }
});

const layers = Layer.mergeAll(
  NodeServices.layer,
  CliConfig.layer({ builtIns: [GlobalFlag.Help, GlobalFlag.Version, GlobalFlag.Completions] }),
  CliOutput.layerPresenter({ present }),
  Logger.layer([Logger.withConsoleError(Logger.formatLogFmt)]),
);

/** Runs the command line and ends the process with its exit code. */
export function main(): void {
  // Libraries greet on console.log; under --json that line would break the stream.
  console.log = console.info = console.debug = console.error;
  process.on('uncaughtException', (error) => {
    process.stderr.write(`weightspan: this is a bug; please report it with these lines\n${error?.stack ?? error}\n`);
    process.exit(exitCodes.bug);
  });
  const runMain = Runtime.makeRunMain(({ fiber, teardown }) =>
    fiber.addObserver((exit) => teardown(exit, (code) => void exitAfterFlush(code))),
  );
  runMain(Command.run(weightspan, { version }).pipe(Effect.provide(layers)), {
    disableErrorReporting: true,
    teardown: (exit, onExit) => {
      if (Exit.isSuccess(exit)) return onExit(exitCodes.done);
      const { exitCode, text } = describeFailure(exit.cause);
      if (text !== '') process.stderr.write(`${text}\n`);
      onExit(exitCode);
    },
  });
}
