import { describe, expect, it } from 'vitest';
import { decodeOptions } from '../../configs/decode-options.ts';

const issuesOf = (input: unknown) => decodeOptions(input, '').issues;

describe('every option', () => {
  it('is taken when right', () => {
    const input = {
      sources: ['a', '@list', '-'],
      out: 'runs/x',
      rank: 1,
      block: 4096,
      base: 'base',
      center: false,
      shuffle: 2 ** 32 - 1,
      include: ['*.weight'],
      exclude: ['*head*'],
      rename: ['model.='],
      'on-mismatch': 'skip-model',
      'on-bad-source': 'skip',
      verify: true,
      memory: '4GiB',
      threads: 1024,
      device: 'blas',
      basis: false,
      json: true,
      quiet: false,
    };
    expect(decodeOptions(input, '')).toEqual({ options: input, issues: [], wrong: new Set() });
  });

  const whole = 'expected a whole number';
  it.each<[string, unknown, string]>([
    ['sources', 'a', 'sources: expected a list of paths, found "a"'],
    ['sources', [''], 'sources[0]: expected a path, found ""'],
    ['sources', ['a', 3], 'sources[1]: expected a path, found 3'],
    ['out', 'a\0b', 'out: expected a path, found "a\\x00b"'],
    ['out', 'x'.repeat(5000), `out: expected a path, found "${'x'.repeat(57)}..."`],
    ['out', null, 'out: expected a path, found nothing'],
    ['rank', 0, `rank: ${whole} of at least 1, found 0`],
    ['rank', -3, `rank: ${whole} of at least 1, found -3`],
    ['rank', 2.5, `rank: ${whole} of at least 1, found 2.5`],
    ['rank', '32', `rank: ${whole} of at least 1, found "32"`],
    ['rank', Number.NaN, `rank: ${whole} of at least 1, found NaN`],
    ['rank', Number.POSITIVE_INFINITY, `rank: ${whole} of at least 1, found Infinity`],
    ['rank', true, `rank: ${whole} of at least 1, found true`],
    ['rank', [1], `rank: ${whole} of at least 1, found a list`],
    ['rank', { a: 1 }, `rank: ${whole} of at least 1, found a mapping`],
    ['block', 0, `block: ${whole} from 1 to 4096, found 0`],
    ['block', 4097, `block: ${whole} from 1 to 4096, found 4097`],
    ['base', ['a'], 'base: expected a path, found a list'],
    ['center', 'no', 'center: expected true or false, found "no"'],
    ['shuffle', -1, `shuffle: ${whole} from 0 to 4294967295, found -1`],
    ['shuffle', 2 ** 32, `shuffle: ${whole} from 0 to 4294967295, found 4294967296`],
    ['include', 'a', 'include: expected a list of globs, found "a"'],
    ['exclude', [['a']], 'exclude[0]: expected a glob, found a list'],
    ['rename', { a: 'b' }, 'rename: expected a list of FROM=TO, found a mapping'],
    ['on-mismatch', 'ignore', 'on-mismatch: expected one of skip-slot, skip-model, error, found "ignore"'],
    ['on-bad-source', true, 'on-bad-source: expected one of error, skip, found true'],
    ['verify', 1, 'verify: expected true or false, found 1'],
    [
      'memory',
      '1MB',
      'memory: expected a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes, found "1MB"',
    ],
    ['memory', 5, 'memory: expected a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes, found 5'],
    ['memory', true, 'memory: expected a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes, found true'],
    ['threads', 0, `threads: ${whole} from 1 to 1024, found 0`],
    ['threads', 1025, `threads: ${whole} from 1 to 1024, found 1025`],
    [
      'device',
      'gpu',
      'device: expected one of auto, blas, cuda, tfjs, tfjs:wasm, tfjs:webgpu, tfjs:node-gpu, found "gpu"',
    ],
    ['basis', 0, 'basis: expected true, false or dense, found 0'],
    ['json', 'yes', 'json: expected true or false, found "yes"'],
    ['quiet', [], 'quiet: expected true or false, found a list'],
  ])('%s: %j is refused', (option, value, issue) => {
    expect(issuesOf({ [option]: value })).toEqual([issue]);
  });
});

describe('unknown options', () => {
  it.each([
    ['foo', 'foo: unknown option'],
    ['onMismatch', 'onMismatch: unknown option; did you mean on-mismatch?'],
    ['on_bad_source', 'on_bad_source: unknown option; did you mean on-bad-source?'],
    ['no-center', 'no-center: unknown option; did you mean center: false?'],
    ['config', 'config: unknown option'],
    ['', ': unknown option'],
    ['constructor', 'constructor: unknown option'],
    ['a\u001b[31mb\u202e', 'a\\x1b[31mb\\u{202e}: unknown option'],
  ])('%j is refused', (key, issue) => {
    expect(issuesOf({ [key]: 1 })).toEqual([issue]);
  });

  it('__proto__ is a key like any other', () => {
    expect(issuesOf(JSON.parse('{"__proto__": {"rank": 3}}'))).toEqual(['__proto__: unknown option']);
    expect(({} as { rank?: number }).rank).toBeUndefined();
  });
});

it('reports everything at once and keeps what is right', () => {
  const { options, issues, wrong } = decodeOptions(
    { rank: 0, include: ['a', 3, null], typo: 1, device: 'x', threads: 2 },
    'run.yaml',
  );
  expect([...issues].sort()).toEqual([
    'run.yaml: device: expected one of auto, blas, cuda, tfjs, tfjs:wasm, tfjs:webgpu, tfjs:node-gpu, found "x"',
    'run.yaml: include[1]: expected a glob, found 3',
    'run.yaml: include[2]: expected a glob, found nothing',
    'run.yaml: rank: expected a whole number of at least 1, found 0',
    'run.yaml: typo: unknown option',
  ]);
  expect(options).toEqual({ threads: 2 });
  expect(wrong).toEqual(new Set(['rank', 'include', 'typo', 'device']));
});

it.each([[[]], ['text'], [3], [true]])('a top level of %j is refused', (input) => {
  expect(issuesOf(input)[0]).toMatch(/^expected a mapping of options, found /);
});
