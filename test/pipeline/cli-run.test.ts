// Whole commands on small models: what goes to which stream, every exit code a person can cause, signals.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { requirePart } from '../requires.ts';
import { cli, runCli, startCli, temporaryFolder, writeModels } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const small = ['--threads', '1', '--memory', '256MiB'];
const linesOf = (text: string) => text.split('\n').filter((line) => line !== '');

/** What a failed run may leave: no table, no basis under its final name, no run.json. */
const finalFiles = (folder: string): readonly string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => /\.parquet$|run\.json$/.test(name))
    : [];

describe('what goes where', () => {
  it('plan prints a plan and writes nothing', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'models'), 3);
    const { code, stdout, stderr } = await runCli(['plan', models, ...small]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/3 models/);
    expect(readdirSync(folder)).toEqual(['models']);
    const json = await runCli(['plan', models, '--json', ...small]);
    expect([json.code, json.stderr, linesOf(json.stdout).length]).toEqual([0, '', 1]);
    expect(JSON.parse(json.stdout).models).toHaveLength(3);
  });

  it('plan org/name reads the Hugging Face cache', async () => {
    const hub = temporaryFolder();
    const commit = 'a'.repeat(40);
    const snapshots = join(hub, 'models--org--name/snapshots');
    renameSync(join(writeModels(join(hub, 'm'), 1), '0000'), join(hub, 'moved'));
    mkdirSync(snapshots, { recursive: true });
    renameSync(join(hub, 'moved'), join(snapshots, commit));
    const env = { HF_HUB_CACHE: hub };
    const { code, stdout, stderr } = await runCli(['plan', 'org/name@aaaa', '--json', ...small], env);
    expect([code, stderr]).toEqual([0, '']);
    const path = join(snapshots, commit);
    expect(JSON.parse(stdout).models).toMatchObject([{ name: 'org/name@aaaaaaa', source: 'org/name@aaaa', path }]);
    const gone = await runCli(['plan', 'org/gone', ...small], env);
    expect([gone.code, gone.stdout]).toEqual([74, '']);
    expect(gone.stderr).toMatch(/^weightspan: org\/gone: .*models--org--gone.* hf download org\/gone\n$/);
  });

  it('run: progress on standard error, the summary on standard output', async () => {
    const folder = temporaryFolder();
    const out = join(folder, 'run');
    const { code, stdout, stderr } = await runCli(['run', writeModels(join(folder, 'm'), 4), '--out', out, ...small]);
    expect(code).toBe(0);
    expect(stdout).toContain('4 models, 1 slot');
    expect(stdout).toContain(`${out}/`);
    expect(stderr).toContain('4/4 models');
    expect(stdout + stderr).not.toContain('\u001b');
    expect(existsSync(join(out, 'run.json'))).toBe(true);
  });

  it('run --quiet: a line', async () => {
    const folder = temporaryFolder();
    const args = ['run', writeModels(join(folder, 'm'), 4), '--out', join(folder, 'run'), '--quiet', ...small];
    const { code, stdout, stderr } = await runCli(args);
    expect([code, stderr, linesOf(stdout).length]).toEqual([0, '', 1]);
  });

  it.each(['blas', 'tfjs'])('run --json on %s: events, and nothing else', async (device) => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 4);
    const config = join(folder, 'run.yaml');
    writeFileSync(config, 'json: true\n');
    const args = ['run', models, '--out', join(folder, 'run'), '--config', config, '--device', device, ...small];
    const { code, stdout, stderr } = await runCli(args);
    if (code === 69 && !requirePart(device, false)) return;
    expect([code, stderr]).toEqual([0, '']);
    const types = linesOf(stdout).map((line) => (JSON.parse(line) as { type: string }).type);
    expect(types[0]).toBe('plan');
    expect(types.at(-1)).toBe('done');
    expect(types).toContain('block');
  });

  it('run --json | head -n 1 ends well, and the run is whole', () => {
    const folder = temporaryFolder();
    writeModels(join(folder, 'm'), 6);
    const script = `"${process.execPath}" "${cli}" run m --out run --json --block 1 ${small.join(' ')} | head -n 1; exit "\${PIPESTATUS[0]}"`;
    const { status, stdout, stderr } = spawnSync('bash', ['-c', script], { cwd: folder, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout).type).toBe('plan');
    expect(existsSync(join(folder, 'run/run.json'))).toBe(true);
  });
});

