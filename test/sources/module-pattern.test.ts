// Keys of rank_pattern and alpha_pattern against what Python's re.match(rf"(.*\.)?({key})$", path) says (JavaScript's own
// engine, for patterns that both read alike), and those that would run for ever.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { modulePattern, newPatternBudget } from '../../sources/module-pattern.ts';

const matches = (key: string, path: string): boolean => modulePattern(key)(path, newPatternBudget());
const reference = (key: string, path: string): boolean => new RegExp(`^(.*\\.)?(${key})$`).test(path);

const paths = [
  'q_proj',
  'model.layers.1.self_attn.q_proj',
  'model.layers.11.self_attn.q_proj',
  'model.layers.1.self_attn.xq_proj',
  'model.layers.1.self_attn.q_proj.x',
  'model.layers.1.mlp.up_proj',
  'h.0.attn.c_attn',
  '',
];

const keys = [
  'q_proj',
  'self_attn.q_proj',
  'layers.1.self_attn.q_proj',
  '1.self_attn.q_proj',
  'model.layers.1.self_attn.q_proj',
  '^model.layers.1.self_attn.q_proj',
  'model.layers.1.self_attn.q_proj$',
  'model.layers.[01].*q_proj',
  'model\\.layers\\.\\d+\\.self_attn\\.(q|k)_proj',
  '.*\\.1\\..*',
  '(?:q|up)_proj',
  '[^.]+_proj',
  'layers\\.1{1,2}\\..*',
  'layers\\.1{2}\\..*',
  'x?q_proj',
  'c_\\w{2,4}?',
  '(a|)q_proj',
  '((q_)+proj)',
  '(x*)*q_proj',
  'attn',
];

describe('a key means a path as in PEFT', () => {
  it.each(keys)('%s', (key) => {
    for (const path of paths) expect([path, matches(key, path)]).toEqual([path, reference(key, path)]);
  });

  it('any small pattern', () => {
    const atom = fc.constantFrom('a', 'b', '.', '\\.', '[ab]', '[^a]', '\\w');
    const { tree } = fc.letrec<{ tree: string }>((tie) => ({
      tree: fc.oneof(
        { maxDepth: 4 },
        atom,
        fc.tuple(tie('tree'), tie('tree')).map(([x, y]) => x + y),
        fc.tuple(tie('tree'), tie('tree')).map(([x, y]) => `(${x}|${y})`),
        fc.tuple(tie('tree'), fc.constantFrom('*', '+', '?', '{0,2}', '{2}')).map(([x, sign]) => `(?:${x})${sign}`),
      ),
    }));
    const path = fc.array(fc.constantFrom('a', 'b', '.', 'c'), { maxLength: 8 }).map((letters) => letters.join(''));
    fc.assert(
      fc.property(tree, path, (key, name) => matches(key, name) === reference(key, name)),
      { numRuns: 2000 },
    );
  });
});

describe('P3 patterns from strangers', () => {
  it.each(['(a+)+b', '(a*)*b', '(a|a)*b', '(.*)*x', '((a?){30}){10}b'])('%s ends', (key) => {
    expect(matches(key, 'a'.repeat(2000))).toBe(false);
  });

  it.each(['(?=a)', '(?<!a)b', '(a)\\1', 'a**', '\\bq', '(', ')', '[a', 'a\\', '*a', 'a{5,2}', 'a{,}', '\\p{L}'])(
    '%s is refused by name',
    (key) => {
      expect(() => modulePattern(key)).toThrow(RangeError);
    },
  );

  it.each([
    '(((((((((((((((((((((((((((((((((a)))))))))))))))))))))))))))))))))',
    '((a{99}){99}){99}',
    '(((((){9999}){9999}){9999}){9999})',
    `a${'b'.repeat(2000)}*`,
  ])('one too large is refused: %#', (key) => {
    expect(() => modulePattern(key)).toThrow(RangeError);
  });

  it('many, on many long names, run out of steps and not of time', () => {
    const budget = newPatternBudget();
    const pattern = modulePattern('((a?){30}){40}x');
    const path = 'a.'.repeat(100_000);
    expect(() => {
      for (let i = 0; i < 1000; i++) pattern(path, budget);
    }).toThrow(/too many steps/);
  });
});
