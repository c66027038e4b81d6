import { expect, test } from 'vitest';
import { expandBraces, globMatcher } from '../../sources/glob.ts';

test.each<[pattern: string, yes: string[], no: string[]]>([
  ['*', ['', 'a', 'model.layers.0.weight', '.hidden'], ['a/b']],
  ['*.weight', ['a.b.weight', '.weight'], ['weight', 'a.weights']],
  ['model.layers.*.mlp.*', ['model.layers.10.mlp.up.weight'], ['model.layers.mlp']],
  ['?', ['a', '𝕏', '\ud800'], ['', 'ab', '/']],
  ['**', ['', 'a/b', '.a/.b'], []],
  ['**/a', ['a', 'x/a', 'x/y/a'], ['xa', 'x/ya', 'a/']],
  ['a/**/b', ['a/b', 'a/x/b', 'a/x/y/b'], ['ab', 'a/xb']],
  ['a**b', ['ab', 'a/x/b'], ['ba']],
  ['[a-c]x', ['ax', 'cx'], ['dx', 'x']],
  ['[!a-c]x', ['dx'], ['ax', '/x']],
  ['[^a]', ['b'], ['a']],
  ['[]]', [']'], ['']],
  ['[a-]', ['a', '-'], ['b']],
  ['[a', ['[a'], ['a']],
  ['layers.{0,11}.*', ['layers.0.w', 'layers.11.w'], ['layers.1.w']],
  ['{a,b{c,d}}', ['a', 'bc', 'bd'], ['b', 'ac']],
  ['{a}', ['{a}'], ['a']],
  ['a{,b}', ['a', 'ab'], ['b']],
  ['\\*', ['*'], ['a', '\\*']],
  ['\\{a,b}', ['{a,b}'], ['a']],
  ['a.b', ['a.b'], ['axb']],
  ['(a|b)+$', ['(a|b)+$'], ['a']],
  ['', [''], ['a']],
])('%s', (pattern, yes, no) => {
  const matches = globMatcher(pattern);
  expect(yes.filter((name) => !matches(name))).toEqual([]);
  expect(no.filter(matches)).toEqual([]);
});

test('no pattern backtracks for ever', { timeout: 10_000 }, () => {
  expect(globMatcher(`${'*a'.repeat(50)}b`)('a'.repeat(10_000))).toBe(false);
});

test('braces keep their order and have a limit', () => {
  expect(expandBraces('{a,b}{c,d}')).toEqual(['ac', 'ad', 'bc', 'bd']);
  expect(() => expandBraces('{a,b}'.repeat(11))).toThrow(/1,024 patterns/);
});
