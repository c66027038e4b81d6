import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Effect } from 'effect';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { defaults, resolveConfig } from '../../configs/resolve-config.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'weightspan-resolve-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = (text: string): string => {
  const path = join(folder, 'run.yaml');
  writeFileSync(path, text);
  return path;
};
type Given = Readonly<Record<string, unknown>>;
const resolve = (flags: Given, config: string | null = null, command: 'plan' | 'run' = 'run') =>
  Effect.runPromise(resolveConfig(flags, config, command));
const issuesOf = async (flags: Given, config: string | null = null, command: 'plan' | 'run' = 'run') =>
  (await Effect.runPromise(Effect.flip(resolveConfig(flags, config, command)))).issues;

const enough = { sources: ['a'], out: 'r' };

it('has defaults for everything but the sources and the output', async () => {
  const { config, json, quiet } = await resolve(enough);
  expect(config).toMatchObject({
    ...defaults,
    ...enough,
    base: null,
    shuffle: null,
    include: [],
    exclude: [],
    rename: [],
  });
  expect(config.memory).toBeGreaterThanOrEqual(2 ** 20);
  expect(config.memory).toBeLessThanOrEqual(4 * 2 ** 30);
  expect(config.threads).toBeGreaterThanOrEqual(1);
  expect([json, quiet]).toEqual([false, false]);
});

it('lets flags override the file, and the file the defaults', async () => {
  const path = file(
    'sources: [x]\nout: y\nrank: 7\nblock: 9\ninclude: [one, two]\njson: true\ncenter: false\nmemory: 2MiB\n',
  );
  const { config, json } = await resolve({ rank: 5, include: ['three'], center: true }, path);
  expect(config).toMatchObject({
    sources: ['x'],
    out: 'y',
    rank: 5,
    block: 9,
    include: ['three'],
    center: true,
    memory: 2 ** 21,
    onMismatch: 'skip-slot',
  });
  expect(json).toBe(true);
});

it('keeps paths as they were given, relative to the current folder', async () => {
  expect((await resolve({}, file('sources: [models]\nout: runs/x\nbase: ../b\n'))).config).toMatchObject({
    sources: ['models'],
    out: 'runs/x',
    base: '../b',
  });
});

it('needs sources, and for a run an output', async () => {
  expect(await issuesOf({})).toEqual([
    'sources: expected at least one model, folder, glob, @list or -, found nothing',
    'out: expected the folder to write the run to (--out RUN), found nothing',
  ]);
  expect(await issuesOf({ sources: [], out: 'r' })).toHaveLength(1);
  expect((await resolve({ sources: ['a'] }, null, 'plan')).config.out).toBeNull();
});

it('does not report a wrong option as missing too', async () => {
  expect(await issuesOf({ sources: [''], out: '' })).toEqual([
    'sources[0]: expected a path, found ""',
    'out: expected a path, found ""',
  ]);
  expect(await issuesOf({}, file('sources: x\nout: 3\n'))).toHaveLength(2);
  expect(await issuesOf({}, join(folder, 'missing.yaml'))).toHaveLength(1);
});

it('reports the mistakes of the file, the flags and between them all at once', async () => {
  const path = file('rank: 0\nfoo: 1\nexclude: [x]\n');
  expect(await issuesOf({ sources: ['a'], block: 0, include: ['x'], rename: ['a'] }, path)).toEqual([
    `${path}: foo: unknown option`,
    `${path}: rank: expected a whole number of at least 1, found 0`,
    'block: expected a whole number from 1 to 4096, found 0',
    'out: expected the folder to write the run to (--out RUN), found nothing',
    'rename[0]: expected FROM=TO, found "a"',
    'exclude: contradicts include: both name "x"',
  ]);
});

describe('renames', () => {
  it.each([
    ['a=b', { from: 'a', to: 'b' }],
    ['model.=', { from: 'model.', to: '' }],
    ['a=b=c', { from: 'a', to: 'b=c' }],
  ])('%s', async (rule, expected) => {
    expect((await resolve({ ...enough, rename: [rule] })).config.rename).toEqual([expected]);
  });

  it.each(['a', '=b', '='])('%s is refused', async (rule) => {
    expect(await issuesOf({ ...enough, rename: [rule] })).toEqual([`rename[0]: expected FROM=TO, found "${rule}"`]);
  });

  it('one name cannot become two', async () => {
    expect(await issuesOf({ ...enough, rename: ['a=b', 'c=d', 'a=e'] })).toEqual([
      'rename: contradicts itself: "a" becomes "b" and "e"',
    ]);
    expect((await resolve({ ...enough, rename: ['a=b', 'a=b'] })).config.rename).toHaveLength(2);
  });
});

it.each([
  [{ seed: 3 }, 'seed: only the engine randomized has it; give --engine randomized, found engine incremental'],
  [
    { passes: 2, engine: 'exact' },
    'passes: only the engine randomized has it; give --engine randomized, found engine exact',
  ],
  [{ passes: 3, engine: 'randomized' }, 'passes: expected 1 or 2, found 3'],
])('%j is refused', async (options, issue) => {
  expect(await issuesOf({ ...enough, ...options })).toEqual([issue]);
  const { config } = await resolve({ ...enough, engine: 'randomized', passes: 2, seed: 3 });
  expect([config.seed, config.passes]).toEqual([3, 2]);
});

it('standard input can be a source once', async () => {
  expect(await issuesOf({ sources: ['-', 'a', '-'], out: 'r' })).toEqual([
    'sources: standard input (-) can be read once, found it twice',
  ]);
});
