// Chooses a snapshot of a cached repository: `snapshots/<commit>` holds the files of a revision, `refs/<name>` the commit that a
// branch or tag stood at. Refs come from strangers and become paths, so one is 40 hexadecimal digits or refused.
// Cost: a listing, and one read of 64 bytes where there is a choice.
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { displayName } from './display-name.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { realPathInside } from './hub-links.ts';
import type { HubName } from './hub-name.ts';
import { list } from './list-folder.ts';
import { readExactly, withRegularFile } from './regular-file.ts';

export interface Snapshot {
  readonly path: string;
  readonly commit: string;
}

const commitLength = 40;
const isCommit = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);
/** What Git asks of a shortened commit. */
const isPrefix = (text: string): boolean => /^[0-9a-f]{4,40}$/.test(text);

/** The first digits of a commit, as names and messages show it. */
export const shortCommit = (commit: string): string => commit.slice(0, 7);

/**
 * The snapshot that is asked for, or else the one of `main`, or the only one. Where its path really leads is the caller's to
 * check.
 *
 * @param repository the folder `models--org--name`
 * @returns undefined where the repository has no snapshots at all
 * @throws SourceMalformed where the choice is open or a ref is no commit, SourceUnavailable where the revision is not cached
 */
export async function chooseSnapshot(repository: string, asked: HubName): Promise<Snapshot | undefined> {
  const folder = join(repository, 'snapshots');
  const commits = await cachedCommits(repository);
  if (commits.length === 0) return undefined;
  const commit =
    asked.revision === undefined
      ? await defaultCommit(repository, asked.id, commits)
      : await commitOf(repository, { id: asked.id, revision: asked.revision }, commits);
  return { path: join(folder, commit), commit };
}

/** The commits that have a snapshot, in byte order. */
export async function cachedCommits(repository: string): Promise<readonly string[]> {
  return (await list(join(repository, 'snapshots'))).folders.filter(isCommit);
}

async function defaultCommit(repository: string, id: string, commits: readonly string[]): Promise<string> {
  if (commits.length === 1) return commits[0]!;
  const main = await readRef(repository, 'main');
  if (main !== undefined && commits.includes(main)) return main;
  const refs = main === undefined ? 'no refs/main' : `refs/main to name ${shortCommit(main)}, which is not cached`;
  throw new SourceMalformed({
    path: repository,
    rule: 'snapshot-ambiguous',
    detail: `found ${refs}, and the snapshots ${shown(commits)}, expected one; choose with ${id}@COMMIT`,
  });
}

async function commitOf(
  repository: string,
  { id, revision }: { readonly id: string; readonly revision: string },
  commits: readonly string[],
): Promise<string> {
  const named = isCommit(revision) ? revision : await readRef(repository, revision);
  const matching = commits.filter((commit) =>
    named === undefined ? isPrefix(revision) && commit.startsWith(revision) : commit === named,
  );
  if (matching.length === 1) return matching[0]!;
  if (matching.length > 1) {
    const detail = `found ${displayName(revision)} to start the snapshots ${shown(matching)}, expected one; give more digits`;
    throw new SourceMalformed({ path: repository, rule: 'snapshot-ambiguous', detail });
  }
  throw new SourceUnavailable({
    path: repository,
    detail:
      `found no revision ${displayName(revision)}, expected a branch, tag or commit that is cached ` +
      `(there are ${shown(commits)}); nothing is fetched here: hf download ${id} --revision ${revision}`,
  });
}

/** The commit that a branch or tag stood at when it was last asked for; undefined where it never was. */
async function readRef(repository: string, name: string): Promise<string | undefined> {
  const path = join(repository, 'refs', name);
  const isThere = await lstat(path).then(
    (stats) => !stats.isDirectory(),
    () => false,
  );
  if (!isThere) return undefined;
  realPathInside(path, repository);
  // Room for more than a commit, so that what is too long is seen to be.
  const text = withRegularFile(path, (file, { size }) =>
    readExactly(file, path, 0, Math.min(size, 64)).toString('latin1'),
  );
  const commit = text.replace(/\r?\n$/, '');
  if (isCommit(commit)) return commit;
  const found = `found ${displayName(text, commitLength)}${text.length === 64 ? ' and more' : ''}`;
  throw new SourceMalformed({ path, rule: 'ref', detail: `${found}, expected a commit of 40 hexadecimal digits` });
}

function shown(commits: readonly string[]): string {
  const first = commits.slice(0, 8).map(shortCommit).join(', ');
  return commits.length > 8 ? `${first} and ${commits.length - 8} more` : first;
}