describe('the output folder', () => {
  it('that holds something else: 73, and it is left alone', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'run'));
    writeFileSync(join(folder, 'run/thesis.tex'), 'x');
    const args = ['run', writeModels(join(folder, 'm'), 2), '--out', join(folder, 'run'), ...small];
    const { code, stdout, stderr } = await runCli(args);
    expect([code, stdout]).toEqual([73, '']);
    expect(stderr).toBe(`weightspan: ${join(folder, 'run')}: expected a new or empty folder, found thesis.tex\n`);
    expect(readdirSync(join(folder, 'run'))).toEqual(['thesis.tex']);
  });

  it.each(['m', 'm/0000', 'm/0000/run', '.'])('%s, where the models are: 64', async (out) => {
    const folder = temporaryFolder();
    writeModels(join(folder, 'm'), 2);
    const { code, stderr } = await runCli(['run', join(folder, 'm'), '--out', join(folder, out), ...small]);
    expect(code).toBe(64);
    expect(stderr).toMatch(/^weightspan: out: expected a folder apart from the sources, but /);
    expect(readdirSync(folder)).toEqual(['m']);
  });

  it('inside a model that a list names: 64', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 2);
    writeFileSync(join(folder, 'list.txt'), `${models}/0000\n${models}/0001\n`);
    const { code } = await runCli(['run', `@${folder}/list.txt`, '--out', join(models, '0001/run'), ...small]);
    expect(code).toBe(64);
  });

  it.each<[string, Readonly<Record<string, string>>]>([
    ['before it had a lease', {}],
    ['while it wrote down what it is', { 'lease-00000001.json': '', 'manifest-00000001.json': '{"sha256":"12' }],
  ])('that a run left which was killed %s is taken', async (_, files) => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'models'), 3);
    const out = join(folder, 'out');
    for (const part of ['checkpoints', 'spill', 'basis']) mkdirSync(join(out, part), { recursive: true });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(out, 'checkpoints', name), text);
    const resumed = await runCli(['resume', out]);
    expect([resumed.code, resumed.stderr]).toEqual([65, expect.stringContaining('begun again by its own command')]);
    const { code, stderr } = await runCli(['run', models, '--out', out, '--quiet', ...small]);
    expect([code, stderr]).toEqual([0, '']);
    expect(existsSync(join(out, 'run.json'))).toBe(true);
  });

  it('below a file: 73', async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), '');
    const args = ['run', writeModels(join(folder, 'm'), 2), '--out', join(folder, 'file/run'), ...small];
    expect((await runCli(args)).code).toBe(73);
  });
});

describe('sources', () => {
  it('that do not exist: 74, one line, also as JSON', async () => {
    const folder = temporaryFolder();
    const args = ['run', join(folder, 'none'), '--out', join(folder, 'run'), '--json', ...small];
    const { code, stdout, stderr } = await runCli(args);
    expect(code).toBe(74);
    expect(linesOf(stderr)).toEqual([expect.stringMatching(/^weightspan: .*none/)]);
    expect(JSON.parse(stdout)).toMatchObject({ type: 'failed', error: 'SourceUnavailable' });
    expect(existsSync(join(folder, 'run'))).toBe(false);
  });

  it('that are malformed: 65; skipped when asked', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 3);
    truncateSync(join(models, '0001/model.safetensors'), 100);
    const args = ['run', models, '--out', join(folder, 'run'), ...small];
    const { code, stdout, stderr } = await runCli(args);
    expect([code, stdout]).toEqual([65, '']);
    expect(linesOf(stderr)).toEqual([expect.stringMatching(/^weightspan: .*0001.*\[[a-z-]+\]$/)]);
    expect(existsSync(join(folder, 'run'))).toBe(false);
    const skipped = await runCli([...args, '--on-bad-source', 'skip']);
    expect(skipped.code).toBe(0);
    expect(skipped.stderr).toContain('skipped 0001');
  });

  it('a budget too small says how much is needed: 64', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 2, 512, 512);
    const { code, stderr } = await runCli(['run', models, '--out', join(folder, 'run'), '--memory', '1MiB']);
    expect(code).toBe(64);
    expect(stderr).toMatch(/^weightspan: memory: .*need/);
  });
});

const mountSmallDisk = (folder: string): string | null => {
  const [image, mount] = [join(folder, 'image'), join(folder, 'disk')];
  mkdirSync(mount);
  try {
    writeFileSync(image, '');
    truncateSync(image, 4 * 2 ** 20);
    execFileSync('mkfs.ext4', ['-q', '-F', image], { stdio: 'ignore' });
    execFileSync('mount', ['-o', 'loop', image, mount], { stdio: 'ignore' });
    return mount;
  } catch {
    return null;
  }
};

it('a full disk: 74, one line, nothing half-written under a final name', async ({ skip }) => {
  const folder = temporaryFolder();
  const disk = mountSmallDisk(folder);
  if (!requirePart('loop', disk !== null) || disk === null) return skip();
  onTestFinished(() => {
    execFileSync('umount', [disk]);
    rmSync(folder, { recursive: true, force: true });
  });
  // The basis of eight models of 512 x 512 takes 7 MB.
  const models = writeModels(join(folder, 'm'), 8, 512, 512);
  const { code, stdout, stderr } = await runCli(['run', models, '--out', join(disk, 'run'), '--quiet', ...small]);
  expect([code, stdout]).toEqual([74, '']);
  expect(linesOf(stderr)).toEqual([expect.stringMatching(/^weightspan: /)]);
  expect(finalFiles(join(disk, 'run'))).toEqual([]);
});

