// Turns the arguments of a command into the models they name, in the order of folding: arguments as given, folders in byte
// order. Names are paths below the argument; where two would be the same, both get the argument as given in front. The same
// file under two names is one model. Nothing is opened but lists: broken models are found when their headers are read.
import { realpathSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, normalize, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setImmediate } from 'node:timers/promises';
import { Effect } from 'effect';
import { ConfigInvalid } from '../configs/errors.ts';
import { adapterConfigName } from './adapter-config.ts';
import { displayName, displayPath } from './display-name.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { expandGlob, globBase } from './expand-glob.ts';
import { isGlob } from './glob.ts';
import { type HubName, hubCache, hubFolderName, parseHubName } from './hub-name.ts';
import { cachedCommits } from './hub-snapshot.ts';
import { list } from './list-folder.ts';
import type { ModelLocation } from './model.ts';
import { type Found, findCachedModels, findModels, modelInFile, withoutEnding } from './model-folder.ts';
import { reading } from './regular-file.ts';

/** A model that was found but refused before its weights were looked at: a pickle, a shard without its index. */
export interface SkippedSource {
  readonly name: string;
  readonly source: string;
  readonly path: string;
  readonly error: SourceMalformed | SourceUnavailable;
}

export interface ResolvedSources {
  readonly models: readonly ModelLocation[];
  readonly skipped: readonly SkippedSource[];
}

