// Names of models of the Hugging Face Hub, and the folders that the local cache keeps them in. Layout and rules are those of
// the Hub's "Local Cache" document: `models--org--name` below the cache, where ids are ASCII, hold no `--` and no `..`, and
// start and end with a letter, a digit or `_`. Decided by names alone: nothing is opened.
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';

/** What `org/name` or `org/name@revision` asks for. */
export interface HubName {
  readonly id: string;
  /** As given; undefined where none was asked for. */
  readonly revision: string | undefined;
}

const idPart = /^\w(?:[\w.-]{0,94}\w)?$/;
const revisionPart = /^[\w+@#%-][\w.+@#%-]*$/;

const isIdPart = (part: string): boolean => idPart.test(part) && !/--|\.\.|\.git$/.test(part);

/** Parses `org/name` and `org/name@revision`; undefined for what can only be a path. */
export function parseHubName(text: string): HubName | undefined {
  const [id = '', ...rest] = text.split('@');
  const parts = id.split('/');
  if (parts.length !== 2 || !parts.every(isIdPart) || text.endsWith('.safetensors')) return undefined;
  if (rest.length === 0) return { id, revision: undefined };
  const revision = rest.join('@');
  return isRevision(revision) ? { id, revision } : undefined;
}

/** A revision becomes a path below `refs/`: `refs/pr/1` is a name, `../x` and `/x` are not. */
const isRevision = (revision: string): boolean =>
  revision.length <= 200 && revision.split('/').every((part) => revisionPart.test(part) && !part.includes('..'));

/** The name of the folder that holds a model. */
export const hubFolderName = (id: string): string => `models--${id.replace('/', '--')}`;

/**
 * What a folder of the cache holds, going by its name; undefined for other folders. Ids from before there were organisations
 * have one part.
 */
export function parseHubFolder(folder: string): { readonly isModel: boolean; readonly id: string } | undefined {
  const [type, ...parts] = basename(resolve(folder)).split('--');
  if (parts.length < 1 || parts.length > 2 || !parts.every(isIdPart)) return undefined;
  if (type === 'models') return { isModel: true, id: parts.join('/') };
  return /^(?:datasets|spaces|kernels)$/.test(type!) ? { isModel: false, id: parts.join('/') } : undefined;
}

/** The folder of the cache, as the Hub's own tools choose it; a variable that is empty counts as unset. */
export function hubCache(env: Readonly<Record<string, string | undefined>>): string {
  const home = env.HOME || homedir();
  const expand = (path: string): string => path.replace(/^~(?=\/|$)/, () => home);
  if (env.HF_HUB_CACHE) return expand(env.HF_HUB_CACHE);
  if (env.HF_HOME) return join(expand(env.HF_HOME), 'hub');
  return join(expand(env.XDG_CACHE_HOME || join(home, '.cache')), 'huggingface/hub');
}
