// What a config file may say, and what the flags add up to: every option of the command line under its own name.
// A flag that is written --no-X on the command line is `X: false` here. An `expected` annotation is the second half of the
// error message: `rank: expected a whole number of at least 1, found 0`.
import { Schema } from 'effect';
import { deviceChoices, precisionChoices } from '../operators/devices/device-choice.ts';
import { parseCheckpointEvery } from './checkpoint-every.ts';
import { parseMemorySize } from './memory-size.ts';

const whole = (least: number, most: number, expected: string) =>
  Schema.Number.annotate({ expected }).check(
    Schema.makeFilter((value: number) => Number.isInteger(value) && value >= least && value <= most, { expected }),
  );

// Node refuses a path with a NUL by throwing; 4,096 bytes is the longest that Linux takes.
const text = (expected: string) =>
  Schema.String.annotate({ expected }).check(
    Schema.makeFilter((value: string) => value.length > 0 && value.length <= 4096 && !value.includes('\0'), {
      expected,
    }),
  );

const list = (item: string, items: string) => Schema.Array(text(item)).annotate({ expected: `a list of ${items}` });

const flag = Schema.Boolean.annotate({ expected: 'true or false' });

const choice = <const Choices extends readonly string[]>(choices: Choices) => {
  const expected = `one of ${choices.join(', ')}`;
  return Schema.Literals(choices).annotate({ expected });
};

const size = Schema.Union([Schema.Number, Schema.String])
  .annotate({ expected: 'a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes' })
  .check(
    Schema.makeFilter((value: string | number) => parseMemorySize(value) !== null, {
      expected: 'a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes',
    }),
  );

const checkpointEvery = Schema.Union([Schema.Number, Schema.String])
  .annotate({ expected: 'a number of models, or a time such as 90s, 10m or 2h' })
  .check(
    Schema.makeFilter((value: string | number) => parseCheckpointEvery(value) !== null, {
      expected: 'a number of models, or a time such as 90s, 10m or 2h',
    }),
  );

/** What is analysed of a slot: whole models as samples, or their rows, or their columns. */
export const modeNames = ['models', 'rows', 'cols'] as const;

export type ModeName = (typeof modeNames)[number];

/** The options of a run, all of them optional, as a config file or the flags give them. */
export const RunOptions = Schema.Struct({
  sources: Schema.optionalKey(list('a path', 'paths')),
  out: Schema.optionalKey(text('a path')),
  engine: Schema.optionalKey(choice(['incremental', 'frequent-directions', 'randomized', 'exact', 'auto'])),
  mode: Schema.optionalKey(
    Schema.Array(choice(modeNames))
      .annotate({ expected: 'a list of models, rows and cols' })
      .check(Schema.makeFilter((modes: readonly string[]) => modes.length > 0, { expected: 'at least one mode' })),
  ),
  rank: Schema.optionalKey(whole(1, 2 ** 31 - 1, 'a whole number of at least 1')),
  block: Schema.optionalKey(whole(1, 4096, 'a whole number from 1 to 4096')),
  seed: Schema.optionalKey(whole(0, 2 ** 32 - 1, 'a whole number from 0 to 4294967295')),
  passes: Schema.optionalKey(whole(1, 2, '1 or 2')),
  base: Schema.optionalKey(text('a path')),
  center: Schema.optionalKey(flag),
  shuffle: Schema.optionalKey(whole(0, 2 ** 32 - 1, 'a whole number from 0 to 4294967295')),
  include: Schema.optionalKey(list('a glob', 'globs')),
  exclude: Schema.optionalKey(list('a glob', 'globs')),
  'group-by': Schema.optionalKey(list('a glob', 'globs')),
  rename: Schema.optionalKey(list('FROM=TO', 'FROM=TO')),
  lora: Schema.optionalKey(choice(['delta', 'factors'])),
  family: Schema.optionalKey(list('a glob', 'globs of families')),
  'on-mismatch': Schema.optionalKey(choice(['skip-slot', 'skip-model', 'error'])),
  'on-bad-source': Schema.optionalKey(choice(['error', 'skip'])),
  verify: Schema.optionalKey(flag),
  memory: Schema.optionalKey(size),
  threads: Schema.optionalKey(whole(1, 1024, 'a whole number from 1 to 1024')),
  device: Schema.optionalKey(choice(deviceChoices)),
  precision: Schema.optionalKey(choice(precisionChoices)),
  'checkpoint-every': Schema.optionalKey(checkpointEvery),
  'drop-state': Schema.optionalKey(flag),
  'snapshot-every': Schema.optionalKey(whole(1, 2 ** 31 - 1, 'a whole number of at least 1')),
  scratch: Schema.optionalKey(text('a path')),
  tensorboard: Schema.optionalKey(text('a path')),
  basis: Schema.optionalKey(
    Schema.Union([Schema.Boolean, Schema.Literal('dense')]).annotate({ expected: 'true, false or dense' }),
  ),
  energies: Schema.optionalKey(flag),
  core: Schema.optionalKey(flag),
  json: Schema.optionalKey(flag),
  quiet: Schema.optionalKey(flag),
});

export type RunOptions = typeof RunOptions.Type;
