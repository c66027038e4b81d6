// The options that `plan` and `run` share. Every value is taken as text and checked by the schema of configs/, so that the
// mistakes of the command line and of a config file come in one message, in the same words.
import { Option } from 'effect';
import { Argument, Flag } from 'effect/cli';
import { defaults } from '../../configs/resolve-config.ts';
import { deviceChoices } from '../../operators/devices/device-choice.ts';

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.optional);

export const repeatable = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(
    Flag.withMetavar(metavar),
    Flag.withDescription(`${description} (repeatable)`),
    Flag.atLeast(0),
  );

// Without the optional value the parser would take a source called `1` or `on` that follows for the flag's value.
const flag = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withOptionalValue('true'), Flag.withDescription(description));

// --no-verify takes back what a config file says.
export const on = (name: string, description: string) => flag(name, description).pipe(Flag.optional);

// The flag people type is the negated one, so help shows that one; --center takes back what a config file says.
export const off = (name: string, description: string) =>
  flag(`no-${name}`, description).pipe(Flag.withNegation(name), Flag.optional);

export const sources = Argument.String('SOURCES').pipe(
  Argument.withDescription(
    'Model folders, folders of them, .safetensors files, globs, org/name[@revision] (in the Hugging Face cache), @list.txt (one a line), or - (the same on standard input)',
  ),
  Argument.variadic(),
);

export const options = {
  sources,
  out: text('out', 'RUN', 'Folder to write the run to: new or empty, and apart from the sources'),
  engine: text(
    'engine',
    'NAME',
    `How subspaces are found: incremental, frequent-directions, randomized, exact or auto (default ${defaults.engine})`,
  ),
  mode: text(
    'mode',
    'LIST',
    `What the samples are: models, rows, cols, or several with commas between (default ${defaults.mode.join()})`,
  ),
  rank: text('rank', 'K', `Components to keep of each slot, at most (default ${defaults.rank})`),
  block: text('block', 'B', `Models folded at a time, 1 to 4096 (default ${defaults.block})`),
  seed: text('seed', 'N', `What the engine randomized draws its signs from (default ${defaults.seed})`),
  passes: text('passes', 'N', `Passes over the weights of the engine randomized, 1 or 2 (default ${defaults.passes})`),
  base: text('base', 'MODEL', 'Model that sets the origin; it is not folded'),
  noCenter: off('center', 'Keep the mean: the subspace through the origin, not through the mean'),
  shuffle: text('shuffle', 'SEED', 'Fold the models in an order drawn from this seed (default: as given)'),
  include: repeatable('include', 'GLOB', 'Only slots whose names match'),
  exclude: repeatable('exclude', 'GLOB', 'No slots whose names match'),
  groupBy: repeatable('group-by', 'GLOB', 'Also the spectrum of all slots whose names match, as one (engine exact)'),
  rename: repeatable('rename', 'FROM=TO', 'Change a part of the slot names'),
  lora: text(
    'lora',
    'WHAT',
    `Of LoRA adapters: delta, the change of each weight, or factors, A and B as they are (default ${defaults.lora})`,
  ),
  family: repeatable(
    'family',
    'GLOB',
    'Only models of these families, checkpoint or adapter:BASE; several bases together count as one',
  ),
  onMismatch: text(
    'on-mismatch',
    'WHAT',
    `Where models disagree on a slot: skip-slot, skip-model or error (default ${defaults.onMismatch})`,
  ),
  onBadSource: text(
    'on-bad-source',
    'WHAT',
    `Where a model cannot be used: error or skip (default ${defaults.onBadSource})`,
  ),
  verify: on('verify', 'Read and check all weights once before folding any'),
  memory: text('memory', 'SIZE', 'Memory budget, e.g. 512MiB or 4GiB (default: 4GiB, or half of what is free if less)'),
  threads: text('threads', 'N', 'Worker threads (default: what affinity and the control group allow)'),
  device: text('device', 'NAME', `Who multiplies: ${deviceChoices.join(', ')} (default ${defaults.device})`),
  precision: text(
    'precision',
    'WHAT',
    `Of products on device cuda: fp32, or tf32, which is faster and has 10 bits of mantissa (default ${defaults.precision})`,
  ),
  checkpointEvery: text(
    'checkpoint-every',
    'N|TIME',
    'Write a checkpoint after so many models, or such a time, e.g. 10m (default: as often as costs 5% of the time)',
  ),
  dropState: on('drop-state', 'Keep no state of what is finished: less disk, and no `weightspan extend` later'),
  snapshotEvery: text(
    'snapshot-every',
    'N',
    'Write the tables so far after every N blocks, into snapshots/ (default: never)',
  ),
  scratch: text('scratch', 'DIR', 'Folder for slots too large for the memory (default: in the run folder)'),
  tensorboard: text(
    'tensorboard',
    'DIR',
    "Write TensorBoard event files while the run goes on, into DIR/ and the run's name",
  ),
  noBasis: on('no-basis', 'Leave out the basis and mean files, the largest part of a run'),
  basis: text('basis', 'dense', 'Write the directions of adapters out also in engine exact, each as large as a weight'),
  noEnergies: off('energies', 'Leave out energies.parquet of modes rows and cols, and the second pass for it'),
  core: on(
    'core',
    'Also core.parquet with the energy kept at multilinear ranks (HOSVD); asks for --engine exact --mode models,rows,cols',
  ),
  config: text('config', 'FILE.yaml', 'Take options from a file; flags override it'),
  json: on('json', 'Newline-delimited JSON on standard output, and nothing else there'),
  quiet: on('quiet', 'Errors and one line at the end, no progress'),
};

