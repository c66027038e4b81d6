// How many threads this process may keep busy: what its affinity mask allows and what its control group's quota pays for,
// whichever is less. More threads than the quota would only be throttled together.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { cgroupFolders, readSmallFile } from './cgroup.ts';

/** CPUs that a group's quota is worth; infinite where it sets none. */
function quotaOf(folder: string, version: 1 | 2): number {
  const [quota, period] =
    version === 2
      ? (readSmallFile(join(folder, 'cpu.max')) ?? '').trim().split(' ')
      : [
          readSmallFile(join(folder, 'cpu.cfs_quota_us'))?.trim(),
          readSmallFile(join(folder, 'cpu.cfs_period_us'))?.trim(),
        ];
  const cpus = Number(quota) / Number(period);
  // Version 1 says "no quota" with -1, version 2 with the word max.
  return Number.isFinite(cpus) && cpus > 0 ? cpus : Number.POSITIVE_INFINITY;
}

/** At least 1. @param root where the file system starts; `/` but in tests */
export function defaultThreads(root = '/', parallelism = availableParallelism()): number {
  let cpus = parallelism;
  const groups = cgroupFolders('cpu', root);
  for (const folder of groups?.folders ?? []) cpus = Math.min(cpus, quotaOf(folder, groups?.version ?? 2));
  return Math.max(1, Math.floor(cpus));
}