describe('signals', () => {
  // Says on standard error when the last of the handlers stands: before that a signal ends any Node process.
  const ready = `data:text/javascript,process.on('newListener', (name) => { if (name === 'SIGUSR1') console.error('READY'); });`;
  const watched = { NODE_OPTIONS: `--import="${ready.replaceAll('"', '%22').replaceAll(' ', '%20')}"` };

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGUSR1', 143],
  ] as const)('%s during start-up: %d, and nothing was done', async (signal, expected) => {
    const folder = temporaryFolder();
    const args = ['run', writeModels(join(folder, 'm'), 2), '--out', join(folder, 'run'), ...small];
    const { child, ended, seen } = startCli(args, watched);
    await seen('stderr', 'READY');
    child.kill(signal);
    const { code, stdout, stderr } = await ended;
    expect([code, stdout]).toEqual([expected, '']);
    expect(stderr).toContain(`weightspan: ${signal}: stopped before anything was read`);
    expect(existsSync(join(folder, 'run'))).toBe(false);
  });

  it.each(['SIGINT', 'SIGTERM', 'SIGUSR1'] as const)(
    '%s in the middle: stops between blocks, 75, and goes on to the same',
    async (signal) => {
      const folder = temporaryFolder();
      const models = writeModels(join(folder, 'm'), 500, 64, 64);
      const out = join(folder, 'run');
      const { child, ended, seen } = startCli(['run', models, '--out', out, '--json', '--block', '1', ...small]);
      await seen('stdout', '"type":"block"');
      child.kill(signal);
      const { code, stdout, stderr } = await ended;
      expect(code).toBe(75);
      expect(JSON.parse(linesOf(stdout).at(-1)!)).toMatchObject({ type: 'failed', error: 'Interrupted' });
      expect(linesOf(stderr)).toEqual([`weightspan: ${signal}: stopped; go on with: weightspan resume ${out}`]);
      expect(finalFiles(out)).toEqual([]);
      const resumed = await runCli(['resume', out, '--json']);
      expect(resumed.code, resumed.stderr).toBe(0);
      expect(JSON.parse(linesOf(resumed.stdout)[0]!)).toMatchObject({ type: 'resumed', lost: 0, damages: [] });
      const whole = join(folder, 'whole');
      expect((await runCli(['run', models, '--out', whole, '--block', '1', ...small])).code).toBe(0);
      expect(tableDigests(out)).toEqual(tableDigests(whole));
    },
  );

  it('a second one leaves at once, with the code of the first', async () => {
    const folder = temporaryFolder();
    // One block that takes longer than the signals do: 96 models under three models' weights.
    const some = writeModels(join(folder, 'some'), 3, 512, 1024);
    const models = join(folder, 'models');
    mkdirSync(models);
    for (let i = 0; i < 96; i++) {
      linkSync(join(some, `000${i % 3}`, 'model.safetensors'), join(models, `${i}.safetensors`));
    }
    const long = ['--block', '96', '--threads', '1', '--device', 'tfjs', '--memory', '2GiB', '--json'];
    const { child, ended, seen } = startCli(['run', models, '--out', join(folder, 'run'), ...long]);
    await seen('stdout', '"checkpoint":1');
    child.kill('SIGINT');
    // Of two signals that wait together the kernel promises no order.
    await setTimeout(100);
    child.kill('SIGTERM');
    const { code, stdout, stderr } = await ended;
    expect(code, stdout).toBe(130);
    expect(stdout).not.toContain('"type":"block"');
    expect(stderr).toContain('weightspan: SIGTERM: leaving at once');
  });

  it('one ends a plan', async () => {
    const { child, ended, seen } = startCli(['plan', '-'], watched);
    await seen('stderr', 'READY');
    child.kill('SIGINT');
    const { code, stdout, stderr } = await ended;
    expect([code, stdout]).toEqual([130, '']);
    expect(stderr).toContain('weightspan: SIGINT: stopped while planning');
  });
});

it('a list on standard input names the sources', async () => {
  const folder = temporaryFolder();
  const models = writeModels(join(folder, 'm'), 3);
  const { child, ended } = startCli(['plan', '-', '--json']);
  child.stdin?.end(`# models\n${models}/0000\n${models}/0002\n`);
  const { code, stdout } = await ended;
  expect(code).toBe(0);
  expect(JSON.parse(stdout).models).toHaveLength(2);
});

it('a bug shows its trace and asks for a report: 70', async () => {
  const folder = temporaryFolder();
  const broken = `data:text/javascript,JSON.stringify = () => { throw new TypeError('broken'); };`;
  const env = { NODE_OPTIONS: `--import="${broken.replaceAll(' ', '%20')}"` };
  const { code, stdout, stderr } = await runCli(['plan', writeModels(join(folder, 'm'), 2), '--json', ...small], env);
  expect([code, stdout]).toEqual([70, '']);
  expect(stderr).toMatch(/^weightspan: this is a bug.*\n[\s\S]*TypeError: broken\n +at /);
  expect(readFileSync(cli, 'utf8')).toContain('#!/usr/bin/env node');
});
