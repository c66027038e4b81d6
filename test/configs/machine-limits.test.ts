// Containers as the kernel shows them, laid out in a temporary folder that takes the place of /.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { defaultMemory, freeMemory } from '../../configs/free-memory.ts';
import { defaultThreads } from '../../configs/thread-count.ts';

const GiB = 2 ** 30;
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'weightspan-root-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function lay(files: Readonly<Record<string, string>>): string {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const meminfo = (gib: number) => `MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:   ${gib * 2 ** 20} kB\n`;

describe('free memory', () => {
  it('is what the machine has available where there is no group', () => {
    expect(freeMemory(lay({ 'proc/meminfo': meminfo(6) }))).toBe(6 * GiB);
  });

  it('is what a version 2 group leaves, page cache counted as free', () => {
    lay({
      'proc/meminfo': meminfo(64),
      'proc/self/cgroup': '0::/job/step\n',
      'sys/fs/cgroup/job/step/memory.max': `${8 * GiB}\n`,
      'sys/fs/cgroup/job/step/memory.current': `${7 * GiB}\n`,
      'sys/fs/cgroup/job/step/memory.stat': `anon 5\nactive_file 7\ninactive_file ${2 * GiB}\n`,
    });
    expect(freeMemory(root)).toBe(3 * GiB);
  });

  it('obeys the tightest group above, and passes over those without a limit', () => {
    lay({
      'proc/meminfo': meminfo(64),
      'proc/self/cgroup': '0::/job/step\n',
      'sys/fs/cgroup/job/step/memory.max': 'max\n',
      'sys/fs/cgroup/job/step/memory.current': `${GiB}\n`,
      'sys/fs/cgroup/job/memory.max': `${5 * GiB}\n`,
      'sys/fs/cgroup/job/memory.current': `${GiB}\n`,
    });
    expect(freeMemory(root)).toBe(4 * GiB);
  });

  it('knows version 1, also where version 2 is mounted beside it', () => {
    lay({
      'proc/meminfo': meminfo(64),
      'proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n',
      'sys/fs/cgroup/memory/job/memory.limit_in_bytes': `${6 * GiB}\n`,
      'sys/fs/cgroup/memory/job/memory.usage_in_bytes': `${3 * GiB}\n`,
      'sys/fs/cgroup/memory/job/memory.stat': `inactive_file 5\ntotal_inactive_file ${GiB}\n`,
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
      'sys/fs/cgroup/memory/memory.usage_in_bytes': `${GiB}\n`,
    });
    expect(freeMemory(root)).toBe(4 * GiB);
  });

  it('finds the limit at the mount when the group itself is not visible, as in a container', () => {
    lay({
      'proc/meminfo': meminfo(64),
      'proc/self/cgroup': '0::/../../host/path\n',
      'sys/fs/cgroup/memory.max': `${2 * GiB}\n`,
      'sys/fs/cgroup/memory.current': '0\n',
    });
    expect(freeMemory(root)).toBe(2 * GiB);
  });

  it.each([
    ['a group over its limit', '100', '200'],
    ['a group that says nonsense', 'lots', 'some'],
  ])('is never negative: %s', (_, max, current) => {
    lay({
      'proc/meminfo': meminfo(1),
      'proc/self/cgroup': '0::/\nnonsense\n',
      'sys/fs/cgroup/memory.max': max,
      'sys/fs/cgroup/memory.current': current,
    });
    expect(freeMemory(root)).toBeGreaterThanOrEqual(0);
    expect(defaultMemory(root)).toBeGreaterThanOrEqual(2 ** 20);
  });

  it.each([
    [6, 3 * GiB],
    [8, 4 * GiB],
    [640, 4 * GiB],
  ])('the default budget with %d GiB free is half of it, 4 GiB at most', (gib, expected) => {
    expect(defaultMemory(lay({ 'proc/meminfo': meminfo(gib) }))).toBe(expected);
  });

  it('finds something on this machine', () => {
    expect(freeMemory()).toBeGreaterThan(0);
  });
});

describe('default threads', () => {
  const cpuMax = (text: string) => ({ 'proc/self/cgroup': '0::/\n', 'sys/fs/cgroup/cpu.max': text });

  it.each([
    ['max 100000\n', 8],
    ['200000 100000\n', 2],
    ['250000 100000\n', 2],
    ['50000 100000\n', 1],
    ['1600000 100000\n', 8],
    ['nonsense', 8],
    ['0 0', 8],
  ])('cpu.max %j allows %d of 8', (text, threads) => {
    expect(defaultThreads(lay(cpuMax(text)), 8)).toBe(threads);
  });

  it.each([
    ['-1', 8],
    ['300000', 3],
  ])('version 1 quota %j allows %d of 8', (quota, threads) => {
    lay({
      'proc/self/cgroup': '2:cpu,cpuacct:/job\n',
      'sys/fs/cgroup/cpu/job/cpu.cfs_quota_us': `${quota}\n`,
      'sys/fs/cgroup/cpu/job/cpu.cfs_period_us': '100000\n',
    });
    expect(defaultThreads(root, 8)).toBe(threads);
  });

  it('is what affinity allows where there is no group', () => {
    expect(defaultThreads(root, 3)).toBe(3);
    expect(defaultThreads()).toBeGreaterThanOrEqual(1);
  });
});
