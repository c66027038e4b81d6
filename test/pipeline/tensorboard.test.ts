// `--tensorboard` on the command line: what a whole run, one that was stopped and one that was extended leave for TensorBoard,
// and what becomes of a run whose folder for it fails.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import { hasProtoc, shownOf } from '../sinks/tensorboard/read-event-files.ts';
import { writeSafetensors } from '../sources/write-safetensors.ts';
import { runCli, startCli, temporaryFolder, writeModels } from './cli-process.ts';
import { writeMany } from './killing.ts';

const slots = [
  { name: 'layer.0.w', shape: [60, 70] },
  { name: 'layer.1.w', shape: [70, 60] },
] as const;

const small = ['--rank', '4', '--block', '4', '--device', 'tfjs', '--quiet'];

/** What the run's log says, as [step, value] by tag. */
const logged = (run: string): Map<string, (readonly [number, number])[]> => {
  const found = new Map<string, (readonly [number, number])[]>();
  for (const line of readFileSync(join(run, 'events.ndjson'), 'utf8').trim().split('\n')) {
    const event = JSON.parse(line) as LoggedEvent;
    if (event.type !== 'block') continue;
    for (const { slot, evr_1, drift } of event.slots)
      for (const [tag, value] of [
        [`evr@1/${slot}`, evr_1],
        [`drift/${slot}`, drift],
      ] as const) {
        if (value === null) continue;
        found.set(tag, [...(found.get(tag) ?? []), [event.modelsSeen, Math.fround(value)]]);
      }
  }
  return found;
};

const shown = (folder: string, tags: Iterable<string>) => {
  const all = shownOf(folder);
  return new Map(
    [...tags].map((tag) => [tag, (all.get(tag) ?? []).map(({ step, value }) => [step, Math.fround(value as number)])]),
  );
};

describe.runIf(hasProtoc)('--tensorboard', () => {
  it('shows what the log says, of a run that was stopped and resumed too, and of one that was extended', async () => {
    const folder = temporaryFolder();
    const [models, more, out, tb] = ['m', 'more', 'run', 'tb'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
      string,
    ];
    writeMany(models, 240, 12, slots);
    writeMany(more, 8, 8, slots, 2, 500);
    // Two groups, so that steps begin again within a run.
    const args = [models, '--out', out, '--memory', '1MiB', '--checkpoint-every', '20', '--tensorboard', tb, ...small];
    const run = startCli(['run', ...args]);
    const events = join(out, 'events.ndjson');
    const reached = '"group":1,"groups":2,"block":3,';
    while (!existsSync(events) || !readFileSync(events, 'utf8').includes(reached)) {
      expect(run.child.exitCode, 'it ended before it could be killed').toBe(null);
      await new Promise((done) => setTimeout(done, 5));
    }
    run.child.kill('SIGKILL');
    await run.ended;
    // The folder is the run's own: it goes on there without being told again.
    const resumed = await runCli(['resume', out, '--quiet']);
    expect([resumed.code, resumed.stderr]).toEqual([0, '']);
    const whole = logged(out);
    expect([...whole.keys()]).toHaveLength(4);
    for (const points of whole.values()) expect(points.length).toBeGreaterThan(57);
    expect(readdirSync(join(tb, 'run'))).toHaveLength(2);
    expect(shown(join(tb, 'run'), whole.keys())).toEqual(whole);

    const elsewhere = join(folder, 'elsewhere');
    const extended = await runCli(['extend', out, more, '--tensorboard', elsewhere, '--quiet']);
    expect([extended.code, extended.stderr]).toEqual([0, '']);
    const longer = logged(out);
    expect(longer.get('evr@1/layer.0.w')!.at(-1)![0]).toBe(248);
    expect(shown(join(elsewhere, 'run'), longer.keys())).toEqual(longer);
    expect(readdirSync(join(tb, 'run'))).toHaveLength(2);
  });

  it('tells of engines and modes that know nothing before the end', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 6);
    const config = join(folder, 'run.yaml');
    writeFileSync(config, `tensorboard: ${join(folder, 'tb')}\nengine: exact\nmode: [models, rows]\n`);
    const { code, stderr } = await runCli(['run', models, '--out', join(folder, 'run'), '--config', config, ...small]);
    expect([code, stderr]).toEqual([0, '']);
    const points = shownOf(join(folder, 'tb/run'));
    for (const tag of ['evr@1/w', 'evr@4 rows/w', 'spectrum/w', 'spectrum rows/w'])
      expect(
        points.get(tag)?.map(({ step }) => step),
        tag,
      ).toEqual([6]);
  });

  it('has one point a step where a second pass sharpens what the first one found', async () => {
    const folder = temporaryFolder();
    const args = [writeModels(join(folder, 'm'), 8), '--out', join(folder, 'run'), '--tensorboard', join(folder, 'tb')];
    const { code } = await runCli(['run', ...args, '--engine', 'randomized', '--passes', '2', ...small]);
    expect(code).toBe(0);
    const points = shownOf(join(folder, 'tb/run'));
    expect(points.get('evr@1/w')!.map(({ step }) => step)).toEqual([4, 8]);
    expect(points.get('evr@1 pass 2/w')!.map(({ step }) => step)).toEqual([8]);
  });
});

describe('a folder for it', () => {
  it.each([
    ['that is a file', 'file', 'which is no folder'],
    ['below a file', 'file/tb', 'which cannot be used (ENOTDIR)'],
  ])('%s is told before anything is read: 64', async (_, name, why) => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'file'), '');
    const models = writeModels(join(folder, 'm'), 2);
    const tensorboard = ['--tensorboard', join(folder, name)];
    const { code, stderr } = await runCli(['run', models, '--out', join(folder, 'run'), ...tensorboard, ...small]);
    expect(code).toBe(64);
    expect(stderr).toContain('tensorboard: expected a folder to write to, found ');
    expect(stderr).toContain(why);
    expect(existsSync(join(folder, 'run'))).toBe(false);
  });

  it('that fails later costs the run nothing, and is told once', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 8);
    mkdirSync(join(folder, 'tb'));
    // The run's own folder in it cannot be made.
    writeFileSync(join(folder, 'tb/run'), '');
    const tensorboard = ['--tensorboard', join(folder, 'tb')];
    const out = join(folder, 'run');
    const { code, stderr } = await runCli(['run', models, '--out', out, ...tensorboard, ...small]);
    expect(code).toBe(0);
    expect(stderr.trim().split('\n')).toEqual([
      expect.stringMatching(
        /^weightspan: no more TensorBoard events are written to .*tb\/run: EEXIST.*; the run goes on$/,
      ),
    ]);
    expect(existsSync(join(out, 'run.json'))).toBe(true);
  });

  it('inside the run folder goes with a run that leaves nothing', async () => {
    const folder = temporaryFolder();
    const models = writeModels(join(folder, 'm'), 4);
    const data = Float32Array.from({ length: 128 }, () => Number.NaN);
    writeSafetensors(join(models, '0000/model.safetensors'), [{ name: 'w', dtype: 'F32', shape: [8, 16], data }]);
    const out = join(folder, 'run');
    const { code } = await runCli(['run', models, '--out', out, '--tensorboard', join(out, 'tb'), ...small]);
    expect(code).toBe(65);
    expect(existsSync(out)).toBe(false);
  });
});
