// `weightspan extend`: folds more models into a finished run.
import { Command } from 'effect/cli';
import { extendRun } from '../run.ts';
import { continueOptions, continueRun, runFolder } from './continue-run.ts';
import { sources } from './options.ts';

export const extend = Command.make('extend', { run: runFolder, sources, ...continueOptions }, (given) => {
  const { run, sources: added, ...flags } = given;
  return continueRun(run, flags, 'has all of these models already', (...args) => extendRun(run, added, ...args));
}).pipe(
  Command.withDescription(
    'Fold more models into a finished run, as its next generation, instead of starting over. Models that are in it are left out. Its tables stand until the new ones are whole.',
  ),
  Command.withShortDescription('Fold more models into a finished run'),
  Command.withExamples([{ command: 'weightspan extend runs/first ./new-checkpoints', description: 'More models' }]),
);
