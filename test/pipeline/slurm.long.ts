// The README's lines for Slurm, run by bash with a scheduler that only writes down what it is asked for: a job that is told
// its time is up stops, asks to be queued again, goes on there, and at last leaves what a run leaves that was never stopped.
import { spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';
import { cli, root } from './cli-process.ts';
import { writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-slurm-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const command = (name: string, body: string): void => {
  const path = join(folder, 'bin', name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
};

/** The job as a scheduler runs it; `stop` signals the step, not the shell, once there is a checkpoint of work. */
const job = async (script: string, stop: boolean): Promise<number | null> => {
  const env = { ...process.env, PATH: `${join(folder, 'bin')}:${process.env.PATH}`, SLURM_JOB_ID: '4711' };
  const child = spawn('bash', ['-c', script], { cwd: folder, env, stdio: 'ignore' });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  if (stop) {
    const before = checkpoints();
    while (checkpoints() < before + 2) await sleep(20);
    process.kill(Number(readFileSync(join(folder, 'step'), 'utf8')), 'SIGUSR1');
  }
  return ended;
};

/** The number of the newest checkpoint. */
const checkpoints = (): number => {
  for (let n = 999; n > 0; n--) {
    const name = `manifest-${String(n).padStart(8, '0')}.json`;
    if (existsSync(join(folder, 'runs/mine/checkpoints', name))) return n;
  }
  return 0;
};

it('goes on in the next job, and the next', async () => {
  mkdirSync(join(folder, 'bin'));
  writeMany(join(folder, 'path/to/models'), 160, 40, [{ name: 'a', shape: [130, 140] }]);
  const settings = ['--block', '2', '--rank', '3', '--device', 'tfjs', '--threads', '1'];
  command('srun', 'echo $$ > step; exec "$@"');
  command('scontrol', 'echo "$@" >> asked');
  // `run` with settings that make it slow; a checkpoint each block for both.
  command(
    'weightspan',
    `what=$1; shift; [ $what = run ] && set -- "$@" ${settings.join(' ')}\nexec ${process.execPath} ${cli} $what "$@" --checkpoint-every 2 --quiet`,
  );
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const script = /^#SBATCH.*\n((?:.*\n)*?)```/m.exec(readme)![1]!;
  expect(script).toContain('scontrol requeue');
  expect(await job(script, true)).toBe(75);
  expect(await job(script, true)).toBe(75);
  expect(readFileSync(join(folder, 'asked'), 'utf8')).toBe('requeue 4711\n'.repeat(2));
  expect(await job(script, false)).toBe(0);
  expect(readFileSync(join(folder, 'asked'), 'utf8')).toBe('requeue 4711\n'.repeat(2));
  expect(await job('weightspan run path/to/models --out whole', false)).toBe(0);
  expect(tableDigests(join(folder, 'runs/mine'))).toEqual(tableDigests(join(folder, 'whole')));
});
