// What a run is, written down before it starts: its configuration, and every model that it reads, as it was found. A resumed
// run reads exactly these models, whatever has come into their folders since, and refuses when one of them has changed.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join } from 'node:path';
import type { RunConfig } from '../configs/run-config.ts';
import type { DeviceInfo } from '../operators/devices/device.ts';
import type { EngineName } from '../operators/subspace.ts';
import { displayName } from '../sources/display-name.ts';
import type { ModelLocation } from '../sources/model.ts';
import { RunChanged } from './errors.ts';
import type { ModelInPlan, Plan, SkippedModel } from './plan.ts';

/** Of weightspan. */
export const { version } = createRequire(import.meta.url)('weightspan/package.json') as { readonly version: string };

/** A model whose header was read. */
export interface ListedModel {
  readonly id: number;
  readonly location: ModelLocation;
}

/** A model that is in the run. */
export interface UsedModel {
  readonly id: number;
  readonly fingerprint: string;
  /** When each of its files was last written, in milliseconds. */
  readonly written: readonly number[];
  /** sha256 of its contents, where `--verify` read them. */
  readonly content: string | null;
}

export interface Begin {
  readonly version: string;
  /** The engine is the one chosen. */
  readonly config: RunConfig & { readonly engine: EngineName };
  readonly engineReason: string | null;
  /** The one asked for, which decides how wide sides are treated; absent where an earlier version wrote this. */
  readonly engineAsked?: RunConfig['engine'];
  /** From where relative paths were meant. */
  readonly cwd: string;
  readonly device: DeviceInfo;
  readonly listed: readonly ListedModel[];
  readonly used: readonly UsedModel[];
  readonly base: (ListedModel & Pick<UsedModel, 'fingerprint' | 'written'>) | null;
  readonly skipped: readonly SkippedModel[];
  readonly slots: readonly { readonly name: string; readonly rows: number; readonly cols: number }[];
  /** How many of the models each run and extension of it added. */
  readonly generations: readonly number[];
  /** The runs whose states were merged into its first generation; null or absent where its models were read. */
  readonly origin?: readonly MergedRun[] | null;
}

/** A run that was merged into another, as run.json tells of it. */
export interface MergedRun {
  readonly run_id: string;
  readonly models: number;
  /** sha256 of the manifest whose state was taken. */
  readonly manifest: string;
  /** Its own. */
  readonly lineage: readonly unknown[];
}

export const beginOf = (plan: Plan, contents: ReadonlyMap<number, string>): Begin => ({
  version,
  config: { ...plan.config, engine: plan.engine },
  engineReason: plan.engineReason,
  engineAsked: plan.config.engine,
  cwd: process.cwd(),
  device: plan.device.info,
  listed: plan.listed,
  used: plan.models.map((model) => ({
    id: model.id,
    fingerprint: model.fingerprint,
    written: writtenAt(model),
    content: contents.get(model.id) ?? null,
  })),
  base:
    plan.base === null
      ? null
      : {
          id: plan.base.id,
          location: plan.base.location,
          fingerprint: plan.base.fingerprint,
          written: writtenAt(plan.base),
        },
  skipped: plan.skipped,
  slots: plan.slots.map(({ name, rows, cols }) => ({ name, rows, cols })),
  generations: plan.generations,
  origin: plan.origin,
});

/** The configuration as it was given. What did not say which engine was asked for is taken at its word. */
export const configAsked = ({ config, engineAsked, engineReason }: Begin): RunConfig => ({
  ...config,
  engine: engineAsked ?? (engineReason === null ? config.engine : 'auto'),
});

const writtenAt = ({ header }: ModelInPlan): readonly number[] => header.files.map(({ mtimeMs }) => mtimeMs);

export const contentsOf = ({ used }: Begin): ReadonlyMap<number, string> =>
  new Map(used.flatMap(({ id, content }) => (content === null ? [] : [[id, content] as const])));

