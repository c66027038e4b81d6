// The options that `plan` and `run` share. They are taken as text and decoded together by the config schema, so that all
// that is wrong with a command is said at once, in the same words as for a config file.
import { type Effect, Option } from 'effect';
import { Argument, Flag } from 'effect/cli';
import type { ConfigInvalid } from '../../configs/errors.ts';
import { type ResolvedConfig, resolveConfig } from '../../configs/resolve-config.ts';

const text = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.optional);

const list = (name: string, metavar: string, description: string) =>
  Flag.String(name).pipe(Flag.withMetavar(metavar), Flag.withDescription(description), Flag.atLeast(0));

const toggle = (name: string, description: string) =>
  Flag.Boolean(name).pipe(Flag.withDescription(description), Flag.optional);

export const sharedOptions = {
  sources: Argument.String('SOURCES').pipe(
    Argument.withDescription(
      'model folders, folders of them, .safetensors files, globs, @list.txt, or - for a list on stdin',
    ),
    Argument.variadic(),
  ),
  rank: text('rank', 'K', 'directions to report for each slot; the state keeps twice as many (default 32)'),
  block: text('block', 'B', 'models folded at once (default 32)'),
  base: text('base', 'MODEL', 'the model that sets the origin, e.g. the pretrained one; it is not folded'),
  center: toggle(
    'center',
    'subtract the mean over models; --no-center measures scatter about the origin (default true)',
  ),
  shuffle: text('shuffle', 'SEED', 'fold the models in a seeded random order instead of the order given'),
  include: list('include', 'GLOB', 'only slots whose name matches; may be given several times'),
  exclude: list('exclude', 'GLOB', 'leave slots out whose name matches; may be given several times'),
  rename: list('rename', 'FROM=TO', 'replace the beginning FROM of slot names by TO; may be given several times'),
  'on-mismatch': text(
    'on-mismatch',
    'RULE',
    'where models disagree on a slot: skip-slot (default), skip-model or error',
  ),
  'on-bad-source': text('on-bad-source', 'RULE', 'a malformed or unreadable model: error (default) or skip'),
  verify: toggle('verify', 'read all weights once beforehand: all or nothing'),
  memory: text(
    'memory',
    'SIZE',
    'memory for weights and state, e.g. 4GiB (default: the smaller of 4 GiB and half of what is free)',
  ),
  threads: text('threads', 'N', 'worker threads (default: the cores this process may use)'),
  device: text('device', 'NAME', 'who multiplies: auto (default), blas or tfjs'),
  basis: toggle('basis', 'write basis and mean files; --no-basis leaves them out (default true)'),
  config: text('config', 'FILE.yaml', 'a config file; flags override it'),
  json: toggle('json', 'JSON on stdout and nothing else'),
} as const;

type Given = Readonly<Record<string, unknown>>;

/** A number where the text is one; the schema says what is wrong with the rest. */
const numeric = new Set(['rank', 'block', 'shuffle', 'threads']);

const asNumber = (value: string): string | number => (/^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value);

/** Flags as the schema takes them: what was not given is absent. */
export const resolveOptions = (given: Given, command: 'plan' | 'run'): Effect.Effect<ResolvedConfig, ConfigInvalid> => {
  const flags: Record<string, unknown> = {};
  let config: string | null = null;
  for (const [name, value] of Object.entries(given)) {
    const plain = Option.isOption(value) ? Option.getOrUndefined(value as Option.Option<unknown>) : value;
    if (plain === undefined || (Array.isArray(plain) && plain.length === 0)) continue;
    if (name === 'config') config = String(plain);
    else flags[name] = numeric.has(name) ? asNumber(String(plain)) : plain;
  }
  return resolveConfig(flags, config, command);
};
