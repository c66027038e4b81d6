// `resume`, `extend` and `status` on runs that were stopped, damaged, moved, or whose models have changed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { leaseName, newestLease } from '../../pipeline/lease-owner.ts';
import { CHECKPOINT_FORMAT } from '../../sinks/checkpoint-store.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { cli, runCli, startCli } from './cli-process.ts';
import { writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-continue-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const slots = [
  { name: 'a', shape: [130, 140] },
  { name: 'b', shape: [30, 40] },
] as const;
const models = join(root, 'models');
const common = ['--rank', '3', '--block', '4', '--device', 'tfjs'];
const whole = join(root, 'whole');
/** Stopped after some of its blocks, with at least two checkpoints. */
const stopped = join(root, 'stopped');

beforeAll(async () => {
  writeMany(models, 200, 40, slots);
  const plain = await runCli(['run', models, '--out', whole, ...common, '--quiet']);
  expect(plain.code, plain.stderr).toBe(0);
  const { child, ended, seen } = startCli([
    'run',
    models,
    '--out',
    stopped,
    ...common,
    '--checkpoint-every',
    '4',
    '--json',
  ]);
  await seen('stdout', '"checkpoint":5');
  child.kill('SIGTERM');
  expect((await ended).code).toBe(75);
}, 240_000);

let copies = 0;
const copyOf = (run: string): string => {
  const path = join(root, `copy-${copies++}`);
  cpSync(run, path, { recursive: true });
  return path;
};

const checkpointsOf = (run: string): string[] => readdirSync(join(run, 'checkpoints')).sort();
const manifestsOf = (run: string): string[] => checkpointsOf(run).filter((name) => name.startsWith('manifest-'));
const inCheckpoints = (run: string, name: string): string => join(run, 'checkpoints', name);
const newest = (run: string) =>
  JSON.parse(readFileSync(inCheckpoints(run, manifestsOf(run).at(-1)!), 'utf8')).manifest as {
    readonly sequence: number;
    readonly files: readonly { readonly name: string }[];
    readonly content: { readonly kept: readonly object[] };
  };
/** Leaves the lease of another process, with the next number; returns its name. */
const takeOver = (run: string): string => {
  const { fence, owner } = newestLease(join(run, 'checkpoints'))!;
  const next = leaseName(fence + 1);
  writeFileSync(inCheckpoints(run, next), JSON.stringify({ ...owner, pid: 1 }));
  return next;
};
const fileOf = (run: string, stem: string): string =>
  inCheckpoints(run, newest(run).files.find(({ name }) => name.startsWith(`${stem}-`))!.name);

const rewriteManifest = (path: string, change: (manifest: ReturnType<typeof newest>) => object): void => {
  const body = JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')).manifest));
  writeFileSync(path, `{"sha256":"${createHash('sha256').update(body).digest('hex')}","manifest":${body}}\n`);
};

const resumed = async (run: string, ...args: string[]) => {
  const { code, stdout, stderr } = await runCli(['resume', run, '--json', ...args]);
  const event = stdout.split('\n').find((line) => line.includes('"type":"resumed"'));
  return { code, stderr, event: event === undefined ? null : JSON.parse(event) };
};

describe('resume', () => {
  it.each([
    ['with less memory and one thread', ['--memory', '20MiB', '--threads', '1']],
    ['with more memory and three threads', ['--memory', '1GiB', '--threads', '3']],
    ['in a folder that was copied elsewhere', []],
  ])('goes on to the same tables %s', async (_name, args) => {
    const run = copyOf(stopped);
    const { code, stderr, event } = await resumed(run, ...args);
    expect(code, stderr).toBe(0);
    expect(event).toMatchObject({ lost: 0, damages: [] });
    expect(event.modelsSeen).toBeGreaterThan(0);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
    const again = await runCli(['resume', run]);
    expect([again.code, again.stdout]).toEqual([0, `${run}: finished already\n`]);
  });

  const flip = (path: string, at: number): void => {
    const bytes = readFileSync(path);
    bytes[at < 0 ? bytes.length + at : at]! ^= 1;
    writeFileSync(path, bytes);
  };
  const edit = (path: string, change: (bytes: Buffer) => Uint8Array): void =>
    writeFileSync(path, change(readFileSync(path)));

  it.each<[string, (run: string) => string, RegExp]>([
    ['a bit of the rows', (run) => fileOf(run, 'rows'), /does not hold what was written/],
    ['a bit of the states', (run) => fileOf(run, 'states'), /does not hold what was written/],
    [
      'a bit of the manifest',
      (run) => inCheckpoints(run, manifestsOf(run).at(-1)!),
      /not (hold what was written|a whole)/,
    ],
  ])('names the damage and uses the checkpoint before: %s', async (_name, pathOf, text) => {
    const run = copyOf(stopped);
    flip(pathOf(run), -100);
    const before = newest(stopped).sequence;
    const { code, stderr, event } = await resumed(run);
    expect(code, stderr).toBe(0);
    expect(event.checkpoint).toBe(before - 1);
    expect(event.lost).toBeGreaterThan(0);
    expect(event.damages).toEqual([expect.stringMatching(text)]);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it.each<[string, (bytes: Buffer) => Uint8Array]>([
    ['cut off', (bytes) => bytes.subarray(0, bytes.length - 4096)],
    ['with zeros at its end', (bytes) => Buffer.concat([bytes.subarray(0, bytes.length - 4096), Buffer.alloc(4096)])],
    ['with its end twice', (bytes) => Buffer.concat([bytes, bytes.subarray(bytes.length - 4096)])],
    ['empty', () => new Uint8Array(0)],
  ])('passes over rows that are %s', async (_name, change) => {
    const run = copyOf(stopped);
    edit(fileOf(run, 'rows'), change);
    const { code, stderr, event } = await resumed(run);
    expect(code, stderr).toBe(0);
    expect(event.checkpoint).toBe(newest(stopped).sequence - 1);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it('refuses where both checkpoints are damaged, and says how', async () => {
    const run = copyOf(stopped);
    for (const name of manifestsOf(run)) truncateSync(inCheckpoints(run, name), 100);
    const { code, stderr } = await resumed(run);
    expect(code).toBe(65);
    expect(stderr).toMatch(/no checkpoint of it can be used: .*manifest-\d+\.json: it is not a whole manifest/);
  });

  it('cuts off a log that goes on, and refuses one that is shorter or changed', async () => {
    const longer = copyOf(stopped);
    edit(inCheckpoints(longer, 'blocks.spool'), (bytes) => Buffer.concat([bytes, Buffer.from('more')]));
    edit(join(longer, 'events.ndjson'), (bytes) =>
      Buffer.concat([bytes, Buffer.from('{"seq":99,"type":"block"}\n{"se')]),
    );
    const { code, stderr, event } = await resumed(longer);
    expect(code, stderr).toBe(0);
    expect(event.lost).toBe(1);
    expect(tableDigests(longer)).toEqual(tableDigests(whole));
    const seqs = readFileSync(join(longer, 'events.ndjson'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).seq);
    expect(seqs).toEqual(seqs.map((_, i) => i));

    const changed = copyOf(stopped);
    flip(inCheckpoints(changed, 'blocks.spool'), 100);
    expect((await resumed(changed)).stderr).toMatch(/blocks\.spool: it does not hold what was written/);
  });

  it.each([1, 99])('refuses the format %d, which it does not know', async (format) => {
    const run = copyOf(stopped);
    for (const name of manifestsOf(run))
      rewriteManifest(inCheckpoints(run, name), (manifest) => ({ ...manifest, format }));
    const { code, stderr } = await resumed(run);
    expect(code).toBe(65);
    expect(stderr).toContain(
      `written in checkpoint format ${format}, and this version of weightspan reads format ${CHECKPOINT_FORMAT}`,
    );
    expect(manifestsOf(run)).toEqual(manifestsOf(stopped));
  });

  it('refuses models that changed, by name, and finds those that moved', async () => {
    const moving = join(root, 'moving');
    cpSync(models, moving, { recursive: true });
    const run = join(root, 'of-moving');
    const { child, ended, seen } = startCli([
      'run',
      moving,
      '--out',
      run,
      ...common,
      '--checkpoint-every',
      '4',
      '--json',
    ]);
    await seen('stdout', '"checkpoint":4');
    child.kill('SIGINT');
    expect((await ended).code).toBe(75);

    const path = join(moving, 'm00007', 'model.safetensors');
    const sound = readFileSync(path);
    flip(path, -1);
    const written = await resumed(run);
    expect(written.code).toBe(65);
    expect(written.stderr).toMatch(/m00007: its files were written since the run began/);

    const elsewhere = join(root, 'elsewhere');
    renameSync(moving, elsewhere);
    const gone = await resumed(run);
    expect(gone.code).toBe(65);
    expect(gone.stderr).toMatch(/--source-root OLD=NEW/);

    edit(join(elsewhere, 'm00007', 'model.safetensors'), (bytes) =>
      bytes.map((byte, i) => (i < 1000 ? byte : byte ^ 1)),
    );
    const changed = await resumed(run, '--source-root', `${moving}=${elsewhere}`);
    expect(changed.code).toBe(65);
    expect(changed.stderr).toMatch(
      /m00007: its files have changed \(fingerprint [0-9a-f]{12}, expected [0-9a-f]{12}\)/,
    );

    writeFileSync(join(elsewhere, 'm00007', 'model.safetensors'), sound);
    const { code, stderr } = await resumed(run, '--source-root', `${moving}=${elsewhere}`);
    expect(code, stderr).toBe(0);
    const { 'models.parquet': _moved, ...digests } = tableDigests(whole);
    expect(tableDigests(run)).toMatchObject(digests);
  });

  it('one process at a time: the second is refused, and a dead one is taken over from', async () => {
    const run = copyOf(stopped);
    const { child, ended, seen } = startCli(['resume', run, '--json', '--checkpoint-every', '4']);
    await seen('stdout', '"type":"block"');
    child.kill('SIGSTOP');
    const second = await runCli(['resume', run]);
    expect(second.code).toBe(75);
    expect(second.stderr).toMatch(new RegExp(`process ${child.pid} on .* is writing it; one process at a time may`));
    const status = JSON.parse((await runCli(['status', run, '--json'])).stdout);
    expect(status).toMatchObject({ stage: 'running', owner: expect.stringContaining(`process ${child.pid}`) });
    child.kill('SIGKILL');
    await ended;
    expect((await resumed(run)).code).toBe(0);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it('a writer that was taken over cannot commit', async () => {
    const run = copyOf(stopped);
    const { child, ended, seen } = startCli(['resume', run, '--json', '--checkpoint-every', '4']);
    await seen('stdout', '"type":"block"');
    child.kill('SIGSTOP');
    const next = takeOver(run);
    const before = manifestsOf(run).at(-1);
    child.kill('SIGCONT');
    const { code, stderr } = await ended;
    expect(code).toBe(75);
    expect(stderr).toMatch(/process 1 on .* has taken the run over and is writing it/);
    expect(manifestsOf(run).at(-1)! <= `${before!}~`).toBe(true);
    rmSync(inCheckpoints(run, next));
    expect((await resumed(run)).code).toBe(0);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it.each([
    ['a writer that was taken over publishes nothing, and takes nothing away', 0],
    ['it stops at a block, once it has looked', 10_500],
  ])('%s', async (_name, silent) => {
    const run = copyOf(stopped);
    // No checkpoint comes that would say so.
    const { child, ended, seen } = startCli(['resume', run, '--json', '--checkpoint-every', '10000']);
    await seen('stdout', '"type":"block"');
    child.kill('SIGSTOP');
    const next = takeOver(run);
    await sleep(silent);
    child.kill('SIGCONT');
    const { code, stdout, stderr } = await ended;
    expect(code).toBe(75);
    expect(stderr).toMatch(/process 1 on .* has taken the run over and is writing it/);
    if (silent > 0) expect(stdout).not.toMatch(/"block":49,"blocks":50/);
    expect(readdirSync(run)).not.toContain('run.json');
    expect(readdirSync(run).filter((name) => /^[a-z].*parquet$/.test(name))).toEqual([]);
    expect(readdirSync(run)).toContain('spill');
    expect(readFileSync(join(run, 'events.ndjson'), 'utf8')).not.toContain('"type":"failed"');
    rmSync(inCheckpoints(run, next));
    expect((await resumed(run)).code).toBe(0);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it('stopped before anything is done, with engine exact: goes on from the beginning', async () => {
    const run = join(root, 'early');
    const options = [models, '--out', run, ...common, '--engine', 'exact'];
    const { child, ended, seen } = startCli(['run', ...options, '--json']);
    await seen('stdout', '"checkpoint":1');
    child.kill('SIGUSR1');
    expect((await ended).code).toBe(75);
    const { code, stderr, event } = await resumed(run);
    expect(code, stderr).toBe(0);
    expect(event).toMatchObject({ block: 0, modelsSeen: 0 });
    const exact = join(root, 'early-whole');
    expect((await runCli(['run', models, '--out', exact, ...common, '--engine', 'exact'])).code).toBe(0);
    expect(tableDigests(run)).toEqual(tableDigests(exact));
  });

  it.each([
    ['as it was', []],
    ['where the modes no longer share a pass', ['--memory', '3MiB']],
  ])('goes on from a block with all modes, %s', async (name, more) => {
    const options = [...common, '--mode', 'models,rows,cols'];
    const reference = join(root, `modes-whole-${name}`);
    expect((await runCli(['run', models, '--out', reference, ...options, '--quiet'])).code).toBe(0);
    const run = join(root, `modes-${name}`);
    const { child, ended, seen } = startCli([
      'run',
      models,
      '--out',
      run,
      ...options,
      '--checkpoint-every',
      '4',
      '--json',
    ]);
    await seen('stdout', '"checkpoint":5');
    child.kill('SIGTERM');
    expect((await ended).code).toBe(75);
    expect(checkpointsOf(run).some((file) => file.startsWith('scatter-'))).toBe(true);
    const { code, stderr, event } = await resumed(run, ...more);
    expect(code, stderr).toBe(0);
    expect(event.modelsSeen).toBeGreaterThan(8);
    expect(tableDigests(run)).toEqual(tableDigests(reference));
  });

  it('makes the snapshots of blocks that are folded again', async () => {
    const run = join(root, 'snapshots');
    const options = ['--snapshot-every', '1', '--checkpoint-every', '40'];
    const { child, ended, seen } = startCli(['run', models, '--out', run, ...common, ...options, '--json']);
    await seen('stdout', '"folder":"snapshots/000015"');
    child.kill('SIGKILL');
    await ended;
    const { code, stderr, event } = await resumed(run);
    expect(code, stderr).toBe(0);
    expect(event.lost).toBeGreaterThan(0);
    expect(readdirSync(join(run, 'snapshots'))).toHaveLength(49);
  });

  it('two runs into one folder at once: one of them does it', async () => {
    const run = join(root, 'twice');
    const both = await Promise.all([0, 1].map(() => runCli(['run', models, '--out', run, ...common, '--quiet'])));
    expect(both.map(({ code }) => code).sort()).toEqual([
      0,
      expect.toSatisfy((code: number) => code === 73 || code === 75),
    ]);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
  });

  it('finished but for its last checkpoint: keeps its results, and resume writes it', async () => {
    const run = join(root, 'all-but-the-last');
    const { child, ended, seen } = startCli(['run', models, '--out', run, ...common, '--json']);
    await seen('stdout', '"checkpoint":1');
    child.kill('SIGSTOP');
    // It is there for who creates it, and gone once that has failed.
    symlinkSync('nowhere', inCheckpoints(run, 'manifest-00000002.json'));
    child.kill('SIGCONT');
    const { code, stderr } = await ended;
    expect(code).toBe(74);
    expect(stderr).toMatch(/manifest-00000002\.json: failed while writing it: EEXIST/);
    expect(manifestsOf(run)).toEqual(['manifest-00000001.json']);
    const tablesOf = (folder: string) =>
      Object.fromEntries(Object.entries(tableDigests(folder)).filter(([file]) => !file.startsWith('checkpoints')));
    expect(tablesOf(run)).toEqual(tablesOf(whole));
    const status = JSON.parse((await runCli(['status', run, '--json'])).stdout);
    expect(status).toMatchObject({ stage: 'stopped', damages: [], checkpoint: { sequence: 1 } });
    const again = await resumed(run);
    expect(again.code, again.stderr).toBe(0);
    expect(tableDigests(run)).toEqual(tableDigests(whole));
    expect(JSON.parse((await runCli(['status', run, '--json'])).stdout)).toMatchObject({
      stage: 'finished',
      checkpoint: { can_extend: true },
    });
  });

  it('says what is no run', async () => {
    const { code, stderr } = await runCli(['resume', models]);
    expect(code).toBe(65);
    expect(stderr).toMatch(/expected the folder of a run, found no checkpoint in it/);
  });
});

it('a run into the folder of a run is refused, with the command that goes on', async () => {
  const again = await runCli(['run', models, '--out', stopped, ...common]);
  expect(again.code).toBe(73);
  expect(again.stderr).toContain(`holds a run that is not finished; go on with: weightspan resume ${stopped}`);
  const finished = await runCli(['run', models, '--out', whole, ...common]);
  expect(finished.code).toBe(73);
  expect(finished.stderr).toContain(`weightspan extend ${whole} SOURCES`);
});

it('status says how far a run has come, and changes nothing', async () => {
  const before = spawnSync('find', [stopped, '-printf', '%p %s %T@\n']).stdout.toString();
  const status = JSON.parse((await runCli(['status', stopped, '--json'])).stdout);
  expect(status).toMatchObject({
    stage: 'stopped',
    engine: 'incremental',
    models: 200,
    slots: 2,
    owner: null,
    damages: [],
  });
  expect(status.checkpoint).toMatchObject({ sequence: newest(stopped).sequence, verifies: true });
  expect(status.bytes_per_second).toBeGreaterThan(0);
  const text = (await runCli(['status', stopped])).stdout;
  expect(text).toMatch(/stopped before its end/);
  expect(text).toMatch(new RegExp(`next +weightspan resume ${stopped}`));
  expect(spawnSync('find', [stopped, '-printf', '%p %s %T@\n']).stdout.toString()).toBe(before);
});

describe('extend', () => {
  const halves = ['first', 'second'].map((name) => join(root, name));
  beforeAll(() => {
    const [first, second] = halves as [string, string];
    writeMany(first, 24, 24, slots, 5);
    writeMany(second, 24, 24, slots, 6, 24);
  });

  /** Digests of the tables, but for columns that say which generation a row came with. */
  const numbersOf = async (run: string) => {
    const { 'models.parquet': _models, 'convergence.parquet': _convergence, ...digests } = tableDigests(run);
    const rows = (await readWithHyparquet(join(run, 'convergence.parquet'))).map(
      ({ generation: _generation, ...row }) => row,
    );
    return { digests, rows };
  };

  it.each([
    ['incremental', []],
    ['incremental', ['--memory', '20MiB']],
    ['incremental', ['--mode', 'models,cols']],
    ['frequent-directions', ['--memory', '20MiB']],
    ['randomized', []],
    ['randomized', ['--memory', '20MiB']],
    ['randomized', ['--passes', '2']],
    ['exact', []],
  ])('24 + 24 models are 48: %s %s', async (engine, more) => {
    const name = `${engine}-${more.join('')}`.replaceAll(/[^a-zA-Z0-9-]/g, '');
    const both = join(root, `both-${name}`);
    const run = join(root, `extended-${name}`);
    const options = ['--rank', '3', '--block', '8', '--device', 'tfjs', '--engine', engine, ...more, '--quiet'];
    expect((await runCli(['run', ...halves, '--out', both, ...options])).code).toBe(0);
    expect((await runCli(['run', halves[0]!, '--out', run, ...options])).code).toBe(0);
    const { code, stderr } = await runCli(['extend', run, halves[1]!, '--quiet']);
    expect(code, stderr).toBe(0);
    expect(await numbersOf(run)).toEqual(await numbersOf(both));
    const generations = (await readWithHyparquet(join(run, 'models.parquet'))).map(({ generation }) => generation);
    expect(generations).toEqual([...Array(24).fill(0), ...Array(24).fill(1)]);
    const convergence = await readWithHyparquet(join(run, 'convergence.parquet'));
    for (const { models_seen, generation } of convergence) expect(generation).toBe(Number(models_seen) > 24 ? 1 : 0);
    const again = await runCli(['extend', run, halves[1]!]);
    expect([again.code, again.stdout]).toEqual([0, `${run}: has all of these models already\n`]);
  });

  it('leaves out models that are in, by name, and stands as it was until it is whole', async () => {
    const run = join(root, 'killed-extension');
    const both = join(root, 'both-killed');
    const options = ['--rank', '3', '--block', '1', '--device', 'tfjs', '--quiet'];
    expect((await runCli(['run', ...halves, '--out', both, ...options])).code).toBe(0);
    expect((await runCli(['run', halves[0]!, '--out', run, ...options])).code).toBe(0);
    const before = tableDigests(run);
    const { child, ended, seen } = startCli([
      'extend',
      run,
      halves[1]!,
      halves[0]!,
      '--checkpoint-every',
      '1',
      '--json',
    ]);
    await seen('stdout', '"type":"block"');
    child.kill('SIGKILL');
    await ended;
    const { checkpoints: _none, ...tables } = tableDigests(run);
    expect(Object.fromEntries(Object.entries(tables).filter(([file]) => !file.startsWith('checkpoints')))).toEqual(
      before,
    );
    const { code, stderr } = await resumed(run);
    expect(code, stderr).toBe(0);
    const { digests, rows } = await numbersOf(run);
    const expected = await numbersOf(both);
    expect(rows).toEqual(expected.rows);
    expect(digests['spectrum.parquet']).toBe(expected.digests['spectrum.parquet']);
    expect(digests['coefficients.parquet']).toBe(expected.digests['coefficients.parquet']);
    const skipped = (await readWithHyparquet(join(run, 'models.parquet'))).filter(({ status }) => status === 'skipped');
    expect(skipped).toHaveLength(24);
    expect(skipped[0]).toMatchObject({ reason: expect.stringMatching(/^in the run already, as m00000$/) });
  });

  it('leaves a run as it is whose state is not whole, and says what is missing', async () => {
    const run = copyOf(whole);
    rewriteManifest(inCheckpoints(run, manifestsOf(run).at(-1)!), (manifest) => ({
      ...manifest,
      content: { ...manifest.content, kept: [{ ...manifest.content.kept[0], slots: 1 }] },
    }));
    const before = tableDigests(run);
    const { code, stderr } = await runCli(['extend', run, halves[0]!, '--quiet']);
    expect(code).toBe(65);
    expect(stderr).toMatch(/its state was not kept as a whole: b is missing; start over with all models/);
    expect(tableDigests(run)).toEqual(before);
    expect(manifestsOf(run)).toEqual(manifestsOf(whole));
    const status = JSON.parse((await runCli(['status', run, '--json'])).stdout);
    expect(status).toMatchObject({ stage: 'finished', checkpoint: { can_extend: false } });
  });

  it('stops at the first block after a checkpoint that cannot be written', async () => {
    const run = copyOf(whole);
    const lost = inCheckpoints(run, '.tmp-begin-2-0');
    mkdirSync(lost);
    const { code, stdout, stderr } = await runCli(['extend', run, halves[0]!, '--json']);
    expect(code, stderr).toBe(74);
    expect(stderr).toMatch(/\.tmp-begin-2-0: failed while creating it/);
    expect(stdout.split('"type":"block"').length - 1).toBeLessThan(2);
    rmdirSync(lost);
    const again = await runCli(['extend', run, halves[0]!, '--quiet']);
    expect(again.code, again.stderr).toBe(0);
  });

  it.each([
    ['as it comes', []],
    ['with a checkpoint of the last block', ['--checkpoint-every', '24']],
  ])('says so where the state was dropped, %s, or the run is not finished', async (name, every) => {
    const run = join(root, `dropped-${name.replaceAll(' ', '-')}`);
    const options = ['--rank', '3', '--block', '8', '--device', 'tfjs', '--quiet', '--drop-state', ...every];
    expect((await runCli(['run', halves[0]!, '--out', run, ...options])).code).toBe(0);
    expect(newest(run).content.kept).toEqual([]);
    expect(newest(run).files.map(({ name: file }) => file.split('-')[0])).toEqual(['begin']);
    const dropped = await runCli(['extend', run, halves[1]!]);
    expect(dropped.code).toBe(65);
    expect(dropped.stderr).toMatch(/its state was not kept \(--drop-state\)/);
    const merged = await runCli(['merge', run, whole, '--out', join(root, 'merged-dropped')]);
    expect(merged.stderr).toMatch(/its state was not kept \(--drop-state\)/);
    const unfinished = await runCli(['extend', stopped, halves[1]!]);
    expect(unfinished.code).toBe(65);
    expect(unfinished.stderr).toContain(`first go on with: weightspan resume ${stopped}`);
  });
});

it('the built command has all of them', () => {
  const help = spawnSync(process.execPath, [cli, '--help']).stdout.toString();
  for (const command of ['resume', 'extend', 'status']) expect(help).toContain(command);
});

it.each([
  ['a group', []],
  // Groups of one slot.
  ['the last group', ['--memory', '1.2MB']],
])('killed behind the last block of %s, goes on and can be extended', async (name, memory) => {
  const run = join(root, `behind-${name.replaceAll(' ', '-')}`);
  // A checkpoint at the last block of each group.
  const args = [models, '--out', run, ...common, ...memory, '--checkpoint-every', '200', '--quiet'];
  expect((await runCli(['run', ...args])).code).toBe(0);
  // As if it had been killed there: nothing is finished, and the checkpoint before is of that block.
  rmSync(inCheckpoints(run, manifestsOf(run).at(-1)!));
  rmSync(join(run, 'run.json'));
  const { code, stderr, event } = await resumed(run);
  expect(code, stderr).toBe(0);
  expect(event).toMatchObject({ modelsSeen: 200, block: 50 });
  const added = join(root, `added-behind-${name.replaceAll(' ', '-')}`);
  writeMany(added, 4, 4, slots, 7, 900);
  expect(await runCli(['extend', run, added, '--quiet'])).toMatchObject({ code: 0, stderr: '' });
});

it('killed between two groups, goes on and can be extended: what the first one left is kept', async () => {
  const out = join(root, 'between');
  // Groups of one slot, and a checkpoint at the last block of each.
  const args = [models, '--out', out, ...common, '--memory', '1.2MB', '--checkpoint-every', '200'];
  const { child, ended, seen } = startCli(['run', ...args, '--json']);
  await seen('stdout', '"type":"group","group":1');
  child.kill('SIGKILL');
  await ended;
  expect((await resumed(out)).code).toBe(0);
  const added = join(root, 'added-between');
  writeMany(added, 4, 4, slots, 7, 900);
  const { code, stderr } = await runCli(['extend', out, added, '--quiet']);
  expect([code, stderr]).toEqual([0, '']);
});
