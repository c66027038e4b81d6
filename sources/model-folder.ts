// Finds the models in and below a folder. A folder is a model where it holds an index, a model.safetensors, or one safetensors
// file and no models below; then only its `checkpoint-*` folders are looked into as well. A folder with an adapter_config.json
// or an adapter_model.safetensors is an adapter; below it are more, under names of their own (PEFT saves them so) or as
// checkpoints. Otherwise each safetensors file and each folder below is looked at, in byte order. Names that start with a dot (.git, .cache, ._model.safetensors) are skipped.
// Decided by names alone: nothing is opened. A folder met twice, as links in a circle do, is entered once. A repository of a
// Hugging Face cache is one of its snapshots, which is searched by the same rules, with links checked; those of data sets and
// spaces are passed over.
import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { byteOrder } from './byte-order.ts';
import { displayName } from './display-name.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { realPathInside, unfinishedDownload } from './hub-links.ts';
import { type HubName, parseHubFolder } from './hub-name.ts';
import { chooseSnapshot, shortCommit } from './hub-snapshot.ts';
import { type FolderContent, list } from './list-folder.ts';
import { reading } from './regular-file.ts';
import { isShardName } from './sharded-checkpoint.ts';
import { convertPickle } from './sniff.ts';

/** A model, or what was refused in its place. */
export type Found = {
  /** Below the folder that was searched, with `/`; empty for that folder itself. */
  readonly below: string;
  readonly path: string;
  /** What the model is called wherever it stands, for one of a cache. */
  readonly name?: string;
} & (
  | {
      readonly layout: 'file' | 'sharded' | 'adapter';
      readonly entry: string;
      /** {@link ModelLocation.repository} */
      readonly repository?: string;
    }
  | { readonly error: SourceMalformed | SourceUnavailable }
);

const maxDepth = 64;
const weights = '.safetensors';
const index = '.safetensors.index.json';
const adapterConfig = 'adapter_config.json';
const adapterWeights = `adapter_model${weights}`;
const pickle = /\.(?:bin|pt|pth|ckpt|pkl)$/i;

/** All models in a folder and below. */
export const findModels = (folder: string): Promise<readonly Found[]> => search(folder, '', { visited: new Set() }, 0);

/**
 * The models in a cached repository, `models--org--name`: those of the snapshot that is asked for.
 *
 * @returns none where there is no snapshot, or none with weights
 */
export async function findCachedModels(
  repository: string,
  asked: HubName,
  below = '',
  visited: Set<string> = new Set(),
): Promise<readonly Found[]> {
  const { id, revision } = asked;
  try {
    const snapshot = await chooseSnapshot(repository, asked);
    const found = snapshot === undefined ? [] : await search(snapshot.path, '', { visited, repository }, 0);
    if (snapshot === undefined || found.length === 0) return await refuseUnfinished(repository, id);
    const name = revision === undefined ? id : `${id}@${shortCommit(snapshot.commit)}`;
    const joined = (a: string, b: string): string => [a, b].filter((part) => part !== '').join('/');
    return found.map((one) =>
      checked({ ...one, below: joined(below, one.below), name: joined(name, one.below) }, repository),
    );
  } catch (error) {
    if (!(error instanceof SourceMalformed)) throw error;
    return [{ below, path: repository, name: revision === undefined ? id : `${id}@${revision}`, error }];
  }
}

/** Without weights there is no model, unless they are still to come: then it is missed, and not left out in silence. */
async function refuseUnfinished(repository: string, id: string): Promise<readonly never[]> {
  const unfinished = await unfinishedDownload(repository);
  if (unfinished === undefined) return [];
  const detail =
    `found no weights but ${displayName(unfinished)}, a download that never ended, expected safetensors; ` +
    `finish it with hf download ${id}`;
  throw new SourceMalformed({ path: repository, rule: 'unfinished-download', detail });
}

/** A model of a cache, or a refusal where the link that stands for its weights leads astray. */
function checked(found: Found, repository: string): Found {
  if ('error' in found) return found;
  try {
    realPathInside(found.entry, repository);
    return { ...found, repository };
  } catch (error) {
    if (!(error instanceof SourceMalformed || error instanceof SourceUnavailable)) throw error;
    return { below: found.below, path: found.path, name: found.name!, error };
  }
}

/** The model in one file, going by its name; none where the name is not one of weights. */
export function modelInFile(path: string): readonly Found[] {
  const name = basename(path);
  const refuse = (rule: string, detail: string): readonly Found[] => [
    { below: '', path, error: new SourceMalformed({ path, rule, detail }) },
  ];
  if (name === adapterWeights) return [{ below: '', path: dirname(path), layout: 'adapter', entry: path }];
  if (isShardName(name))
    return refuse('index-missing', 'found one shard of several, expected the folder that holds all');
  if (name.endsWith(weights)) return [{ below: '', path, layout: 'file', entry: path }];
  if (name.endsWith(index)) return [{ below: '', path: dirname(path), layout: 'sharded', entry: path }];
  return pickle.test(name) ? refuse('pickle', pickleDetail(name)) : [];
}

/** A name without the ending that all files of weights have. */
export const withoutEnding = (name: string): string => name.replace(/(?<=[^/])\.safetensors(?:\.index\.json)?$/, '');

const pickleDetail = (name: string): string => `found ${displayName(name)}, expected safetensors; ${convertPickle}`;

