// Is there room for what the plan will write? Asked of the file system before the work starts: hours later would be late.
import { statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Effect } from 'effect';
import { SinkFailed } from '../sinks/errors.ts';
import { formatBytes } from '../sinks/human-format.ts';

/** The parts of the path that do not exist yet will stand on the file system of the part that does. */
async function freeBytes(path: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!missing || dirname(path) === path) throw error;
    return freeBytes(dirname(path));
  }
}

/**
 * @param bytes what the run will write
 * Fails with SinkFailed `no-space` when less is free. A file system that does not say is believed to have room.
 */
export const checkFreeSpace = (out: string, bytes: number): Effect.Effect<void, SinkFailed> =>
  Effect.gen(function* () {
    const free = yield* Effect.promise(() => freeBytes(resolve(out)).catch(() => Number.POSITIVE_INFINITY));
    if (free >= bytes) return;
    const detail = `needs ${formatBytes(bytes)}, and ${formatBytes(free)} are free; --no-basis writes the least`;
    return yield* new SinkFailed({ path: out, reason: 'no-space', detail });
  });
