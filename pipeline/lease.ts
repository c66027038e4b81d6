// Who may write a run: one process at a time. A lease is a file with a number that only counts up; whoever holds the
// highest one writes, and everything written carries it. An owner that is gone is found out by its process on this machine,
// and elsewhere by a lease that is not renewed while somebody watches: clocks of two machines are never compared.
import fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { sinkFailure } from '../sinks/durable-file.ts';
import { RunLocked } from './errors.ts';
import { describeOwner, type FoundLease, isAlive, leaseName, newestLease, thisProcess } from './lease-owner.ts';

/** How often a lease is renewed, and how long a silent one is watched before it counts as given up. */
const RENEW_MS = 10_000;
const WATCH_MS = 30_000;

/** As `newestLease`. Throws `SinkFailed`. */
const foundLease = (folder: string): FoundLease | null => {
  try {
    return newestLease(folder);
  } catch (cause) {
    throw sinkFailure(folder, 'looking for its lease', cause);
  }
};

/** Who holds the run, as a person would be told; null where nobody does. Says nothing of owners elsewhere that may be gone. */
export const leaseHolder = (folder: string): string | null => {
  const found = foundLease(folder);
  if (found === null || found.owner === null) return null;
  const alive = isAlive(found.owner);
  if (alive === false) return null;
  return alive === null ? `${describeOwner(found.owner)} (cannot be seen from here)` : describeOwner(found.owner);
};

export class Lease {
  readonly fence: number;
  readonly #folder: string;
  readonly #path: string;
  readonly #run: string;
  readonly #renewing: NodeJS.Timeout;
  #isLost = false;

  private constructor(run: string, folder: string, fence: number) {
    this.#run = run;
    this.#folder = folder;
    this.fence = fence;
    this.#path = join(folder, leaseName(fence));
    this.#renewing = setInterval(() => this.#renew(), RENEW_MS).unref();
  }

  /**
   * Takes the run over from an owner that is gone, or from nobody.
   * @param run as a person calls it
   * @param folder where leases stand
   * @param after the highest number that is known to have been given
   * Throws `RunLocked`, `SinkFailed`.
   */
  static async take(run: string, folder: string, after = 0, watchMs = WATCH_MS): Promise<Lease> {
    const found = foundLease(folder);
    if (found?.owner != null) {
      const alive = isAlive(found.owner) ?? (await isRenewed(found.path, watchMs));
      if (alive) throw new RunLocked({ run, owner: describeOwner(found.owner) });
    }
    const fence = Math.max(found?.fence ?? 0, after) + 1;
    const path = join(folder, leaseName(fence));
    try {
      fs.writeFileSync(path, `${JSON.stringify(thisProcess())}\n`, { flag: 'wx' });
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EEXIST')
        throw new RunLocked({ run, owner: 'another process, which came first,' });
      throw sinkFailure(path, 'taking the lease', cause);
    }
    if (found !== null) fs.rmSync(found.path, { force: true });
    return new Lease(run, folder, fence);
  }

  /** Throws `RunLocked` when somebody has taken the run over: this process must not write any more. */
  check(): void {
    const found = foundLease(this.#folder);
    if (found?.fence === this.fence) return;
    this.#isLost = true;
    const owner = found?.owner == null ? 'another process' : describeOwner(found.owner);
    throw new RunLocked({ run: this.#run, owner: `${owner} has taken the run over and` });
  }

  /** Whether somebody was seen to have taken the run over. Looked for whenever the lease is renewed. */
  get isLost(): boolean {
    return this.#isLost;
  }

  release(): void {
    clearInterval(this.#renewing);
    fs.rmSync(this.#path, { force: true });
  }

  #renew(): void {
    const now = new Date();
    // Gone, or a file system that fails: the next manifest will say.
    fs.utimes(this.#path, now, now, () => {});
    try {
      this.#isLost ||= (newestLease(this.#folder)?.fence ?? 0) > this.fence;
    } catch {
      // Nothing was seen.
    }
  }
}

/** Whether a lease is renewed while it is watched. */
const isRenewed = async (path: string, watchMs: number): Promise<boolean> => {
  const stamp = (): number => fs.statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1;
  const before = stamp();
  const end = performance.now() + watchMs;
  while (performance.now() < end) {
    await sleep(Math.min(500, watchMs));
    if (stamp() !== before) return true;
  }
  return false;
};