interface Walk {
  /** Real paths of the folders that were entered. */
  readonly visited: Set<string>;
  /** The repository of a cache that the walk must not leave; undefined in ordinary folders. */
  readonly repository?: string;
}

async function search(folder: string, below: string, walk: Walk, depth: number): Promise<readonly Found[]> {
  const { visited, repository } = walk;
  let content: FolderContent;
  try {
    const real = await (repository === undefined
      ? reading(folder, () => realpath(folder))
      : realPathInside(folder, repository));
    if (visited.has(real) || depth > maxDepth) return [];
    visited.add(real);
    content = await list(folder);
    const kept = repository === undefined && content.folders.includes('snapshots') ? parseHubFolder(folder) : undefined;
    if (kept?.isModel === false) return [];
    if (kept !== undefined) return await findCachedModels(folder, { id: kept.id, revision: undefined }, below, visited);
  } catch (error) {
    if (error instanceof SourceUnavailable || error instanceof SourceMalformed) return [{ below, path: folder, error }];
    throw error;
  }
  const { files, folders } = content;
  const isFolder = new Set(folders);
  const inside = async (names: readonly string[]): Promise<readonly Found[]> => {
    const found: Found[] = [];
    for (const name of names) {
      const path = join(folder, name);
      const nameBelow = below === '' ? name : `${below}/${name}`;
      if (isFolder.has(name)) {
        // Not as arguments of one push: a call takes about 100,000 of them.
        for (const below of await search(path, nameBelow, walk, depth + 1)) found.push(below);
      } else found.push({ below: withoutEnding(nameBelow), path, layout: 'file', entry: path });
    }
    return found;
  };
  const isCheckpoint = (name: string): boolean => name.startsWith('checkpoint-');
  const own = modelOf(folder, below, files);
  if (own !== undefined) {
    const more = isAdapter(files) ? await foldersOf(folder, folders, isAdapter, repository) : [];
    return [own, ...(await inside(folders.filter((name) => isCheckpoint(name) || more.includes(name))))];
  }

  const loose = files.filter((name) => name.endsWith(weights));
  if (loose.length === 1) {
    const others = await inside(folders.filter((name) => !isCheckpoint(name)));
    const checkpoints = await inside(folders.filter(isCheckpoint));
    if (others.length === 0) {
      return [{ below, path: folder, layout: 'file', entry: join(folder, loose[0]!) }, ...checkpoints];
    }
    const at = (found: Found): string => found.below.slice(below === '' ? 0 : below.length + 1);
    const all = [...(await inside(loose)), ...others, ...checkpoints];
    // Stable: what stands in one folder stays in the order in which it was found.
    return all.sort((a, b) => byteOrder(at(a).split('/')[0]!, at(b).split('/')[0]!));
  }
  const found = await inside([...loose, ...folders].sort(byteOrder));
  const pickled = files.find((name) => pickle.test(name));
  if (found.length > 0 || pickled === undefined) return found;
  return [
    {
      below,
      path: folder,
      error: new SourceMalformed({ path: folder, rule: 'pickle', detail: pickleDetail(pickled) }),
    },
  ];
}

/** Whether the names in a folder are those of an adapter's. */
const isAdapter = (files: readonly string[]): boolean =>
  files.some((name) => name === adapterConfig || name.startsWith('adapter_model.'));

/** Those folders whose files are of a kind; what cannot be listed is of none. */
async function foldersOf(
  folder: string,
  names: readonly string[],
  is: (files: readonly string[]) => boolean,
  repository: string | undefined,
): Promise<readonly string[]> {
  const found = await Promise.all(
    names.map(async (name) => {
      const path = join(folder, name);
      try {
        if (repository !== undefined) realPathInside(path, repository);
        return is((await list(path)).files) ? [name] : [];
      } catch (error) {
        if (error instanceof SourceUnavailable || error instanceof SourceMalformed) return [];
        throw error;
      }
    }),
  );
  return found.flat();
}

/** What makes the whole folder a model, or a refusal; undefined where its files stand for themselves. */
function modelOf(folder: string, below: string, files: readonly string[]): Found | undefined {
  const refuse = (rule: string, detail: string): Found => ({
    below,
    path: folder,
    error: new SourceMalformed({ path: folder, rule, detail }),
  });
  if (isAdapter(files)) {
    if (files.includes(adapterWeights))
      return { below, path: folder, layout: 'adapter', entry: join(folder, adapterWeights) };
    const pickled = files.find((name) => name.startsWith('adapter_model.') && pickle.test(name));
    if (pickled !== undefined) return refuse('pickle', pickleDetail(pickled));
    return refuse('adapter-missing', `found ${adapterConfig} without weights, expected ${adapterWeights} beside it`);
  }
  const indices = files.filter((name) => name.endsWith(index));
  const chosen = indices.includes(`model${index}`) ? `model${index}` : indices[0];
  if (chosen !== undefined && (indices.length === 1 || chosen === `model${index}`)) {
    return { below, path: folder, layout: 'sharded', entry: join(folder, chosen) };
  }
  if (indices.length > 1) return refuse('index-ambiguous', `found ${indices.length} index files, expected one`);
  if (files.includes(`model${weights}`))
    return { below, path: folder, layout: 'file', entry: join(folder, `model${weights}`) };
  const shard = files.find(isShardName);
  if (shard === undefined) return undefined;
  return refuse(
    'index-missing',
    `found shard ${displayName(shard)} without an index, expected model${index} beside it`,
  );
}