export interface ResolveOptions {
  /** What `-` reads its list from; the process's own standard input if not given. */
  readonly stdin?: () => Promise<string>;
  /** The folder that relative paths start from; the process's own if not given. */
  readonly cwd?: string;
  /** Where the variables that place the Hugging Face cache are looked up; the process's own if not given. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

type SourceError = ConfigInvalid | SourceMalformed | SourceUnavailable;

/**
 * Finds the models that SOURCES name: model folders, folders of them, files, globs, `@list.txt`, `-`, and models of the
 * Hugging Face cache as `org/name` or `org/name@revision`.
 *
 * Fails with ConfigInvalid where an argument names no model, with SourceUnavailable where it does not exist, and with
 * SourceMalformed where a list is not text. What is refused model by model is returned in `skipped`.
 */
export const resolveSources = (
  args: readonly string[],
  options: ResolveOptions = {},
): Effect.Effect<ResolvedSources, SourceError> =>
  Effect.tryPromise({ try: () => resolveAll(args, options), catch: (cause) => cause }).pipe(
    Effect.catch((cause) => (isSourceError(cause) ? Effect.fail(cause) : Effect.die(cause))),
  );

const isSourceError = (cause: unknown): cause is SourceError =>
  cause instanceof ConfigInvalid || cause instanceof SourceMalformed || cause instanceof SourceUnavailable;

/** One path to look at, and how what stands there is to be named. */
interface Target {
  readonly source: string;
  /** As given; goes in front of names that would be the same. */
  readonly given: string;
  readonly path: string;
  readonly name: string;
  /** In front of the names of models below. */
  readonly prefix: string;
  readonly fromGlob: boolean;
  /** What was asked of the Hugging Face cache; the path is then that of its repository. */
  readonly cached?: HubName;
}

type Named = { readonly target: Target; readonly found: Found; readonly isFile: boolean; readonly name: string };

async function resolveAll(args: readonly string[], options: ResolveOptions): Promise<ResolvedSources> {
  if (args.length === 0) throw new ConfigInvalid({ issues: ['sources: expected at least one, found none'] });
  const issues: string[] = [];
  const all: Named[] = [];
  for (const argument of args) {
    const named: Named[] = [];
    const targets = await targetsOf(argument, options, issues);
    for (const target of targets) {
      const isFolder = (await reading(target.path, () => stat(target.path))).isDirectory();
      for (const found of isFolder ? await modelsInFolder(target) : modelInFile(target.path)) {
        const name = found.name ?? (found.below === '' ? target.name : target.prefix + found.below);
        named.push({ target, found, isFile: !isFolder, name });
      }
    }
    if (named.length === 0) {
      const what = targets.length === 0 ? 'nothing that it names' : 'no models';
      issues.push(`sources: ${displayName(argument)}: found ${what}, expected safetensors files or folders of them`);
    }
    for (const each of withoutLeftovers(named)) all.push(each);
  }
  if (issues.length > 0) throw new ConfigInvalid({ issues });
  return split(uniqueNames(await uniqueFiles(all)));
}

const modelsInFolder = ({ path, cached }: Target): Promise<readonly Found[]> =>
  cached === undefined ? findModels(path) : findCachedModels(path, cached);

async function targetsOf(argument: string, options: ResolveOptions, issues: string[]): Promise<readonly Target[]> {
  const at = (path: string): string => (options.cwd === undefined || isAbsolute(path) ? path : join(options.cwd, path));
  if (argument === '-') {
    const lines = await (options.stdin ?? (() => text(process.stdin)))();
    return await listed(lines, argument, at, options, issues);
  }
  if (argument.startsWith('@')) {
    const path = at(argument.slice(1));
    const bytes = await reading(path, () => readFile(path));
    const folder = dirname(path);
    return await listed(
      decode(bytes, path),
      argument,
      (line) => (isAbsolute(line) ? line : join(folder, line)),
      options,
      issues,
    );
  }
  if (isGlob(argument) && !(await exists(at(argument))))
    return await globbed(argument, argument, globBase(argument), at, issues);
  const path = at(argument);
  const cached = await cachedTarget(argument, argument, path, options);
  if (cached !== undefined) return [cached];
  const name = withoutEnding(basename(resolve(path))) || 'model';
  return [{ source: argument, given: argument, path, name, prefix: '', fromGlob: false }];
}

/** The repository in the Hugging Face cache that `org/name` means; undefined where it is a path, or can only be one. */
async function cachedTarget(
  source: string,
  given: string,
  path: string,
  { env = process.env, cwd = '.' }: ResolveOptions,
): Promise<Target | undefined> {
  const cached = parseHubName(given);
  if (cached === undefined || (await exists(path))) return undefined;
  const cache = resolve(cwd, hubCache(env));
  const repository = join(cache, hubFolderName(cached.id));
  if (!(await exists(join(repository, 'snapshots'))) || (await cachedCommits(repository)).length === 0)
    throw notCached(given, cached, cache);
  return { source, given, path: repository, name: cached.id, prefix: `${cached.id}/`, fromGlob: false, cached };
}

function notCached(given: string, { id, revision }: HubName, cache: string): SourceUnavailable {
  const download = `hf download ${id}${revision === undefined ? '' : ` --revision ${revision}`}`;
  const detail =
    `found no such file or folder, and no ${hubFolderName(id)} in the Hugging Face cache ${displayPath(cache)}; ` +
    `nothing is fetched here: if it is a model, get it with ${download}`;
  return new SourceUnavailable({ path: given, detail });
}

/** The lines of a list; names are the lines themselves where they lead below the list's folder. */
async function listed(
  lines: string,
  source: string,
  at: (path: string) => string,
  options: ResolveOptions,
  issues: string[],
): Promise<readonly Target[]> {
  const targets: Target[] = [];
  for (const line of lines.split('\n').map((raw) => raw.trim())) {
    if (line === '' || line.startsWith('#')) continue;
    if (isGlob(line) && !(await exists(at(line)))) {
      const base = leavesFolder(line) ? globBase(line) : '';
      const matched = await globbed(line, source, base, at, issues);
      if (matched.length === 0)
        issues.push(`sources: ${displayName(source)}: found nothing that matches ${displayName(line)}`);
      for (const target of matched) targets.push(target);
      continue;
    }
    const cached = await cachedTarget(source, line, at(line), options);
    if (cached !== undefined) {
      targets.push(cached);
      continue;
    }
    const short = leavesFolder(line) ? basename(resolve(at(line))) : normalize(line).replace(/\/$/, '');
    const name = withoutEnding(short === '.' ? basename(resolve(at(line))) : short) || 'model';
    const prefix = leavesFolder(line) || short === '.' ? '' : `${short}/`;
    targets.push({ source, given: line, path: at(line), name, prefix, fromGlob: false });
  }
  return targets;
}

const leavesFolder = (path: string): boolean => isAbsolute(path) || normalize(path).startsWith('..');

async function globbed(
  pattern: string,
  source: string,
  base: string,
  at: (path: string) => string,
  issues: string[],
): Promise<readonly Target[]> {
  const start = base === '' ? '' : join(base, '/');
  try {
    const matches = await expandGlob(pattern, at);
    return matches.map((path) => {
      const short = path.startsWith(start) ? path.slice(start.length) : '';
      const name = withoutEnding(short) || basename(resolve(at(path)));
      return { source, given: path, path: at(path), name, prefix: short === '' ? '' : `${short}/`, fromGlob: true };
    });
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    issues.push(`sources: ${displayName(pattern)}: ${cause.message}`);
    return [];
  }
}

function decode(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new SourceMalformed({
      path,
      rule: 'list',
      detail: 'found bytes that are not UTF-8, expected one source a line',
    });
  }
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** A glob over all files of a model matches what a model folder ignores too: pickles beside safetensors, shards beside their index. */
function withoutLeftovers(all: readonly Named[]): readonly Named[] {
  const good = new Set(all.filter(({ found }) => 'entry' in found).map(({ target }) => dirname(target.path)));
  return all.filter(({ target, found, isFile }) => {
    if ('entry' in found || found.error._tag !== 'SourceMalformed' || !isFile || !target.fromGlob) return true;
    const { rule } = found.error;
    return !((rule === 'pickle' || rule === 'index-missing') && good.has(dirname(target.path)));
  });
}

async function uniqueFiles(all: readonly Named[]): Promise<readonly Named[]> {
  const seen = new Set<string>();
  const kept: Named[] = [];
  for (const [i, named] of all.entries()) {
    // Synchronous, at 7 µs a file against some 100, but with a breath now and then for signals.
    if (i % 64 === 63) await setImmediate();
    const identity = await identityOf(named.found);
    if (seen.has(identity)) continue;
    seen.add(identity);
    kept.push(named);
  }
  return kept;
}

function realPath(path: string): string {
  try {
    return realpathSync.native(path);
  } catch {
    return path;
  }
}

/**
 * What makes two models the same: their real file; of an adapter also its config, which has the scale. Revisions in a cache
 * may share an index and no shard, so there all files count, and what was refused counts for each revision.
 */
async function identityOf(found: Found): Promise<string> {
  if ('error' in found) return `${realPath(found.path)} ${found.name ?? ''}`;
  if (found.layout === 'adapter')
    return [found.entry, join(dirname(found.entry), adapterConfigName)].map(realPath).join('\n');
  if (found.repository === undefined || found.layout === 'file') return realPath(found.entry);
  const shards = (await list(found.path)).files.filter((name) => name.endsWith('.safetensors'));
  return [found.entry, ...shards.map((name) => join(found.path, name))].map(realPath).join('\n');
}

function uniqueNames(all: readonly Named[]): readonly Named[] {
  const counts = new Map<string, number>();
  for (const { name } of all) counts.set(name, (counts.get(name) ?? 0) + 1);
  const taken = new Set<string>([...counts].filter(([, count]) => count === 1).map(([name]) => name));
  return all.map((named) => {
    if (counts.get(named.name) === 1) return named;
    const { given } = named.target;
    const full = named.found.below === '' ? withoutEnding(normalize(given)) : join(given, named.found.below);
    let name = full;
    for (let i = 2; taken.has(name); i++) name = `${full}#${i}`;
    taken.add(name);
    return { ...named, name };
  });
}

function split(all: readonly Named[]): ResolvedSources {
  const models: ModelLocation[] = [];
  const skipped: SkippedSource[] = [];
  for (const { name, target, found } of all) {
    const { source } = target;
    if ('error' in found) skipped.push({ name, source, path: found.path, error: found.error });
    else {
      const { path, layout, entry, repository } = found;
      models.push({ name, source, path, layout, entry, ...(repository === undefined ? {} : { repository }) });
    }
  }
  return { models, skipped };
}
