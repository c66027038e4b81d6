// `weightspan compare`: how the subspaces of two runs lie to each other.
import { Effect, Option } from 'effect';
import { Argument, Command, Flag } from 'effect/cli';
import { ConfigInvalid } from '../../configs/errors.ts';
import { type ModeName, modeNames } from '../../configs/schema.ts';
import { renderComparison } from '../../sinks/comparison-text.ts';
import { DamagedFile, SinkFailed } from '../../sinks/errors.ts';
import { type Comparison, compareRuns, degrees, largestAngle, meanAngle, writeComparison } from '../compare-runs.ts';
import { RunsDiffer, RunUnusable } from '../errors.ts';
import { withFailureEvent } from './failure-event.ts';
import { options } from './options.ts';
import { writeOutput } from './standard-output.ts';

const runFolder = (name: string) =>
  Argument.String(name).pipe(Argument.withDescription('The folder of a finished run'));

const flags = {
  a: runFolder('RUN_A'),
  b: runFolder('RUN_B'),
  mode: Flag.String('mode').pipe(
    Flag.withMetavar('NAME'),
    Flag.withDescription('Whose bases: models, rows or cols (default: the first of these that both runs have)'),
    Flag.optional,
  ),
  out: Flag.String('out').pipe(
    Flag.withMetavar('FILE.parquet'),
    Flag.withDescription('Also write a table, a row a slot with all of its angles, to a new file'),
    Flag.optional,
  ),
  json: options.json,
};

const isFailure = (cause: unknown): cause is RunsDiffer | RunUnusable | SinkFailed =>
  cause instanceof RunsDiffer || cause instanceof RunUnusable || cause instanceof SinkFailed;

const attempt = <A>(step: () => A | Promise<A>) =>
  Effect.tryPromise({ try: async () => step(), catch: (cause) => cause }).pipe(
    Effect.catch((cause) => {
      if (cause instanceof DamagedFile) return Effect.fail(new RunUnusable({ run: cause.path, detail: cause.detail }));
      return isFailure(cause) ? Effect.fail(cause) : Effect.die(cause);
    }),
  );

const toJson = ({ mode, runs, slots, unmatched }: Comparison): unknown => ({
  type: 'comparison',
  mode,
  runs: runs.map(({ run, runId }) => ({ run, run_id: runId })),
  slots: slots.map((slot) => ({
    slot: slot.slot,
    rows: slot.rows,
    cols: slot.cols,
    features: slot.features,
    ranks: slot.ranks,
    angles: Array.from(slot.angles, degrees),
    angle_max: degrees(largestAngle(slot)),
    angle_mean: degrees(meanAngle(slot)),
    overlap: slot.overlap,
    chance: slot.chance.mean,
    chance_deviation: slot.chance.deviation,
    chance_low: slot.chance.low,
    chance_high: slot.chance.high,
    grassmann: slot.grassmann,
    chordal: slot.chordal,
  })),
  unmatched,
});

/** Wide enough for every column where there is no terminal to ask. */
const fileColumns = 132;

const execute = Effect.fn('compare')(function* (given: {
  readonly a: string;
  readonly b: string;
  readonly mode: Option.Option<string>;
  readonly out: Option.Option<string>;
  readonly json: boolean;
}) {
  const mode = Option.getOrNull(given.mode);
  const out = Option.getOrNull(given.out);
  const issues = [
    ...(mode !== null && !modeNames.includes(mode as ModeName)
      ? [`mode: expected one of ${modeNames.join(', ')}, found ${JSON.stringify(mode)}`]
      : []),
    ...(out !== null && !out.endsWith('.parquet')
      ? [`out: expected a file that ends in .parquet, found ${JSON.stringify(out)}`]
      : []),
  ];
  if (issues.length > 0) return yield* new ConfigInvalid({ issues });
  const comparison = yield* attempt(() => compareRuns(given.a, given.b, mode as ModeName | null));
  if (out !== null) yield* attempt(() => writeComparison(out, comparison));
  const color = process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '';
  const columns = process.stdout.columns ?? fileColumns;
  if (given.json) writeOutput(`${JSON.stringify(toJson(comparison))}\n`);
  else writeOutput(`${renderComparison(comparison, { columns, color }).join('\n')}\n`);
});

export const compare = Command.make('compare', flags, (given) => {
  const json = Option.getOrElse(given.json, () => false);
  return withFailureEvent(execute({ ...given, json }), () => json);
}).pipe(
  Command.withDescription(
    'Say, slot by slot, how the subspaces of two finished runs lie to each other: principal angles, overlap beside its chance level, Grassmann and chordal distance. Slots are matched by name and shape. Reads basis files, and changes nothing.',
  ),
  Command.withShortDescription('Compare the subspaces of two runs'),
  Command.withExamples([
    { command: 'weightspan compare runs/first runs/second', description: 'Two runs' },
    { command: 'weightspan compare runs/a runs/b --mode rows --out rows.parquet', description: 'Into a table, too' },
  ]),
);
