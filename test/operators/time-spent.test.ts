// Time spent on a block counts for that block, although visits of the next have begun.
import { expect, it } from 'vitest';
import { KINDS, newTimeSpent, timingsOf } from '../../operators/time-spent.ts';

it('tells each turn its own, with what belongs to none, once', () => {
  const [one, other] = [newTimeSpent(), newTimeSpent()];
  const take = timingsOf([one, other]);
  const spend = (spent: Float64Array, turn: number, kind: (typeof KINDS)[number], ms: number): void => {
    const at = turn * KINDS.length + KINDS.indexOf(kind);
    spent[at] = spent[at]! + ms;
  };
  spend(one, 1, 'gram', 1000);
  spend(other, 1, 'gram', 500);
  spend(one, 2, 'gram', 4000);
  spend(other, 0, 'mix', 250);
  expect(take(1)).toEqual({ read: 0, widen: 0, gram: 1.5, mix: 0.25 });
  expect(take(1)).toEqual({ read: 0, widen: 0, gram: 0, mix: 0 });
  spend(one, 2, 'read', 125);
  spend(one, 1, 'widen', 500);
  expect(take(2)).toEqual({ read: 0.125, widen: 0, gram: 4, mix: 0 });
  spend(one, 0, 'read', 250);
  expect(take()).toEqual({ read: 0.25, widen: 0.5, gram: 0, mix: 0 });
});
