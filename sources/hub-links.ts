// Where the links of a cached repository lead. Files of a snapshot are links into the `blobs/` beside it, so links are followed
// inside the repository's own folder, and nowhere else: a cache may come from a stranger, as an archive does.
import { realpathSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { displayName } from './display-name.ts';
import { SourceMalformed } from './errors.ts';
import { readingNow } from './regular-file.ts';

const unfinished = '.incomplete';

/**
 * The real path of a file or folder in a cached repository.
 *
 * @param repository the folder `models--org--name`
 * @throws SourceMalformed where a link leads out of the repository, to nothing, or to a download that never ended
 */
export function realPathInside(path: string, repository: string): string {
  const home = readingNow(repository, () => realpathSync.native(repository));
  const real = readingNow(path, () => realPathOf(path));
  if (real !== home && !real.startsWith(home + sep)) throw escapes(path, real, home);
  if (real.endsWith(unfinished)) {
    const detail = `found a link to ${displayName(basename(real))}, a download that never ended, expected a whole file; download it again`;
    throw new SourceMalformed({ path, rule: 'unfinished-download', detail });
  }
  return real;
}

function realPathOf(path: string): string {
  try {
    return realpathSync.native(path);
  } catch (cause) {
    return dangling(path, cause as NodeJS.ErrnoException);
  }
}

function dangling(path: string, cause: NodeJS.ErrnoException): never {
  if (cause.code !== 'ENOENT') throw cause;
  const detail =
    'found a link to a file that is not there, expected one in blobs (a download that never ended?); download it again';
  throw new SourceMalformed({ path, rule: 'link-dangling', detail });
}

function escapes(path: string, real: string, home: string): SourceMalformed {
  const expected = `expected one that stays in ${displayName(basename(home))}`;
  // Newer tools of the Hub keep weights once for all repositories.
  const isShared = real.startsWith(join(dirname(home), 'blobs') + sep);
  const detail = isShared
    ? `found a link into the blobs that all repositories share, ${expected}; ` +
      'delete the repository from the cache and download it again with HF_HUB_DISABLE_SHARED_BLOBS=1'
    : `found a link out of the repository's folder, ${expected}`;
  return new SourceMalformed({ path, rule: 'link-escapes', detail });
}

/** The first download into the repository that never ended; undefined where all did, or there are no blobs. */
export async function unfinishedDownload(repository: string): Promise<string | undefined> {
  const names = await readdir(join(repository, 'blobs')).catch(() => []);
  return names.filter((name) => name.endsWith(unfinished)).sort()[0];
}
