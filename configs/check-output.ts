// May the run be written there? Not into, over or above what it reads, and not beside what somebody else left.
// Real paths are compared, so a link or a `..` changes nothing; the part of the output path that does not exist yet hangs
// off the real path of the part that does.
import { lstat, readdir, realpath } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { Effect } from 'effect';
import { SinkFailed } from '../sinks/errors.ts';
import { escapeControls } from '../sinks/terminal-text.ts';
import { ConfigInvalid } from './errors.ts';

const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

async function realOutput(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
    return join(await realOutput(dirname(path)), basename(path));
  }
}

/** Whether `inner` lies below `outer`; false for the same path. */
function isInside(inner: string, outer: string): boolean {
  const path = relative(outer, inner);
  return path !== '' && path !== '..' && !path.startsWith(`..${sep}`) && resolve(outer, path) === inner;
}

async function findOverlaps(out: string, realOut: string, sources: readonly string[]): Promise<readonly string[]> {
  const issues = new Set<string>();
  for (const source of sources) {
    // What does not exist is a glob, a list, standard input, or the sources' own error to report.
    const real = await realpath(source).catch(() => null);
    if (real === null) continue;
    const how =
      realOut === real ? 'is' : isInside(realOut, real) ? 'lies inside' : isInside(real, realOut) ? 'lies above' : null;
    if (how !== null)
      issues.add(
        `out: expected a folder apart from the sources, but ${escapeControls(out)} ${how} ${escapeControls(source)}`,
      );
  }
  return [...issues];
}

async function findOccupant(out: string): Promise<string | null> {
  try {
    const entries = await readdir(out);
    if (entries.length === 0) return null;
    const named = entries.sort().slice(0, 3).map(escapeControls).join(', ');
    return `expected a new or empty folder, found ${named}${entries.length > 3 ? ` and ${entries.length - 3} more` : ''}`;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') {
      const dangling = await lstat(out).catch(() => null);
      return dangling === null ? null : 'expected a new or empty folder, found a link to nowhere';
    }
    if (codeOf(error) === 'ENOTDIR') return 'expected a new or empty folder, found something that is no folder';
    throw error;
  }
}

/**
 * @param sources paths of the models, of their files, and of the arguments that named them; those that do not exist are
 *   passed over
 * Fails with ConfigInvalid when the output is, is inside or is above a source; SinkFailed `occupied` when something is
 * there already, `io` when the path cannot be looked at.
 */
export const checkOutput = (out: string, sources: readonly string[]): Effect.Effect<void, ConfigInvalid | SinkFailed> =>
  Effect.gen(function* () {
    const fail = (error: unknown) =>
      new SinkFailed({
        path: out,
        reason: codeOf(error) === 'ENOTDIR' ? 'occupied' : 'io',
        detail:
          codeOf(error) === 'ENOTDIR'
            ? 'expected a folder, but a part of its path is a file'
            : `cannot be looked at: ${codeOf(error) ?? String(error)}`,
      });
    const realOut = yield* Effect.tryPromise({ try: () => realOutput(resolve(out)), catch: fail });
    const issues = yield* Effect.promise(() => findOverlaps(out, realOut, sources));
    if (issues.length > 0) return yield* new ConfigInvalid({ issues });
    const occupant = yield* Effect.tryPromise({ try: () => findOccupant(realOut), catch: fail });
    if (occupant !== null) return yield* new SinkFailed({ path: out, reason: 'occupied', detail: occupant });
  });
