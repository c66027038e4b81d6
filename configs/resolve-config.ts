// Flags over the config file over the defaults, and then the checks that no option can make alone. Everything wrong with
// either is reported at once.
import { resolve } from 'node:path';
import { Effect, Option, Result } from 'effect';
import { parseCheckpointEvery } from './checkpoint-every.ts';
import { type Decoded, decodeOptions } from './decode-options.ts';
import { ConfigInvalid } from './errors.ts';
import { defaultMemory } from './free-memory.ts';
import { loadConfig } from './load-config.ts';
import { parseMemorySize } from './memory-size.ts';
import type { RunConfig } from './run-config.ts';
import { modeNames, type RunOptions } from './schema.ts';
import { showValue } from './show-value.ts';
import { defaultThreads } from './thread-count.ts';

/** What holds where neither a flag nor the file says otherwise; memory and threads are asked of the machine. */
export const defaults = {
  engine: 'incremental',
  mode: ['models'],
  rank: 32,
  block: 32,
  seed: 0,
  passes: 1,
  center: true,
  lora: 'delta',
  onMismatch: 'skip-slot',
  onBadSource: 'error',
  verify: false,
  device: 'auto',
  precision: 'fp32',
  basis: true,
  energies: true,
  core: false,
  dropState: false,
} as const satisfies Partial<RunConfig>;

/** A run's configuration, and how its progress is to be shown. */
export interface ResolvedConfig {
  readonly config: RunConfig;
  readonly json: boolean;
  readonly quiet: boolean;
}

/** FROM=TO. */
export interface Rename {
  readonly from: string;
  readonly to: string;
}

/** @param name of the option, for the message; @param form of what it takes */
export function splitRule(name: string, rule: string, form: string, issues: string[]): readonly Rename[] {
  const at = rule.indexOf('=');
  // An empty TO cuts a prefix off; an empty FROM would match everything.
  if (at >= 1) return [{ from: rule.slice(0, at), to: rule.slice(at + 1) }];
  issues.push(`${name}: expected ${form}, found ${showValue(rule)}`);
  return [];
}

/** What is asked for with the core tensor is what it needs, where nothing else is said. */
const engineOf = ({ engine, core }: RunOptions): RunConfig['engine'] =>
  engine ?? (core === true ? 'exact' : defaults.engine);

const modesOf = ({ mode, core }: RunOptions): RunConfig['mode'] => {
  const modes = mode ?? (core === true ? modeNames : defaults.mode);
  return modeNames.filter((name) => modes.includes(name));
};

function findContradictions(options: RunOptions, renames: readonly Rename[]): readonly string[] {
  const issues: string[] = [];
  const excluded = new Set(options.exclude);
  for (const glob of new Set(options.include)) {
    if (excluded.has(glob)) issues.push(`exclude: contradicts include: both name ${showValue(glob)}`);
  }
  const targets = new Map<string, string>();
  for (const { from, to } of renames) {
    const earlier = targets.get(from);
    if (earlier !== undefined && earlier !== to) {
      issues.push(`rename: contradicts itself: ${showValue(from)} becomes ${showValue(earlier)} and ${showValue(to)}`);
    }
    targets.set(from, to);
  }
  const engine = engineOf(options);
  if (options.core === true && engine !== 'exact') {
    issues.push(
      `core: only the engine exact has the directions of all modes at once; give --engine exact, found engine ${engine}`,
    );
  }
  if (options.core === true && modesOf(options).length < modeNames.length) {
    issues.push(`core: needs all three modes; give --mode ${modeNames.join()}, found mode ${options.mode}`);
  }
  if (options.precision === 'tf32' && options.device !== 'cuda') {
    issues.push(
      `precision: tf32 is what tensor cores of NVIDIA cards do; give --device cuda, found device ${options.device ?? defaults.device}`,
    );
  }
  const mayBeExact = engine === 'exact' || engine === 'auto';
  if (mayBeExact && options['snapshot-every'] !== undefined) {
    issues.push(
      `snapshot-every: the engine exact has nothing to show before a slot is done; give another --engine, found engine ${engine}`,
    );
  }
  for (const option of ['seed', 'passes'] as const) {
    if (options[option] !== undefined && engine !== 'randomized')
      issues.push(`${option}: only the engine randomized has it; give --engine randomized, found engine ${engine}`);
  }
  const withoutModels = !modesOf(options).includes('models');
  const groupsBy = (options['group-by'] ?? []).length > 0;
  if (groupsBy && !mayBeExact) {
    issues.push(`group-by: only the engine exact can add slots up; give --engine exact, found engine ${engine}`);
  }
  if (groupsBy && withoutModels) {
    issues.push(`group-by: only in mode models do slots add up; found mode ${options.mode}`);
  }
  if (withoutModels && options['snapshot-every'] !== undefined) {
    issues.push(
      `snapshot-every: only mode models has something to show before a slot is done; found mode ${options.mode}`,
    );
  }
  if ((options.sources ?? []).filter((source) => source === '-').length > 1) {
    issues.push('sources: standard input (-) can be read once, found it twice');
  }
  return issues;
}

