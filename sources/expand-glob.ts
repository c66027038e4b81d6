// Expands a glob over the file system, in byte order. Hidden names match only where the pattern's part starts with a dot, and
// links in a circle are followed once. Folders that cannot be listed match nothing.
import { readdir, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { byteOrder } from './byte-order.ts';
import { expandBraces, globMatcher, isGlob } from './glob.ts';

/** The folder that a glob starts from: its parts before the first that is a pattern. */
export function globBase(pattern: string): string {
  const parts = pattern.split('/');
  const fixed = parts.slice(0, parts.findIndex(isGlob));
  return fixed.length === 1 && fixed[0] === '' ? '/' : fixed.join('/');
}

/**
 * The files and folders that match.
 *
 * @param at turns a path below the pattern's own root into one to open
 * @returns paths as the pattern spells them
 */
export async function expandGlob(pattern: string, at: (path: string) => string): Promise<readonly string[]> {
  const found = new Set<string>();
  for (const alternative of expandBraces(pattern)) {
    const parts = alternative.split('/').filter((part, i) => part !== '' || i === 0);
    const seen = new Set<string>();
    if (parts[0] === '') await walk('/', parts, 1, at, seen, found);
    else await walk('', parts, 0, at, seen, found);
  }
  const inParts = (a: string, b: string): number => {
    const [left, right] = [a.split('/'), b.split('/')];
    const i = left.findIndex((part, k) => part !== right[k]);
    return i === -1 ? left.length - right.length : byteOrder(left[i]!, right[i] ?? '');
  };
  return [...found].sort(inParts);
}

async function walk(
  base: string,
  parts: readonly string[],
  i: number,
  at: (path: string) => string,
  seen: Set<string>,
  found: Set<string>,
): Promise<void> {
  const here = at(base === '' ? '.' : base);
  const real = await realpath(here).catch(() => undefined);
  const state = `${i} ${real}`;
  if (real === undefined || seen.has(state)) return;
  seen.add(state);
  const part = parts[i];
  if (part === undefined) {
    if (base !== '') found.add(base);
    return;
  }
  if (part === '**') {
    // At the end it stands for the folder, which is searched to its bottom anyway.
    await walk(base === '' ? '.' : base, parts, i + 1, at, seen, found);
    if (i === parts.length - 1) return;
    for (const name of await namesIn(here, part)) {
      const isFolder = await stat(join(here, name)).then(
        (stats) => stats.isDirectory(),
        () => false,
      );
      if (isFolder) await walk(join(base, name), parts, i, at, seen, found);
    }
    return;
  }
  if (!isGlob(part)) {
    await walk(join(base, part.replaceAll(/\\(.)/g, '$1')), parts, i + 1, at, seen, found);
    return;
  }
  const matches = globMatcher(part);
  for (const name of await namesIn(here, part)) {
    if (matches(name)) await walk(join(base, name), parts, i + 1, at, seen, found);
  }
}

async function namesIn(folder: string, part: string): Promise<readonly string[]> {
  const names = await readdir(folder).catch(() => []);
  return names.filter((name) => !name.startsWith('.') || part.startsWith('.')).sort(byteOrder);
}
