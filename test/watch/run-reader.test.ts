// What a run folder is taken for: the five states and how each comes about, and what stands in the tables.
import { appendFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { thisProcess } from '../../pipeline/lease-owner.ts';
import { RunReader } from '../../watch/server/run-reader.ts';
import { RunTables } from '../../watch/server/run-tables.ts';
import { root, runCli, temporaryFolder } from '../pipeline/cli-process.ts';
import { blockOf, failed, plan, progressOf, stopped, WatchedRun } from './watched-run.ts';

const block = blockOf(0, [progressOf('a', 0.5, null)]);
const dead = { ...thisProcess(), pid: 2 ** 22 + 1, started: '1' };
const elsewhere = { ...thisProcess(), host: 'elsewhere' };

it.each<[string, (run: WatchedRun) => void, string, RegExp]>([
  ['nothing yet', () => {}, 'waiting', /Waiting for the run to begin/],
  ['a plan, written right now', (run) => run.lease().tell(plan), 'empty', /No block/],
  ['a block, written right now', (run) => run.lease().tell(plan, block), 'running', /being folded/],
  ['written by another machine', (run) => run.lease(elsewhere).tell(plan, block), 'running', /being folded/],
  ['a failure', (run) => run.lease().tell(plan, block, failed), 'failed', /NaN at 3/],
  ['a signal', (run) => run.tell(plan, block, stopped), 'interrupted', /SIGTERM.*weightspan resume/],
  ['killed', (run) => run.lease(dead).tell(plan, block), 'interrupted', /no sign of life.*weightspan resume/],
  ['nobody there', (run) => run.tell(plan, block), 'interrupted', /Nobody writes it any more/],
  [
    'resumed after a signal',
    (run) => {
      run.lease();
      const where = { checkpoint: 2, groups: 1, group: 0, block: 1, modelsSeen: 4, bytesRead: 4, seconds: 1, lost: 0 };
      run.tell(plan, block, stopped, { type: 'resumed', ...where, damages: [] }, block);
    },
    'running',
    /being folded/,
  ],
])('takes %s for what it is', async (_, make, state, text) => {
  const run = new WatchedRun();
  make(run);
  const reader = new RunReader(run.folder);
  await reader.look();
  expect(reader.status().state).toBe(state);
  expect(reader.status().text).toMatch(text);
});

it('gives up a writer on another machine that is silent', async () => {
  let now = 0;
  const run = new WatchedRun();
  run.lease(elsewhere);
  run.tell(plan, block);
  const reader = new RunReader(run.folder, () => now);
  await reader.look();
  expect(reader.status().state).toBe('running');
  now = 36_000;
  expect(reader.status()).toMatchObject({
    state: 'interrupted',
    text: expect.stringContaining('on elsewhere gives no sign'),
  });
});

it('tells when a run has taken its folder away', async () => {
  const run = new WatchedRun();
  run.tell(plan);
  const reader = new RunReader(run.folder);
  await reader.look();
  rmSync(run.folder, { recursive: true });
  await reader.look();
  expect(reader.status()).toMatchObject({ state: 'failed', text: expect.stringContaining('is gone') });
});

it('reads a log larger than a piece piece by piece, and knows the same in the end', async () => {
  const run = new WatchedRun();
  run.lease().tell(plan);
  const time = new Date(0).toISOString();
  const wide = 'x'.repeat(2_000);
  const count = 5_000;
  const lines = Array.from({ length: count }, (_, i) =>
    JSON.stringify({ seq: i + 1, time, ...blockOf(i, [progressOf(wide, 0.5, 2)]) }),
  );
  appendFileSync(join(run.folder, 'events.ndjson'), `${lines.join('\n')}\n`);
  const reader = new RunReader(run.folder);
  const pieces: number[] = [];
  for (let hasMore = true; hasMore; ) {
    const look = await reader.look();
    hasMore = look.hasMore;
    pieces.push(look.lines.reduce((sum, { text }) => sum + text.length, 0));
  }
  expect(pieces.length).toBeGreaterThan(2);
  // 4 MiB are read at a time, and a line that was begun before.
  expect(Math.max(...pieces)).toBeLessThan(2 ** 22 + 1e5);
  expect(reader.view).toMatchObject({ seq: count, progress: { block: count - 1 } });
  expect(reader.view.slots).toHaveLength(1);
});

it('opens a folder full of nonsense without falling over', async () => {
  const run = new WatchedRun();
  run.lease();
  for (const name of ['run.json', 'events.ndjson', 'slots.parquet', 'checkpoints/manifest-00000001.json'])
    writeFileSync(join(run.folder, name), '{"manifest":{"content":{"begin":"../../etc/passwd"}},"config":7}\n');
  const reader = new RunReader(run.folder);
  await reader.look();
  expect(reader.view.slots).toEqual([]);
});

it('passes over events that are not what they say', async () => {
  const run = new WatchedRun();
  run.lease();
  run.tell(plan, { type: 'block' } as never, { type: 'warning' } as never, { type: 'done' } as never, block);
  const reader = new RunReader(run.folder);
  const { lines } = await reader.look();
  expect(lines.map(({ event }) => event.type)).toEqual(['plan', 'block']);
  expect(reader.view.slots).toHaveLength(1);
  expect(reader.status().state).toBe('running');
});

it.each([
  ['incremental', ['--block', '4']],
  ['exact', ['--engine', 'exact', '--mode', 'models,rows', '--block', '4']],
])('shows of a finished run of the engine %s what its tables say, with its events or without', async (_, options) => {
  const out = join(temporaryFolder(), 'run');
  const ended = await runCli([
    'run',
    join(root, 'examples/zoo/full'),
    '--rank',
    '8',
    '--out',
    out,
    '--quiet',
    ...options,
  ]);
  expect(ended.stderr).toBe('');
  const subspaces = await new RunTables(out).rows('subspaces');
  const names = new Map((await new RunTables(out).rows('slots')).map(({ slot_id, name }) => [slot_id, name]));
  const convergence = await new RunTables(out).rows('convergence');
  const look = async () => {
    const reader = new RunReader(out);
    await reader.look();
    expect(reader.status().state).toBe('finished');
    return reader;
  };
  const reader = await look();
  expect(reader.view.slots).toHaveLength(subspaces.length);
  for (const [i, slot] of reader.view.slots.entries()) {
    const detail = (await reader.detail(i))!;
    expect(detail.from).toBe('tables');
    const row = subspaces.find(({ mode, slot_id }) => mode === slot.mode && names.get(slot_id!) === slot.name)!;
    expect(slot).toMatchObject({ captured: row.captured, flat: row.flat_evr, models: 14, rank: row.rank });
    if (slot.mode === 'models' && slot.name !== '*') expect(slot.captured).toBeGreaterThan(0);
    expect(detail.spectrum[0]!.evr).toBeCloseTo(slot.evr_1!, 12);
    if (slot.mode !== 'models') continue;
    expect(detail.models).toHaveLength(14);
    // Σ c² of a component is its eigenvalue; coordinates are float32.
    const energy = detail.models.reduce((sum, { coordinates }) => sum + coordinates[0]! ** 2, 0);
    expect(energy / detail.spectrum[0]!.eigenvalue).toBeCloseTo(1, 5);
    const drifts = detail.curves.drift!;
    expect(slot.drift).toBe(drifts.at(-1));
    expect(convergence.some(({ angle_max_4 }) => angle_max_4 === slot.drift)).toBe(true);
  }
  rmSync(join(out, 'events.ndjson'));
  const without = await look();
  expect(without.view.slots.map(({ name, mode }) => `${mode} ${name}`).sort()).toEqual(
    reader.view.slots.map(({ name, mode }) => `${mode} ${name}`).sort(),
  );
  for (const slot of without.view.slots) {
    const same = reader.view.slots.find(({ name, mode }) => name === slot.name && mode === slot.mode)!;
    expect(slot).toMatchObject({ captured: same.captured, drift: same.drift, flat: same.flat, models: same.models });
    expect(slot.evr_1).toBeCloseTo(same.evr_1!, 12);
  }
});