/**
 * @param flags what the command line says, undecoded; an absent flag is an absent key
 * @param command `run` needs --out, `plan` does not
 */
export const resolveConfig = (
  flags: Readonly<Record<string, unknown>>,
  configPath: string | null,
  command: 'plan' | 'run',
): Effect.Effect<ResolvedConfig, ConfigInvalid> =>
  Effect.gen(function* () {
    const fromFlags = decodeOptions(flags, '');
    const file =
      configPath === null
        ? Result.succeed<Decoded>({ options: {}, issues: [], wrong: new Set() })
        : yield* Effect.result(loadConfig(configPath));
    const fromFile = Result.isSuccess(file) ? file.success : null;
    const issues = [...(fromFile ?? Result.getFailure(file).pipe(Option.getOrThrow)).issues, ...fromFlags.issues];
    const options: RunOptions = { ...fromFile?.options, ...fromFlags.options };

    // A wrong option has been reported, and what an unreadable file would have said is not known: no second message.
    const isMissing = (option: 'sources' | 'out'): boolean =>
      fromFile !== null &&
      (options[option] ?? []).length === 0 &&
      !fromFile.wrong.has(option) &&
      !fromFlags.wrong.has(option);
    if (isMissing('sources')) {
      issues.push('sources: expected at least one model, folder, glob, @list or -, found nothing');
    }
    if (command === 'run' && isMissing('out')) {
      issues.push('out: expected the folder to write the run to (--out RUN), found nothing');
    }
    const rename = (options.rename ?? []).flatMap((rule, index) =>
      splitRule(`rename[${index}]`, rule, 'FROM=TO', issues),
    );
    issues.push(...findContradictions(options, rename));
    if (issues.length > 0) return yield* new ConfigInvalid({ issues });

    const core = options.core ?? defaults.core;
    const memory = options.memory === undefined ? null : parseMemorySize(options.memory);
    const config: RunConfig = {
      sources: options.sources ?? [],
      out: options.out ?? null,
      engine: engineOf(options),
      mode: modesOf(options),
      rank: options.rank ?? defaults.rank,
      block: options.block ?? defaults.block,
      seed: options.seed ?? defaults.seed,
      passes: (options.passes ?? defaults.passes) === 2 ? 2 : 1,
      base: options.base ?? null,
      center: options.center ?? defaults.center,
      shuffle: options.shuffle ?? null,
      include: options.include ?? [],
      exclude: options.exclude ?? [],
      groupBy: [...new Set(options['group-by'] ?? [])],
      rename,
      lora: options.lora ?? defaults.lora,
      family: options.family ?? [],
      onMismatch: options['on-mismatch'] ?? defaults.onMismatch,
      onBadSource: options['on-bad-source'] ?? defaults.onBadSource,
      verify: options.verify ?? defaults.verify,
      memory: memory ?? defaultMemory(),
      threads: options.threads ?? defaultThreads(),
      device: options.device ?? defaults.device,
      precision: options.precision ?? defaults.precision,
      basis: options.basis ?? defaults.basis,
      energies: options.energies ?? defaults.energies,
      core,
      checkpointEvery:
        options['checkpoint-every'] === undefined ? null : parseCheckpointEvery(options['checkpoint-every']),
      dropState: options['drop-state'] ?? defaults.dropState,
      snapshotEvery: options['snapshot-every'] ?? null,
      scratch: options.scratch ?? null,
      // Whole, because a run may be resumed from elsewhere.
      tensorboard: options.tensorboard === undefined ? null : resolve(options.tensorboard),
    };
    return { config, json: options.json ?? false, quiet: options.quiet ?? false };
  });
