// Whether a lease's owner lives: each thing that tells, alone; and who may take a run over.
import { spawnSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { Lease } from '../../pipeline/lease.ts';
import { isAlive, type LeaseOwner, leaseName, thisProcess } from '../../pipeline/lease-owner.ts';
import { temporaryFolder } from './cli-process.ts';

afterEach(() => void vi.useRealTimers());

const self = thisProcess();
/** A process that has ended; its number will not come up again while the test runs. */
const gone = Number(spawnSync(process.execPath, ['-p', 'process.pid']).stdout);

const owners: readonly [string, Partial<LeaseOwner>, boolean | null][] = [
  ['this process', {}, true],
  ['a process that has ended', { pid: gone, started: '1' }, false],
  ['one whose number another has now', { started: '1' }, false],
  ['one that ran before the machine started again', { boot: 'before' }, false],
  ['one on another machine', { host: 'elsewhere' }, null],
  ['one among other processes of this machine', { pids: 'pid:[1]' }, null],
];

it.each(owners)('%s is alive: %j -> %j', (_, change, alive) => {
  expect(isAlive({ ...self, ...change })).toBe(alive);
});

const held = (fence: number, owner: LeaseOwner | null): string => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, leaseName(fence)), owner === null ? '' : JSON.stringify(owner));
  return folder;
};

it.each(owners.filter(([, , alive]) => alive === false))(
  'takes over from %s, with a higher number',
  async (_, change) => {
    const folder = held(7, { ...self, ...change });
    const lease = await Lease.take('run', folder);
    expect(lease.fence).toBe(8);
    expect(readdirSync(folder)).toEqual([leaseName(8)]);
    lease.release();
    expect(readdirSync(folder)).toEqual([]);
  },
);

it('takes over from a writer that died over its lease', async () => {
  const lease = await Lease.take('run', held(3, null));
  expect(lease.fence).toBe(4);
  lease.release();
});

it('never takes a run from who lives', async () => {
  await expect(Lease.take('run', held(3, self))).rejects.toThrow(`process ${process.pid}`);
});

it('takes a run from another machine once its lease is not renewed', async () => {
  const lease = await Lease.take('run', held(3, { ...self, host: 'elsewhere' }), 0, 20);
  expect(lease.fence).toBe(4);
  lease.release();
});

it('begins behind the highest number that is known', async () => {
  const lease = await Lease.take('run', temporaryFolder(), 11);
  expect(lease.fence).toBe(12);
  lease.release();
});

it('may not write once somebody has a higher number', async () => {
  const folder = temporaryFolder();
  const lease = await Lease.take('run', folder);
  lease.check();
  writeFileSync(join(folder, leaseName(lease.fence + 1)), JSON.stringify({ ...self, pid: 4242 }));
  expect(() => lease.check()).toThrow(/process 4242 .*taken the run over/);
  lease.release();
});

it('finds out by itself, while it renews the lease, that somebody has a higher number', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  const folder = temporaryFolder();
  const lease = await Lease.take('run', folder);
  vi.advanceTimersByTime(60_000);
  expect(lease.isLost).toBe(false);
  writeFileSync(join(folder, leaseName(lease.fence + 1)), JSON.stringify({ ...self, pid: 4242 }));
  expect(lease.isLost).toBe(false);
  vi.advanceTimersByTime(10_000);
  expect(lease.isLost).toBe(true);
  lease.release();
});
