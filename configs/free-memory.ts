// How much memory this process may still take: what the machine has available, or what its control group leaves of its
// limit, whichever is less. Page cache that the kernel can drop counts as free: a group that has read a few checkpoints
// stands at its limit with nothing but cache.
import { freemem } from 'node:os';
import { join } from 'node:path';
import { cgroupFolders, readSmallFile } from './cgroup.ts';
import { minMemory } from './memory-size.ts';

const parseBytes = (text: string | null): number | null =>
  text !== null && /^\d+\s*$/.test(text) ? Number(text) : null;

const fieldOf = (stat: string | null, field: string): number =>
  parseBytes(new RegExp(`^${field} (\\d+)$`, 'm').exec(stat ?? '')?.[1] ?? null) ?? 0;

function leftInGroup(folder: string, version: 1 | 2): number {
  const [limitFile, usageFile, cacheField] =
    version === 2
      ? ['memory.max', 'memory.current', 'inactive_file']
      : ['memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'];
  const limit = parseBytes(readSmallFile(join(folder, limitFile)));
  const usage = parseBytes(readSmallFile(join(folder, usageFile)));
  if (limit === null || usage === null) return Number.POSITIVE_INFINITY;
  const cache = fieldOf(readSmallFile(join(folder, 'memory.stat')), cacheField);
  return Math.max(0, limit - Math.max(0, usage - cache));
}

/** Bytes. @param root where the file system starts; `/` but in tests */
export function freeMemory(root = '/'): number {
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(readSmallFile(join(root, 'proc/meminfo')) ?? '')?.[1];
  let free = available === undefined ? freemem() : Number(available) * 1024;
  const groups = cgroupFolders('memory', root);
  for (const folder of groups?.folders ?? []) free = Math.min(free, leftInGroup(folder, groups?.version ?? 2));
  return free;
}

/** The budget where none is given: 4 GiB or half of what is free, whichever is less. */
export function defaultMemory(root = '/'): number {
  return Math.max(minMemory, Math.min(4 * 2 ** 30, Math.floor(freeMemory(root) / 2)));
}
