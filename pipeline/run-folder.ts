// The run folder while a run writes it: everything goes under temporary names or into folders that no reader looks at
// before run.json, which is written last and says that the rest is whole.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { RunConfig } from '../configs/run-config.ts';
import type { EngineName } from '../operators/subspace.ts';
import { nodeDisk } from '../sinks/disk.ts';
import { sinkFailure, writeJsonDurably } from '../sinks/durable-file.ts';
import { openTable } from '../sinks/parquet-table.ts';
import { SCHEMA_VERSION, tables } from '../sinks/tables.ts';
import { TILE_WIDTH } from '../sources/tile.ts';
import { basisFolders } from './basis-writer.ts';
import type { ModelInPlan, Plan } from './plan.ts';
import { groupsInOrder } from './plan-figures.ts';

/** Where checkpoints stand in a run folder. */
export const CHECKPOINTS = 'checkpoints';

/** What a run's timings table holds of one block. */
export interface BlockTiming {
  readonly group: number;
  readonly block: number;
  readonly models_seen: number;
  readonly seconds: number;
  readonly bytes: number;
  readonly read_s: number;
  readonly wait_s: number;
  readonly widen_s: number;
  readonly gram_s: number;
  readonly mix_s: number;
  readonly write_s: number;
}

/** Where a run's results stand while it goes on: an extension's take the place of those before when they are whole. */
export const resultsFolder = (out: string, { generations }: Pick<Plan, 'generations'>): string =>
  generations.length > 1 ? join(out, CHECKPOINTS, 'next') : out;

/** Gives an extension's results their places. May be done again from wherever it was interrupted. Throws `SinkFailed`. */
export const publishResults = (out: string, plan: Pick<Plan, 'generations'>): void => {
  const from = resultsFolder(out, plan);
  if (from === out || !existsSync(from)) return;
  try {
    const files = readdirSync(from, { recursive: true, encoding: 'utf8' }).filter((file) =>
      statSync(join(from, file)).isFile(),
    );
    // run.json last: it says that the rest is whole.
    for (const file of files.sort((a, b) => Number(a === 'run.json') - Number(b === 'run.json') || (a < b ? -1 : 1)))
      renameSync(join(from, file), join(out, file));
    for (const folder of new Set(files.map((file) => dirname(join(out, file))))) nodeDisk.syncFolder(folder);
    rmSync(from, { recursive: true });
  } catch (cause) {
    throw sinkFailure(out, 'putting the new tables in place of the old ones', cause);
  }
};

/** Makes the folder and those inside it. Throws `SinkFailed`. */
export const createRunFolder = (out: string, config: RunConfig): void => {
  try {
    for (const folder of [CHECKPOINTS, 'spill', ...(config.basis !== false ? basisFolders(config.center) : [])]) {
      makeFolder(join(out, folder));
    }
  } catch (cause) {
    throw sinkFailure(out, 'creating the run folder', cause);
  }
};

/** As `mkdir -p`, with the true cause where it fails: Node says ENOENT of a file system that is read-only. */
const makeFolder = (path: string): void => {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  try {
    mkdirSync(path);
  } catch (cause) {
    // Made by a run that began at the same time: the lease says which of them goes on.
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw cause;
  }
};

/**
 * A folder of its own for the rows of slots too large for the memory: in the run folder, or below `--scratch`.
 * Throws `SinkFailed`.
 */
export const createScratch = (out: string, { scratch }: RunConfig): string => {
  try {
    if (scratch !== null) return mkdtempSync(join(scratch, 'weightspan-'));
    const folder = join(out, 'spill');
    // An extension finds a run folder whose own is gone.
    mkdirSync(folder, { recursive: true });
    return folder;
  } catch (cause) {
    throw sinkFailure(scratch ?? out, 'creating a folder for slots too large for the memory', cause);
  }
};

export const removeScratch = (folder: string): void => rmSync(folder, { recursive: true, force: true });

export const removeSpill = (out: string): void => removeScratch(join(out, 'spill'));

/**
 * Takes away what a run made before it failed, so that the same command can be given again: the folder was new or empty
 * when the run began. What somebody else put there since stays, and with it the folder.
 */
export const discardRunFolder = (out: string): void => {
  const names = [...Object.keys(tables).map((name) => `${name}.parquet`), 'run.json', 'events.ndjson'];
  for (const name of [CHECKPOINTS, 'spill', 'snapshots', 'basis', 'mean', ...names])
    rmSync(join(out, name), { recursive: true, force: true });
  try {
    rmdirSync(out);
  } catch {
    // Not empty, or the root of a file system: it stays.
  }
};

/** What decides a result, and so belongs into its hash; memory, threads and where things stand do not. */
const resultConfig = (engine: EngineName, config: RunConfig) => {
  const { mode, rank, block, seed, passes, base, center, shuffle, include, exclude, rename } = config;
  const { lora, family, onMismatch, groupBy, basis, core } = config;
  return {
    engine,
    mode,
    rank,
    block,
    ...(engine === 'randomized' ? { seed, passes } : {}),
    base,
    center,
    shuffle,
    include,
    exclude,
    rename,
    lora,
    family,
    onMismatch,
    groupBy,
    // The way in which adapters are multiplied, and sides that are too wide to be kept whole.
    ...(basis === 'dense' ? { basis } : {}),
    ...(core ? { core } : {}),
    ...(config.precision === 'tf32' ? { precision: config.precision } : {}),
    ...(mode.some((name) => name !== 'models') ? { wholeSides: config.engine === 'exact' } : {}),
  };
};

