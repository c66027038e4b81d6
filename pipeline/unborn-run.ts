// Runs that were killed before they had written down what they are: nothing was folded, and what they left is in the way of
// the command that begins them again.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnknownFormat } from '../sinks/checkpoint-store.ts';
import { checkpointFolder, recoverRun } from './checkpoints.ts';
import { leaseHolder } from './lease.ts';
import { discardRunFolder } from './run-folder.ts';

/** How long a run may take from making its folder to holding its lease. */
const UNBORN_MS = 1_000;

/** Takes away what such a run left. Throws `SinkFailed`. */
export const clearUnborn = async (out: string): Promise<void> => {
  const folder = checkpointFolder(out);
  const isUnborn = (): boolean =>
    existsSync(folder) &&
    !existsSync(join(out, 'run.json')) &&
    leaseHolder(folder) === null &&
    !hasCheckpoint(out) &&
    !saysWhatItIs(out);
  if (!isUnborn()) return;
  // Without a lease it may be one that begins right now.
  const hasLease = readdirSync(folder).some((name) => name.startsWith('lease-'));
  if (!hasLease && Date.now() - statSync(folder).mtimeMs < UNBORN_MS) await sleep(UNBORN_MS);
  if (isUnborn()) discardRunFolder(out);
};

/** Whether the first manifest is whole, or of a format that is not ours to judge. */
const saysWhatItIs = (out: string): boolean => {
  try {
    return recoverRun(out, 'manifest').manifest !== null;
  } catch (cause) {
    if (cause instanceof UnknownFormat) return true;
    throw cause;
  }
};

/** Whether there is a checkpoint of a run's work: the first one says only what it is. */
export const hasCheckpoint = (out: string): boolean => {
  try {
    return readdirSync(checkpointFolder(out)).some((name) => /^manifest-(?!00000001)\d{8}\.json$/.test(name));
  } catch {
    return false;
  }
};
