// Is there room for what the plan will write? Asked of the file system before the work starts: hours later would be late.
import { stat, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Effect } from 'effect';
import { SinkFailed } from '../sinks/errors.ts';
import { formatBytes } from '../sinks/human-format.ts';

/** What will be written below a folder, and what to do when there is no room for it. */
export interface SpaceNeed {
  readonly folder: string;
  readonly bytes: number;
  readonly advice: string;
}

/** The parts of the path that do not exist yet will stand on the file system of the part that does. */
async function existing(path: string): Promise<string> {
  try {
    await stat(path);
    return path;
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!missing || dirname(path) === path) throw error;
    return existing(dirname(path));
  }
}

async function freeBytes(path: string): Promise<{ device: number; free: number }> {
  const folder = await existing(path);
  const { bavail, bsize } = await statfs(folder);
  return { device: (await stat(folder)).dev, free: bavail * bsize };
}

/**
 * Fails with SinkFailed `no-space` when less is free than all needs of a file system add up to. A file system that does
 * not say is believed to have room.
 */
export const checkFreeSpace = (needs: readonly SpaceNeed[]): Effect.Effect<void, SinkFailed> =>
  Effect.gen(function* () {
    const promised = new Map<number, number>();
    for (const { folder, bytes, advice } of needs) {
      const unknown = { device: -1, free: Number.POSITIVE_INFINITY };
      const { device, free } = yield* Effect.promise(() => freeBytes(resolve(folder)).catch(() => unknown));
      const left = free - (promised.get(device) ?? 0);
      promised.set(device, (promised.get(device) ?? 0) + bytes);
      if (left >= bytes) continue;
      const detail = `needs ${formatBytes(bytes)}, and ${formatBytes(Math.max(left, 0))} are free; ${advice}`;
      return yield* new SinkFailed({ path: folder, reason: 'no-space', detail });
    }
  });