/** The device that a run was begun on, where it decides the bits. */
export const deviceDifference = (begun: DeviceInfo, found: DeviceInfo): string | null => {
  const text = ({ name, library, version, kernel, chunk, panel, precision }: DeviceInfo): string =>
    `${name} (${library} ${version}, kernel ${kernel}, ${precision}, chunk ${chunk}, panel ${panel})`;
  return text(begun) === text(found) ? null : `begun on ${text(begun)}, found ${text(found)}`;
};

export const SOURCES_ADVICE =
  'results of changed weights would not be those of one run; put the models back as they were ' +
  '(--source-root OLD=NEW where they moved), or start over with another --out';

/**
 * Refuses a plan that is not what a run began with. A fingerprint does not see every byte, so a file that was written since
 * counts as changed, unless its owner says where it is now.
 * @param begin with its models where they stand now
 * @param roots by which they were found there
 * Throws `RunChanged`.
 */
export const checkUnchanged = (
  run: string,
  begin: Begin,
  plan: Pick<Plan, 'models' | 'base' | 'slots'>,
  roots: Roots,
): void => {
  const found = new Map(plan.models.map((model) => [model.id, model]));
  const differences: string[] = [];
  const compare = (
    { path, name }: ModelLocation,
    { fingerprint, written }: Pick<UsedModel, 'fingerprint' | 'written'>,
    model: ModelInPlan | null | undefined,
  ): void => {
    const difference =
      model == null
        ? 'it is not there any more'
        : model.fingerprint !== fingerprint
          ? `its files have changed (fingerprint ${model.fingerprint.slice(0, 12)}, expected ${fingerprint.slice(0, 12)})`
          : isVouchedFor(path, roots) || writtenAt(model).every((time, i) => time === written[i])
            ? null
            : `its files were written since the run began (if nothing but their dates changed: --source-root ${path}=${path})`;
    if (difference !== null) differences.push(`${displayName(name)}: ${difference}`);
  };
  const locations = new Map(begin.listed.map(({ id, location }) => [id, location]));
  for (const used of begin.used) compare(locations.get(used.id)!, used, found.get(used.id));
  if (begin.base !== null) compare(begin.base.location, begin.base, plan.base);
  const text = (slots: Begin['slots']): string[] => slots.map(({ name, rows, cols }) => `${name} ${rows} x ${cols}`);
  const slots = new Set(text(plan.slots));
  for (const slot of text(begin.slots))
    if (!slots.has(slot)) differences.push(`slot ${slot}: it is not there any more`);
  if (differences.length > 0) throw new RunChanged({ run, differences, advice: SOURCES_ADVICE });
};

const isVouchedFor = (path: string, roots: Roots): boolean =>
  roots.some(({ to }) => path === to || path.startsWith(to.endsWith('/') ? to : `${to}/`));

/** What a run is, with its models where they stand now. */
export const rooted = (begin: Begin, roots: Roots): Begin => ({
  ...begin,
  listed: begin.listed.map(({ id, location }) => ({ id, location: moved(location, begin.cwd, roots) })),
  base: begin.base === null ? null : { ...begin.base, location: moved(begin.base.location, begin.cwd, roots) },
});

type Roots = readonly { readonly from: string; readonly to: string }[];

/** The paths as they were meant, with their beginnings replaced, the longest rule first. */
const moved = (location: ModelLocation, cwd: string, roots: Roots): ModelLocation => {
  const longest = [...roots].sort((a, b) => b.from.length - a.from.length);
  const move = (path: string): string => {
    for (const { from, to } of longest) {
      if (path === from) return to;
      const below = from.endsWith('/') ? from : `${from}/`;
      if (path.startsWith(below)) return `${to.replace(/\/$/, '')}/${path.slice(below.length)}`;
    }
    // A relative path is meant from where the run was begun, unless it leads to something from here too.
    return isAbsolute(path) || existsSync(path) ? path : join(cwd, path);
  };
  const { repository } = location;
  return {
    ...location,
    path: move(location.path),
    entry: move(location.entry),
    ...(repository === undefined ? {} : { repository: move(repository) }),
  };
};