type Given<Value> = Option.Option<Value>;

/** What the command line said, as the parser hands it over. */
export interface Flags {
  readonly sources: readonly string[];
  readonly out: Given<string>;
  readonly engine: Given<string>;
  readonly mode: Given<string>;
  readonly rank: Given<string>;
  readonly block: Given<string>;
  readonly seed: Given<string>;
  readonly passes: Given<string>;
  readonly base: Given<string>;
  readonly noCenter: Given<boolean>;
  readonly shuffle: Given<string>;
  readonly include: readonly string[];
  readonly exclude: readonly string[];
  readonly groupBy: readonly string[];
  readonly rename: readonly string[];
  readonly lora: Given<string>;
  readonly family: readonly string[];
  readonly onMismatch: Given<string>;
  readonly onBadSource: Given<string>;
  readonly verify: Given<boolean>;
  readonly memory: Given<string>;
  readonly threads: Given<string>;
  readonly device: Given<string>;
  readonly precision: Given<string>;
  readonly checkpointEvery: Given<string>;
  readonly dropState: Given<boolean>;
  readonly snapshotEvery: Given<string>;
  readonly scratch: Given<string>;
  readonly tensorboard: Given<string>;
  readonly noBasis: Given<boolean>;
  readonly basis: Given<string>;
  readonly noEnergies: Given<boolean>;
  readonly core: Given<boolean>;
  readonly config: Given<string>;
  readonly json: Given<boolean>;
  readonly quiet: Given<boolean>;
}

/** What --json says before the config file has been read, or could be. */
export const wantsJson = (flags: Flags): boolean => Option.getOrElse(flags.json, () => false);

/** A plain number as one; anything else stays text, for the schema to refuse in its words. */
const asNumber = (value: string): string | number => (/^-?\d{1,15}(\.\d{1,15})?$/.test(value) ? Number(value) : value);

const listed = (values: readonly string[] = []): readonly string[] | undefined =>
  values.length > 0 ? values : undefined;

const basisOf = (text: string | undefined): string | boolean | undefined =>
  text === 'true' ? true : text === 'false' ? false : text;

/** Only what was said, under the names a config file uses. */
export function givenOptions(flags: Partial<Flags>): Readonly<Record<string, unknown>> {
  const plain = <V>(value: Given<V> = Option.none()) => Option.getOrUndefined(value);
  const number = (value: Given<string> = Option.none()) => Option.getOrUndefined(Option.map(value, asNumber));
  const not = (value: Given<boolean> = Option.none()) => Option.getOrUndefined(Option.map(value, (given) => !given));
  const given: Record<string, unknown> = {
    sources: listed(flags.sources),
    out: plain(flags.out),
    engine: plain(flags.engine),
    mode: plain(flags.mode)?.split(','),
    rank: number(flags.rank),
    block: number(flags.block),
    seed: number(flags.seed),
    passes: number(flags.passes),
    base: plain(flags.base),
    center: not(flags.noCenter),
    shuffle: number(flags.shuffle),
    include: listed(flags.include),
    exclude: listed(flags.exclude),
    'group-by': listed(flags.groupBy),
    rename: listed(flags.rename),
    lora: plain(flags.lora),
    family: listed(flags.family),
    'on-mismatch': plain(flags.onMismatch),
    'on-bad-source': plain(flags.onBadSource),
    verify: plain(flags.verify),
    memory: number(flags.memory),
    threads: number(flags.threads),
    device: plain(flags.device),
    precision: plain(flags.precision),
    'checkpoint-every': number(flags.checkpointEvery),
    'drop-state': plain(flags.dropState),
    'snapshot-every': number(flags.snapshotEvery),
    scratch: plain(flags.scratch),
    tensorboard: plain(flags.tensorboard),
    basis: not(flags.noBasis) ?? basisOf(plain(flags.basis)),
    energies: not(flags.noEnergies),
    core: plain(flags.core),
    json: plain(flags.json),
    quiet: plain(flags.quiet),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}
