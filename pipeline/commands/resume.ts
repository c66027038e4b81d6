// `weightspan resume`: goes on with a run that was stopped, killed or failed.
import { Command } from 'effect/cli';
import { resumeRun } from '../run.ts';
import { continueOptions, continueRun, runFolder } from './continue-run.ts';

export const resume = Command.make('resume', { run: runFolder, ...continueOptions }, ({ run, ...flags }) =>
  continueRun(run, flags, 'finished already', (...args) => resumeRun(run, ...args)),
).pipe(
  Command.withDescription(
    'Go on with a run that was stopped, killed or failed, from its newest checkpoint that holds. The tables are those of a run that was never stopped, to the last bit.',
  ),
  Command.withShortDescription('Go on with a run that was stopped'),
  Command.withExamples([
    { command: 'weightspan resume runs/first', description: 'From the newest checkpoint' },
    {
      command: 'weightspan resume runs/first --memory 2GiB --source-root /old/models=/new/models',
      description: 'On a smaller machine, with the models elsewhere',
    },
  ]),
);
