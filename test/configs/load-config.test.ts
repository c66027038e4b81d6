import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Effect } from 'effect';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ConfigInvalid } from '../../configs/errors.ts';
import { loadConfig } from '../../configs/load-config.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'weightspan-config-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
function write(content: string | Uint8Array): string {
  const path = join(folder, `${files++}.yaml`);
  writeFileSync(path, content);
  return path;
}

const load = (path: string) => Effect.runPromise(loadConfig(path));
const refusalOf = async (path: string): Promise<string> => {
  const error: ConfigInvalid = await Effect.runPromise(Effect.flip(loadConfig(path)));
  expect(error._tag).toBe('ConfigInvalid');
  expect(error.issues.every((issue) => issue.startsWith(`${path}: `) && !issue.includes('\n'))).toBe(true);
  return error.issues.map((issue) => issue.slice(path.length + 2)).join(' | ');
};

describe('accepted', () => {
  it.each([
    ['options', 'rank: 8\ninclude: ["*.weight"]\nmemory: 2GiB\n', { rank: 8, include: ['*.weight'], memory: '2GiB' }],
    ['nothing', '', {}],
    ['comments alone', '# nothing\n', {}],
    ['a byte order mark', '\ufeffrank: 8\n', { rank: 8 }],
    ['JSON', '{"rank": 8, "center": false}', { rank: 8, center: false }],
    ['a few aliases', 'include: &x ["*.weight"]\nexclude: *x\n', { include: ['*.weight'], exclude: ['*.weight'] }],
    ['numbers in other notations', 'rank: 0x10\nmemory: 4e9\n', { rank: 16, memory: 4e9 }],
  ])('%s', async (_, text, options) => {
    expect(await load(write(text))).toEqual({ options, issues: [], wrong: new Set() });
  });
});

it('returns wrong options with the file and the path of each', async () => {
  const path = write('rank: 0\nfoo: 1\ninclude: [1]\n');
  const { issues } = await load(path);
  expect([...issues].sort()).toEqual([
    `${path}: foo: unknown option`,
    `${path}: include[0]: expected a glob, found 1`,
    `${path}: rank: expected a whole number of at least 1, found 0`,
  ]);
});

it.each([['- rank\n'], ['just text\n'], ['3\n']])('a top level of %j is a wrong option list', async (text) => {
  const { issues } = await load(write(text));
  expect(issues).toHaveLength(1);
  expect(issues[0]).toContain('expected a mapping of options, found ');
});

describe('refused', () => {
  it.each<[string, string | Uint8Array, RegExp]>([
    ['a syntax error, with its line', 'rank: 8\ninclude: [a\nblock: }\n', /line 3/],
    ['every syntax error', 'a: "\\q"\nb: "\\q"\n', /line 1.*\|.*line 2/],
    ['a duplicate key', 'rank: 8\nrank: 9\n', /line 2.*keys must be unique/i],
    ['two documents', 'rank: 8\n---\nrank: 9\n', /document/i],
    ['an unknown tag', 'rank: !!js/function "x"\n', /unresolved tag/i],
    ['an unknown alias', 'rank: *nowhere\n', /alias/i],
    ['bytes that are not UTF-8', new Uint8Array([0x72, 0x3a, 0x20, 0xff, 0xfe]), /expected UTF-8 text/],
    ['an alias bomb', bomb(), /alias/i],
    ['a key that is a list', '? [a]\n: 1\n', /key/i],
  ])('%s', async (_, content, reason) => {
    expect(await refusalOf(write(content))).toMatch(reason);
  });

  // Each of these overflows the parser's stack, some beyond what can be caught.
  it.each([
    ['lists', '['],
    ['list items', '- '],
    ['mappings', '{a: '],
    ['mappings without braces', 'a: '],
    ['keys', '? '],
    ['keys in braces', '{? '],
    ['a mixture', '? - : '],
  ])('deep nesting of %s, without overflowing', async (_, level) => {
    const depth = Math.floor(131_000 / level.length);
    expect(await refusalOf(write(level.repeat(depth)))).toBe('expected options, found more than 16 levels of nesting');
  });

  it('deep nesting by indentation', async () => {
    const lines = Array.from({ length: 500 }, (_, level) => `${' '.repeat(level)}a:`);
    expect(await refusalOf(write(lines.join('\n')))).toContain('more than 16 levels');
  });

  it('a thousand mistakes in twenty lines', async () => {
    const refusal = await refusalOf(write(`a: "${'\\q'.repeat(1000)}"`));
    expect(refusal.split(' | ')).toHaveLength(21);
    expect(refusal).toMatch(/and 980 more mistakes$/);
  });

  it('more than 128 KiB', async () => {
    const path = write('');
    truncateSync(path, 131_073);
    expect(await refusalOf(path)).toBe('expected at most 131072 bytes, found 131073');
  });

  it('what is no file', async () => {
    mkdirSync(join(folder, 'folder.yaml'));
    expect(await refusalOf(join(folder, 'folder.yaml'))).toBe('expected a file, found something else');
    expect(await refusalOf(join(folder, 'missing.yaml'))).toBe('no such config file');
    expect(await refusalOf(join(write('rank: 8'), 'below-a-file'))).toBe('cannot be read: ENOTDIR');
  });

  it.skipIf(process.platform === 'win32')('devices and pipes, without reading them', async () => {
    expect(await refusalOf('/dev/zero')).toBe('expected a file, found something else');
    execFileSync('mkfifo', [join(folder, 'fifo.yaml')]);
    expect(await refusalOf(join(folder, 'fifo.yaml'))).toBe('expected a file, found something else');
  });
});

/** Nine levels of ten aliases each: a billion strings. */
function bomb(): string {
  let text = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n';
  for (let level = 1; level < 9; level++) {
    const aliases = Array.from({ length: 10 }, () => `*a${level - 1}`).join(', ');
    text += `a${level}: &a${level} [${aliases}]\n`;
  }
  return text;
}
