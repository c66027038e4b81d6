// Runs that are killed at every system call of a commit, whose disk loses power, fails or fills up: the recovered state is
// the checkpoint before or the new one, and the finished tables are those of a run that was never stopped.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requirePart } from '../requires.ts';
import { cli, runCli, startCli } from './cli-process.ts';
import { hasBegun, writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-faults-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const models = join(root, 'models');
const whole = join(root, 'whole');
const common = [models, '--rank', '3', '--block', '4', '--device', 'tfjs', '--threads', '1'];
const eachBlock = ['--checkpoint-every', '1'];

beforeAll(async () => {
  writeMany(models, 16, 16, [
    { name: 'a', shape: [130, 140] },
    { name: 'b', shape: [30, 40] },
  ]);
  const { code, stderr } = await runCli(['run', ...common, '--out', whole, '--quiet']);
  expect(code, stderr).toBe(0);
});

const hasStrace = requirePart('strace', spawnSync('strace', ['--version']).status === 0);

/** Runs the command under strace; resolves with the command's exit code, null when it was killed. */
const traced = (
  options: readonly string[],
  args: readonly string[],
): Promise<{ code: number | null; stderr: string }> =>
  new Promise((resolve, reject) => {
    // Not with --seccomp-bpf: it is faster, and sends no signals.
    const strace = ['-f', '-qq', ...options, process.execPath, cli, ...args];
    const child = spawn('strace', strace, {
      env: { ...process.env, NO_COLOR: '1' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code: signal === null ? code : null, stderr }));
  });

/** A run that was killed before it wrote down what it is has left nothing that is to be resumed. */
const finish = async (out: string): Promise<void> => {
  const args = hasBegun(join(out, 'checkpoints'))
    ? ['resume', out, '--quiet']
    : ['run', ...common, '--out', out, '--quiet'];
  const { code, stderr } = await runCli(args);
  expect(code, stderr).toBe(0);
  expect(tableDigests(out)).toEqual(tableDigests(whole));
};

/** As `finish`, of a run that had work behind it: it must not be begun again. */
const finishKept = async (out: string): Promise<void> => {
  const { code, stdout } = await runCli(['status', out, '--json']);
  expect([code, JSON.parse(stdout)]).toMatchObject([0, { stage: 'stopped', damages: [] }]);
  expect(JSON.parse(stdout).checkpoint.sequence).toBeGreaterThan(1);
  await finish(out);
};

const calls = ['openat', 'write', 'pwrite64', 'fsync', 'rename', 'unlink', 'ftruncate', 'close'];

/** The calls of a checkpoint that takes the place of an older one: by name, which ones of their thread they are. */
const callsOfCommit = async (): Promise<ReadonlyMap<string, ReadonlySet<number>>> => {
  const log = join(root, 'trace');
  const out = join(root, 'traced');
  await traced(['-e', `trace=${calls.join()}`, '-o', log], ['run', ...common, '--out', out, '--quiet', ...eachBlock]);
  const counts = new Map<string, number>();
  const found = new Map<string, Set<number>>();
  let begun = 0;
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const match = /^(\d+) +(\w+)\(/.exec(line);
    if (match === null) continue;
    const [, thread, call] = match as unknown as [string, string, string];
    const count = (counts.get(thread + call) ?? 0) + 1;
    counts.set(thread + call, count);
    if (call === 'openat' && line.includes('.tmp-rows')) begun++;
    if (begun === 3) found.set(call, (found.get(call) ?? new Set()).add(count));
  }
  return found;
};

describe.runIf(hasStrace)('F1: killed at every system call of a commit', () => {
  it('goes on from the checkpoint before or the new one, to the same tables', async () => {
    const found = await callsOfCommit();
    let kills = 0;
    for (const [call, ordinals] of found) {
      for (const ordinal of [...ordinals].sort((a, b) => a - b)) {
        const out = join(root, `f1-${call}-${ordinal}`);
        const inject = [
          '-e',
          `trace=${call}`,
          '-e',
          `inject=${call}:signal=SIGKILL:when=${ordinal}`,
          '-o',
          '/dev/null',
        ];
        const { code } = await traced(inject, ['run', ...common, '--out', out, '--quiet', ...eachBlock]);
        if (code === 0) continue;
        kills++;
        await finish(out);
        rmSync(out, { recursive: true });
      }
    }
    process.stderr.write(
      `F1: ${kills} kills, at ${[...found].map(([call, { size }]) => `${size} ${call}`).join(', ')}\n`,
    );
    expect(kills).toBeGreaterThan(30);
  });
});

describe.runIf(hasStrace)('F6: the disk says EIO', () => {
  // Of the calls on these files each thread's nth. Not on others: a process syncs its standard output when it exits, and a
  // library of ours never comes back where that fails.
  const spool = 'checkpoints/blocks.spool';
  const basis = 'basis/.tmp-slot-00000.models.parquet';
  it.each([
    ['fsync', ['checkpoints'], '3'],
    ['fsync', [spool], '2'],
    ['fsync', [basis], '1'],
    ['fsync', ['mean/.tmp-slot-00001.parquet'], '1'],
    // What ends the run and what closes it fail both.
    ['fsync', [basis, 'events.ndjson'], '1..9'],
    ['rename', [], '2'],
    ['rename', [], '6'],
    ['pwrite64', [], '3'],
  ])('of %s on %j, call %s: stops with the cause, and goes on later', async (call, files, ordinal) => {
    const out = join(root, `f6-${call}-${files.join('-').replaceAll('/', '-')}-${ordinal}`);
    const only = files.flatMap((file) => ['-P', join(out, file)]);
    const inject = [
      '-e',
      `trace=${call}`,
      '-e',
      `inject=${call}:error=EIO:when=${ordinal}`,
      '-o',
      '/dev/null',
      ...only,
    ];
    const { code, stderr } = await traced(inject, ['run', ...common, '--out', out, '--quiet', ...eachBlock]);
    expect(code, stderr).toBe(74);
    expect(stderr).toMatch(/weightspan: .*: failed while .*EIO/);
    await finish(out);
  });
});

describe.runIf(hasStrace)('F8: calls that are interrupted', () => {
  // The dynamic loader opens libraries first, and does not take it from anybody.
  it.each([
    ['fsync', 7],
    ['pwrite64', 7],
    ['write', 7],
    ['openat', 18],
  ])('%s says EINTR now and then, from the %dth call on: nobody notices', async (call, first) => {
    const out = join(root, `f8-${call}`);
    // Often enough to hit the commits, not so often that nothing gets through.
    const inject = ['-e', `trace=${call}`, '-e', `inject=${call}:error=EINTR:when=${first}+11`, '-o', '/dev/null'];
    const { code, stderr } = await traced(inject, ['run', ...common, '--out', out, '--quiet', ...eachBlock]);
    expect(code, stderr).toBe(0);
    expect(tableDigests(out)).toEqual(tableDigests(whole));
  });
});

/** A file system of its own, mounted from an image. */
class Image {
  readonly mount: string;
  readonly #image: string;

  constructor(name: string, megabytes: number) {
    this.#image = join(root, `${name}.img`);
    this.mount = join(root, `${name}.mnt`);
    mkdirSync(this.mount);
    execFileSync('truncate', ['-s', `${megabytes}M`, this.#image]);
    execFileSync('mkfs.ext4', ['-q', this.#image]);
    this.attach();
  }

  attach(options = 'loop'): void {
    execFileSync('mount', ['-o', options, this.#image, this.mount], { stdio: 'ignore' });
  }

  detach(): void {
    execFileSync('umount', [this.mount]);
  }

  /** What was not synced is gone, as after a power loss. */
  losePower(): void {
    const shutdown =
      'import fcntl,os,struct,sys; fcntl.ioctl(os.open(sys.argv[1],os.O_RDONLY),0x8004587d,struct.pack("I",2))';
    execFileSync('python3', ['-c', shutdown, this.mount]);
  }
}

const makeImage = (name: string, megabytes: number): Image | null => {
  try {
    return new Image(name, megabytes);
  } catch {
    return null;
  }
};

const hasLoop = requirePart(
  'loop',
  (() => {
    const image = makeImage('probe', 8);
    image?.detach();
    return image !== null;
  })(),
);

describe.runIf(hasLoop)('F3: the disk loses power', () => {
  it('at eight moments: goes on from a checkpoint that holds', async () => {
    const image = new Image('power', 64);
    try {
      for (let moment = 0; moment < 8; moment++) {
        const out = join(image.mount, `run-${moment}`);
        const { child, ended, seen } = startCli(['run', ...common, '--out', out, '--json', ...eachBlock]);
        await seen('stdout', `"checkpoint":${1 + (moment % 5)}`);
        await new Promise((resolve) => setTimeout(resolve, moment * 3));
        image.losePower();
        child.kill('SIGKILL');
        await ended;
        image.detach();
        image.attach();
        await finish(out);
      }
    } finally {
      image.detach();
    }
  });
});

describe.runIf(hasLoop)('F7: the disk is full', () => {
  it('keeps the checkpoint, says what it needs, and goes on when there is room', async () => {
    const image = new Image('full', 24);
    try {
      const out = join(image.mount, 'run');
      const { child, ended, seen } = startCli(['run', ...common, '--out', out, '--json', ...eachBlock]);
      await seen('stdout', '"checkpoint":2');
      child.kill('SIGSTOP');
      const filler = join(image.mount, 'filler');
      spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=64k'], { stdio: 'ignore' });
      spawnSync('dd', ['if=/dev/zero', `of=${filler}2`, 'bs=512'], { stdio: 'ignore' });
      child.kill('SIGCONT');
      const { code, stderr } = await ended;
      expect(code, stderr).toBe(74);
      expect(stderr).toMatch(/no space left while .*\(ENOSPC\)/);
      rmSync(filler);
      await finishKept(out);
    } finally {
      image.detach();
    }
  });

  it('F18: and one that cannot be written is told before the work starts, but says what it holds', async () => {
    const image = new Image('readonly', 24);
    cpSync(whole, join(image.mount, 'whole'), { recursive: true });
    image.detach();
    image.attach('loop,ro');
    try {
      const held = await runCli(['status', join(image.mount, 'whole'), '--json']);
      expect(held.code, held.stderr).toBe(0);
      expect(JSON.parse(held.stdout)).toMatchObject({ stage: 'finished', damages: [] });
      const { code, stderr } = await runCli(['run', ...common, '--out', join(image.mount, 'run'), '--quiet']);
      expect(code).toBe(74);
      expect(stderr).toMatch(/EROFS/);
    } finally {
      image.detach();
    }
  });
});

describe('F8, F10, F17', () => {
  it('F8: no file descriptor is left: says so, and goes on later', async () => {
    const out = join(root, 'f8-descriptors');
    const { child, ended, seen } = startCli(['run', ...common, '--out', out, '--json', ...eachBlock]);
    await seen('stdout', '"checkpoint":2');
    execFileSync('prlimit', ['--pid', String(child.pid), '--nofile=3:3']);
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(74);
    expect(stderr).toMatch(/weightspan: .*EMFILE/);
    await finishKept(out);
  });

  it('F10: out of memory: goes on with more', async () => {
    const out = join(root, 'f10');
    const { child, ended, seen } = startCli(['run', ...common, '--out', out, '--json', ...eachBlock]);
    await seen('stdout', '"checkpoint":3');
    // What the kernel does when memory is out.
    child.kill('SIGKILL');
    await ended;
    const starved = await runCli(['resume', out, '--quiet'], { NODE_OPTIONS: '--max-old-space-size=14' });
    expect(starved.code).not.toBe(0);
    await finishKept(out);
  });

  const hasFaketime = requirePart('faketime', spawnSync('faketime', ['--version']).status === 0);

  it.runIf(hasFaketime)('F17: the clock goes back a year: the newest checkpoint is the last one written', async () => {
    const out = join(root, 'f17');
    const { child, ended, seen } = startCli(['run', ...common, '--out', out, '--json', ...eachBlock]);
    await seen('stdout', '"checkpoint":2');
    child.kill('SIGTERM');
    const { code, stdout } = await ended;
    expect(code).toBe(75);
    const before = Number(/.*"checkpoint":(\d+)/s.exec(stdout)![1]);
    // One checkpoint of last year beside one of today.
    const preload = spawnSync('faketime', ['-f', '-365d', 'printenv', 'LD_PRELOAD']).stdout.toString().trim();
    const past = startCli(['resume', out, '--json', ...eachBlock], { LD_PRELOAD: preload, FAKETIME: '-365d' });
    await past.seen('stdout', `"checkpoint":${before + 1}`);
    past.child.kill('SIGKILL');
    await past.ended;
    const { checkpoint } = JSON.parse((await runCli(['status', out, '--json'])).stdout);
    expect(checkpoint.sequence).toBeGreaterThan(before);
    expect(Date.now() - Date.parse(checkpoint.time)).toBeGreaterThan(300 * 86_400_000);
    const today = await runCli(['resume', out, '--json']);
    expect(today.code, today.stderr).toBe(0);
    expect(today.stdout).toContain(`"type":"resumed","checkpoint":${checkpoint.sequence}`);
    expect(tableDigests(out)).toEqual(tableDigests(whole));
  });

  it('F19: a model that changes while it is read stops the run, which goes on when it is back', async () => {
    const changing = join(root, 'changing');
    writeMany(changing, 40, 40, [{ name: 'a', shape: [130, 140] }]);
    const reference = join(root, 'changing-whole');
    const args = ['run', changing, ...common.slice(1), '--quiet'];
    expect((await runCli([...args, '--out', reference])).code).toBe(0);
    const out = join(root, 'f19');
    const { child, ended, seen } = startCli([
      'run',
      changing,
      ...common.slice(1),
      '--out',
      out,
      '--json',
      ...eachBlock,
    ]);
    await seen('stdout', '"checkpoint":3');
    child.kill('SIGSTOP');
    const path = join(changing, 'm00039', 'model.safetensors');
    const bytes = readFileSync(path);
    const { atime, mtime } = statSync(path);
    truncateSync(path, 1000);
    child.kill('SIGCONT');
    const { code, stderr } = await ended;
    expect(code, stderr).not.toBe(0);
    expect(stderr).toContain('m00039');
    const { writeFileSync, utimesSync } = await import('node:fs');
    writeFileSync(path, bytes);
    utimesSync(path, atime, mtime);
    const resumed = await runCli(['resume', out, '--quiet', '--source-root', `${changing}=${changing}`]);
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(tableDigests(out)).toEqual(tableDigests(reference));
  });
});
