// What a run must have kept for more models to be folded into it.
import { expect, it } from 'vitest';
import type { Begin } from '../../pipeline/begin.ts';
import { keptProblem } from '../../pipeline/kept-slots.ts';

const slots: Begin['slots'] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((name) => ({ name, rows: 1, cols: 1 }));

it.each<[string, readonly (readonly [first: number, slots: number])[], string | null]>([
  ['all at once', [[0, 7]], null],
  [
    'in parts, in any order',
    [
      [3, 4],
      [0, 1],
      [1, 2],
    ],
    null,
  ],
  ['none', [], 'its state was not kept (--drop-state)'],
  [
    'without one in the middle',
    [
      [0, 2],
      [3, 4],
    ],
    'its state was not kept as a whole: c is missing',
  ],
  [
    'one of them twice',
    [
      [0, 3],
      [2, 5],
    ],
    'its state was not kept as a whole: c is there 2 times',
  ],
  [
    'one twice, and so as many as there should be',
    [
      [0, 3],
      [0, 1],
      [4, 3],
    ],
    'its state was not kept as a whole: a is there 2 times, d is missing',
  ],
  [
    'the first alone',
    [[0, 1]],
    'its state was not kept as a whole: b is missing, c is missing, d is missing, e is missing, f is missing and 1 more',
  ],
])('%s', (_, kept, problem) => {
  expect(keptProblem({ slots }, { kept: kept.map(([first, count]) => ({ first, slots: count })) })).toBe(problem);
});
