// Whose a lease is, and whether its owner lives. Apart from lease.ts so that who only watches a run need not load what
// writing one takes.
import fs from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

const NAME = /^lease-(\d{8})\.json$/;

export interface LeaseOwner {
  readonly pid: number;
  readonly host: string;
  /** Of this start of the machine. */
  readonly boot: string;
  /** Of the processes that a pid is counted among: containers have their own. */
  readonly pids: string;
  /** When the process started, as the kernel counts it: a pid may be used again. */
  readonly started: string;
}

const readText = (path: string): string => {
  try {
    return fs.readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
};

/** Empty for a process that is gone, or dead and not yet buried. */
const startOf = (pid: number | 'self'): string => {
  // The fields behind the name in brackets, which may hold anything: the state, and 19 further the start.
  const fields = readText(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ') ?? [];
  return fields[0] === 'Z' || fields[0] === 'X' ? '' : (fields[19] ?? '');
};

const readLink = (path: string): string => {
  try {
    return fs.readlinkSync(path);
  } catch {
    return '';
  }
};

export const thisProcess = (): LeaseOwner => ({
  pid: process.pid,
  host: hostname(),
  boot: readText('/proc/sys/kernel/random/boot_id'),
  pids: readLink('/proc/self/ns/pid'),
  started: startOf('self'),
});

export const describeOwner = ({ pid, host }: LeaseOwner): string => `process ${pid} on ${host}`;

/** Whether the owner lives: known where it runs, or ran, among the same processes; null elsewhere. */
export const isAlive = (owner: LeaseOwner): boolean | null => {
  const self = thisProcess();
  if (owner.host !== self.host) return null;
  if (owner.boot !== self.boot) return false;
  if (owner.pids !== self.pids) return null;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  return startOf(owner.pid) === owner.started;
};

export interface FoundLease {
  readonly fence: number;
  readonly path: string;
  /** Null where the file says nothing: its writer died over it. */
  readonly owner: LeaseOwner | null;
}

export const leaseName = (fence: number): string => `lease-${String(fence).padStart(8, '0')}.json`;

/** The lease with the highest number; null where there is none. Throws what the file system says. */
export const newestLease = (folder: string): FoundLease | null => {
  let fence = 0;
  let names: readonly string[];
  try {
    names = fs.readdirSync(folder);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw cause;
  }
  for (const name of names) fence = Math.max(fence, Number(NAME.exec(name)?.[1] ?? 0));
  if (fence === 0) return null;
  const path = join(folder, leaseName(fence));
  try {
    return { fence, path, owner: JSON.parse(readText(path)) as LeaseOwner };
  } catch {
    return { fence, path, owner: null };
  }
};