const sha256 = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex');

export const writeSlots = (out: string, plan: Plan): void => {
  const table = openTable(out, 'slots');
  for (const { id, name, rows, cols, shape, dtypes } of plan.slots) {
    table.append({
      slot_id: id,
      name,
      rows,
      cols,
      original_shape: JSON.stringify(shape),
      dtypes: dtypes.join(','),
      // Groups follow --memory, and tables do not: run.json has them.
      group: null,
      models: plan.models.length,
      status: 'used',
      reason: null,
    });
  }
  plan.leftOut.forEach(({ name, shape, dtypes, models, reason }, i) => {
    table.append({
      slot_id: plan.slots.length + i,
      name,
      rows: null,
      cols: null,
      original_shape: JSON.stringify(shape),
      dtypes: dtypes.join(','),
      group: null,
      models,
      status: 'left-out',
      reason,
    });
  });
  for (const { id, name, slots } of plan.sums) {
    table.append({
      slot_id: id,
      name,
      rows: null,
      cols: null,
      original_shape: null,
      dtypes: null,
      group: null,
      models: plan.models.length,
      status: 'sum',
      reason: `${slots.length} slots as one`,
    });
  }
  table.close();
};

/** The generation of the last model that is no later than this one. */
const generationOf = ({ models, generations, base }: Plan, id: number): number => {
  if (id === base?.id) return 0;
  let end = 0;
  for (const [generation, added] of generations.entries()) {
    end += added;
    if (id <= (models[end - 1]?.id ?? -1)) return generation;
  }
  return generations.length - 1;
};

export const writeModels = (
  out: string,
  plan: Plan,
  contents: ReadonlyMap<number, string>,
  duplicates: ReadonlyMap<number, number>,
  seedGroupOf: (id: number) => string | null,
): void => {
  const table = openTable(out, 'models');
  const blank = { base_model: null, seed_group: null, duplicate_of: null } as const;
  const used = (model: ModelInPlan, role: string) => ({
    ...blank,
    model_id: model.id,
    name: model.name,
    source: model.location.source,
    kind: model.header.adapter === undefined ? 'checkpoint' : 'adapter',
    base_model: model.header.adapter?.baseModel ?? null,
    role,
    generation: generationOf(plan, model.id),
    status: 'used',
    reason: null,
    fingerprint: model.fingerprint,
    content_sha256: contents.get(model.id) ?? null,
    bytes: model.bytes,
    seed_group: seedGroupOf(model.id),
    duplicate_of: duplicates.get(model.id) ?? null,
  });
  const skipped = plan.skipped.map(({ id, name, source, kind, reason }) => ({
    ...blank,
    model_id: id,
    name,
    source,
    kind: kind ?? null,
    role: 'fold',
    generation: generationOf(plan, id),
    status: 'skipped',
    reason,
    fingerprint: null,
    content_sha256: null,
    bytes: null,
  }));
  const rows = [...plan.models.map((model) => used(model, 'fold')), ...skipped];
  if (plan.base !== null) rows.push(used(plan.base, 'base'));
  for (const row of rows.sort((a, b) => a.model_id - b.model_id)) table.append(row);
  table.close();
};

export const writeTimings = (out: string, timings: readonly BlockTiming[]): void => {
  const table = openTable(out, 'timings');
  for (const timing of timings) table.append(timing);
  table.close();
};

/** What is subtracted from every model, for accuracy alone. */
const shiftOf = ({ base, config, engine, slots }: Plan): string => {
  if (base !== null) return 'base';
  if (!config.center || slots.every(({ isDelta }) => isDelta === true)) return 'zero';
  return engine === 'exact' ? 'mean' : 'first-block-mean';
};

/**
 * run.json, the last file of a run.
 * @param inexact what was allowed to differ when the run was resumed
 */
export const writeRunJson = (out: string, plan: Plan, inexact: readonly string[]): void => {
  const { config, device } = plan;
  const decisive = resultConfig(plan.engine, config);
  const runIdOf = (models: number): string => {
    const all = [...plan.models.slice(0, models), ...(plan.base === null ? [] : [plan.base])];
    const merged = plan.origin === null ? {} : { merged: plan.origin.map(({ run_id }) => run_id) };
    return sha256({ decisive, fingerprints: all.map((model) => model.fingerprint), ...merged }).slice(0, 16);
  };
  const first = plan.origin === null ? { operation: 'run' } : { operation: 'merge', of: plan.origin };
  const ends = plan.generations.map((_, i) => plan.generations.slice(0, i + 1).reduce((a, b) => a + b, 0));
  const runId = runIdOf(plan.models.length);
  writeJsonDurably(join(out, 'run.json'), {
    schema_version: SCHEMA_VERSION,
    run_id: runId,
    status: 'finished',
    lineage: ends.map((models, i) => ({
      run_id: runIdOf(models),
      ...(i === 0 ? first : { operation: 'extend' }),
      models,
      manifest: null,
    })),
    inexact,
    config: { ...config, engine: plan.engine },
    config_hash: sha256(decisive),
    device: {
      name: device.info.name,
      library: device.info.library,
      version: device.info.version,
      kernel: device.info.kernel,
      precision: device.info.precision,
    },
    tile_width: TILE_WIDTH,
    chunk_width: device.info.chunk,
    groups: groupsInOrder(plan).map(({ group }) => group.slots.map(({ id }) => id)),
    shift: shiftOf(plan),
    order: plan.models.map(({ id }) => id),
    sources: config.sources,
  });
};
