// The plan's estimate against what the run then says it took. The one test that compares times: within a factor of 3, which
// noise between the two processes may break now and then, hence the retries. One thread, since tests run beside it.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { runCli, temporaryFolder, writeModels } from './cli-process.ts';

const zoo = 'examples/zoo/full';

const planned = async (...args: readonly string[]) => {
  const { code, stdout, stderr } = await runCli(['plan', ...args, '--json']);
  expect([code, stderr]).toEqual([0, '']);
  return JSON.parse(stdout);
};

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

describe.each(devices)('on $name', ({ name: device }) => {
  it.each([
    ['the zoo', () => zoo, ['--rank', '8', '--block', '8']],
    ['48 models of 1 MiB', (folder: string) => writeModels(join(folder, 'models'), 48, 512, 512), ['--rank', '16']],
    // Nearly all of it eigendecompositions, which take longer without a LAPACK.
    [
      'many small models, engine exact',
      (folder: string) => writeModels(join(folder, 'models'), device === 'blas' ? 900 : 250, 48, 48),
      ['--rank', '16', '--engine', 'exact', '--no-basis'],
    ],
  ] as const)('%s: within a factor of 3', { retry: 3 }, async (_, make, options) => {
    const folder = temporaryFolder();
    const args = [make(folder), ...options, '--device', device, '--threads', '1'];
    const { estimate } = await planned(...args);
    const { code, stdout } = await runCli(['run', ...args, '--out', join(folder, 'run'), '--json']);
    expect(code).toBe(0);
    const done = JSON.parse(stdout.trimEnd().split('\n').at(-1)!);
    expect(done.type).toBe('done');
    expect(Math.abs(Math.log(estimate.seconds / done.tables_s))).toBeLessThan(Math.log(3));
  });
});

describe('weightspan plan', () => {
  it('--json has work, memory and the estimate, in all and by group', async () => {
    const plan = await planned(zoo, '--device', 'tfjs', '--memory', '3MiB', '--rank', '8', '--block', '8');
    expect(plan.groups.length).toBeGreaterThan(1);
    expect(plan.passes).toBe(1);
    expect(sum(plan.groups.map(({ flops }: { flops: number }) => flops))).toBeCloseTo(plan.flops, 0);
    expect(sum(plan.groups.map((group: { bytes_to_read: number }) => group.bytes_to_read))).toBe(plan.bytes_to_read);
    const held = plan.groups.map(({ memory }: { memory: Record<string, number> }) => sum(Object.values(memory)));
    expect(plan.peak_memory).toBe(Math.max(...held));
    const oneThread = await planned(zoo, '--device', 'tfjs', '--threads', '1', '--no-probe');
    const fourThreads = await planned(zoo, '--device', 'tfjs', '--threads', '4', '--no-probe');
    expect(fourThreads.heap_memory - oneThread.heap_memory).toBe(3 * 12 * 2 ** 20);
    const { probe, assumes, verify_s, ...seconds } = plan.estimate;
    expect(verify_s).toBe(0);
    for (const value of [...Object.values(seconds), probe.bytes, probe.seconds]) expect(value).toBeGreaterThan(0);
    expect(probe.bytes).toBeLessThanOrEqual(12 * 2 ** 20);
    expect(assumes).toHaveLength(2);
  });

  it('says what the estimate rests on, and --no-probe leaves it out', async () => {
    const shown = await runCli(['plan', zoo, '--device', 'tfjs', '--verify']);
    expect(shown.stdout).toMatch(
      /\ntime {7}about .*, and .* to verify: reading .*\/s, products .* GFLOP\/s a thread\n.*at the rate this machine showed just now/,
    );
    const silent = await runCli(['plan', zoo, '--device', 'tfjs', '--no-probe']);
    expect(silent.stdout).toContain('\nflops ');
    expect(silent.stdout).not.toContain('\ntime ');
    const { estimate, passes } = await planned(zoo, '--device', 'tfjs', '--no-probe', '--verify');
    expect([estimate, passes]).toEqual([null, 2]);
  });
});
