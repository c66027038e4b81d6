// What `weightspan merge` refuses, with all reasons at once, and what a merge that fails or is killed leaves: nothing.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findMergeProblems, type RunToMerge } from '../../pipeline/check-mergeable.ts';
import { readBegin, recoverRun } from '../../pipeline/checkpoints.ts';
import { Lease } from '../../pipeline/lease.ts';
import { runCli, startCli } from './cli-process.ts';
import { writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-unmerged-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (name: string): string => join(root, name);
const slots = [
  { name: 'a', shape: [40, 50] },
  { name: 'b', shape: [10, 20] },
] as const;
const models = (...ids: number[]): string[] => ids.map((id) => at(`models/m0000${id}`));

const runs: readonly (readonly [name: string, args: readonly string[]])[] = [
  ['first', [...models(0, 1), '--mode', 'models,rows']],
  ['second', [...models(2, 3), '--mode', 'models,rows']],
  ['other', [...models(1, 4), '--rank', '5', '--exclude', 'b', '--base', at('models/m00007')]],
  ['exact', [...models(5, 6), '--engine', 'exact']],
  ['sides', [...models(5, 6), '--mode', 'rows']],
  ['dropped', [...models(5, 6), '--drop-state']],
];

beforeAll(async () => {
  writeMany(at('models'), 8, 8, slots);
  for (const [name, args] of runs) {
    const common = ['--rank', '4', '--block', '2', '--device', 'tfjs', '--quiet'];
    const given = args.includes('--rank') ? common.slice(2) : common;
    const { code, stderr } = await runCli(['run', ...args, '--out', at(name), ...given]);
    expect(code, stderr).toBe(0);
  }
}, 120_000);

const opened = (name: string): RunToMerge => {
  const { manifest } = recoverRun(at(name));
  return { run: name, begin: readBegin(at(name), manifest!), content: manifest!.content };
};

describe('findMergeProblems', () => {
  it('has nothing against runs over other models', () => {
    const both = [opened('first'), opened('second')];
    expect(findMergeProblems(both, both[0]!.begin.device)).toEqual([]);
  });

  it('names everything that differs, at once', () => {
    const problems = findMergeProblems([opened('first'), opened('other')], null);
    const expected = [
      /^other: mode models, expected models, rows as in first$/,
      /^other: rank 5, expected 4 as in first$/,
      /^other: base m00007 \(fingerprint [0-9a-f]{12}\), expected none as in first$/,
      /^other: without slots that are in first: b$/,
    ];
    expect(problems).toHaveLength(expected.length);
    for (const text of expected) expect(problems).toContainEqual(expect.stringMatching(text));
    const turned = findMergeProblems([opened('other'), opened('first')], null);
    expect(turned).toContainEqual('first: slots that are not in other: b');
    expect(findMergeProblems([opened('first'), { ...opened('first'), run: 'again' }], null)).toEqual([
      expect.stringMatching(
        /^again: models that are in first too, by fingerprint: m00000, m00001; a model counts once/,
      ),
    ]);
  });

  it.each([
    ['exact', /^exact: engine exact keeps no state that could be merged: .* weightspan run SOURCES --engine exact/],
    ['sides', /^sides: it has only the modes rows, .* leave no scatter matrices behind/],
    ['dropped', /^dropped: its state was not kept \(--drop-state\)/],
  ])('refuses %s by name, with what can be done', (name, text) => {
    expect(findMergeProblems([opened(name), opened(name)], null)[0]).toMatch(text);
  });

  it('merges other streaming engines, but not two passes, other seeds or several engines', () => {
    const as = (name: string, config: Partial<RunToMerge['begin']['config']>): RunToMerge => {
      const run = opened(name);
      return { ...run, begin: { ...run.begin, config: { ...run.begin.config, ...config } } };
    };
    const both = (config: Partial<RunToMerge['begin']['config']>, other = config) =>
      findMergeProblems([as('first', config), as('second', other)], null);
    expect(both({ engine: 'frequent-directions' })).toEqual([]);
    expect(both({ engine: 'randomized', seed: 7 })).toEqual([]);
    expect(both({ engine: 'randomized', passes: 2 })[0]).toMatch(/^first: it had two passes .* run it again with one$/);
    expect(both({ engine: 'randomized', seed: 7 }, { engine: 'randomized', seed: 8 })).toEqual([
      'second: seed 8, expected 7 as in first',
    ]);
    expect(both({ engine: 'randomized' }, { engine: 'frequent-directions' })).toEqual([
      'second: engine frequent-directions, expected randomized as in first',
    ]);
  });

  it('refuses scatter matrices that are not there, other shapes, other names and another device', () => {
    const [first, second] = [opened('first'), opened('second')];
    const bare = {
      ...second,
      content: { ...second.content, kept: second.content.kept.map((one) => ({ ...one, sides: null })) },
    };
    expect(findMergeProblems([first, bare], null)[0]).toMatch(/modes rows did not share the pass .* more --memory/);
    const [a, b] = second.begin.slots as [RunToMerge['begin']['slots'][0], RunToMerge['begin']['slots'][0]];
    const turned = {
      ...second,
      begin: {
        ...second.begin,
        slots: [
          { ...a, rows: 50, cols: 40 },
          { ...b, name: 'c' },
        ],
      },
    };
    expect(findMergeProblems([first, turned], null)).toEqual([
      'second: slots that are not in first: c',
      'second: without slots that are in first: b',
      'second: slot a: 50 x 40, expected 40 x 50 as in first',
    ]);
    const { device } = second.begin;
    const foreign = { ...second, begin: { ...second.begin, device: { ...device, version: '0.1' } } };
    expect(findMergeProblems([first, foreign], device)).toEqual([
      expect.stringMatching(/^second: device: begun on tfjs \(tfjs-wasm 0\.1, .*--allow-inexact/),
    ]);
    expect(findMergeProblems([first, foreign], null)).toEqual([]);
  });
});

describe('the command', () => {
  const merged = (...names: string[]) => runCli(['merge', ...names.map(at), '--out', at('merged')]);
  const leavesNothing = (): void => {
    expect(existsSync(at('merged'))).toBe(false);
    expect(readdirSync(root).filter((name) => name.startsWith('.tmp-'))).toEqual([]);
  };

  it('tells everything against all runs in one message', async () => {
    const { code, stderr } = await merged('first', 'other', 'exact', 'nowhere', 'first');
    expect(code).toBe(65);
    for (const part of ['rank ', 'engine exact keeps no state', 'nowhere: expected the folder', 'first: given twice'])
      expect(stderr).toContain(part);
    leavesNothing();
  });

  it.each([
    ['one run alone', ['first'], 64, /expected two or more to merge, found 1/],
    ['an output that is one of the runs', ['first', 'second', '--out', 'second'], 64, /expected a folder apart from/],
  ])('refuses %s', async (_name, args, expected, text) => {
    const out = args.includes('--out') ? [] : ['--out', at('merged')];
    const { code, stderr } = await runCli([
      'merge',
      ...args.map((arg) => (arg.startsWith('-') ? arg : at(arg))),
      ...out,
    ]);
    expect(code).toBe(expected);
    expect(stderr).toMatch(text);
    leavesNothing();
  });

  it('refuses a folder that is not empty, a state that is damaged, and a run that is being written', async () => {
    mkdirSync(at('full'));
    writeFileSync(at('full/note.txt'), 'mine');
    const occupied = await runCli(['merge', at('first'), at('second'), '--out', at('full')]);
    expect([occupied.code, readdirSync(at('full'))]).toEqual([73, ['note.txt']]);

    cpSync(at('second'), at('damaged'), { recursive: true });
    for (const name of readdirSync(at('damaged/checkpoints')).filter((file) => file.startsWith('rows-'))) {
      const bytes = readFileSync(at(`damaged/checkpoints/${name}`));
      bytes[bytes.length - 9]! ^= 1;
      writeFileSync(at(`damaged/checkpoints/${name}`), bytes);
    }
    const damaged = await merged('first', 'damaged');
    expect(damaged.code).toBe(65);
    expect(damaged.stderr).toMatch(
      /damaged: (its state cannot be used: .*does not hold what was written|it is not finished)/,
    );

    const lease = await Lease.take(at('second'), at('second/checkpoints'));
    const locked = await merged('first', 'second');
    lease.release();
    expect([locked.code, locked.stderr]).toEqual([
      75,
      expect.stringMatching(/second: process \d+ on .* is writing it/),
    ]);
    leavesNothing();
  });

  it('killed, it leaves no run, and the next one clears away what was begun', async () => {
    const whole = await runCli(['merge', at('first'), at('second'), '--out', at('whole'), '--quiet']);
    expect(whole.code, whole.stderr).toBe(0);
    expect(whole.stdout).toMatch(/whole: 4 models, 2 slots/);
    const { child, ended, seen } = startCli(['merge', at('second'), at('first'), '--out', at('merged'), '--json']);
    await seen('stdout', '"type":"plan"');
    child.kill('SIGKILL');
    await ended;
    if (existsSync(at('merged'))) rmSync(at('merged'), { recursive: true });
    const { code, stderr } = await merged('second', 'first');
    expect(code, stderr).toBe(0);
    expect(tableDigests(at('merged'))).toEqual(tableDigests(at('whole')));
    expect(readdirSync(root).filter((name) => name.startsWith('.tmp-'))).toEqual([]);
    expect(readdirSync(at('merged/checkpoints')).filter((name) => name.startsWith('lease-'))).toEqual([]);
    const status = JSON.parse((await runCli(['status', at('merged'), '--json'])).stdout);
    expect(status).toMatchObject({ stage: 'finished', models: 4, checkpoint: { can_extend: true }, owner: null });
  });
});
