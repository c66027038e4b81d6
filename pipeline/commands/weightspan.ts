// The command line: parses, runs a command, and turns every outcome into an exit code and at most a few clear lines.
import { createRequire } from 'node:module';
import * as NodeServices from '@effect/platform-node/NodeServices';
import { Cause, Console, Effect, Exit } from 'effect';
import { Command } from 'effect/cli';
import { exitCodeOf, exitCodes } from '../exit-codes.ts';
import { planCommand } from './plan.ts';
import { runCommand } from './run.ts';

const { version } = createRequire(import.meta.url)('weightspan/package.json') as { version: string };

const weightspan = Command.make('weightspan').pipe(
  Command.withDescription(
    'See layer by layer whether trained models share a low-dimensional subspace: an incremental PCA over the weights of thousands of models, in bounded memory.',
  ),
  Command.withSubcommands([planCommand, runCommand]),
);

interface Reported {
  readonly _tag?: string;
  readonly message?: string;
  readonly issues?: readonly string[];
  readonly errors?: readonly { readonly message: string }[];
}

/** The lines of an error: one, or one an issue; a trace for bugs alone. */
const linesOf = (cause: Cause.Cause<unknown>): readonly string[] => {
  const error = Cause.squash(cause) as Reported;
  if (error._tag === 'ShowHelp') return (error.errors ?? []).map(({ message }) => message);
  if (exitCodeOf(error) === exitCodes.bug)
    return ['this is a bug in weightspan; please report it with this trace', Cause.pretty(cause)];
  return error.issues ?? [error.message ?? String(error)];
};

/** Help is the command's answer on stdout; after an error there is none, and the lines on stderr say where it is. */
const codeOf = (exit: Exit.Exit<unknown, unknown>): number => {
  if (Exit.isSuccess(exit)) return exitCodes.done;
  const error = Cause.squash(exit.cause) as Reported;
  if (error._tag === 'ShowHelp' && (error.errors ?? []).length === 0) return exitCodes.done;
  return exitCodeOf(error);
};

const write = (stream: NodeJS.WriteStream, text: string): Promise<void> =>
  new Promise((resolve) => {
    if (text === '') return resolve();
    stream.once('error', () => resolve());
    stream.write(text, () => resolve());
  });

/** Runs the command line of `args`; resolves with the exit code when all output has left. */
export const main = async (args: readonly string[]): Promise<number> => {
  let printed = '';
  const collect = (...values: readonly unknown[]): void => {
    printed += `${values.map(String).join(' ')}\n`;
  };
  const quietConsole = { ...globalThis.console, log: collect, info: collect, error: () => {} };
  const exit = await Effect.runPromiseExit(
    Command.runWith(weightspan, { version })(args).pipe(
      Effect.provideService(Console.Console, quietConsole as unknown as Console.Console),
      Effect.provide(NodeServices.layer),
    ),
  );
  const code = codeOf(exit);
  if (Exit.isSuccess(exit) || code === exitCodes.done) await write(process.stdout, printed);
  else {
    const lines = linesOf(exit.cause).map((line) => `weightspan: ${line}\n`);
    const usage = (Cause.squash(exit.cause) as Reported)._tag === 'ShowHelp';
    await write(process.stderr, lines.join('') + (usage ? 'weightspan: see weightspan --help\n' : ''));
  }
  return code;
};
