// How often checkpoints are written where nobody says: by what the last one cost.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Pace } from '../../pipeline/checkpoints.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }));
afterEach(() => void vi.useRealTimers());

const after = (seconds: number, pace: Pace): boolean => {
  vi.advanceTimersByTime(seconds * 1e3);
  return pace.isDue(0);
};

it('waits twenty times what the last one cost, and ten seconds at least', () => {
  const pace = new Pace(null);
  expect(after(9.9, pace)).toBe(false);
  expect(after(0.2, pace)).toBe(true);
  pace.restart();
  pace.cost(3);
  expect(after(59, pace)).toBe(false);
  expect(after(1.1, pace)).toBe(true);
});

it('a first one that may cost much is waited for as long', () => {
  const pace = new Pace(null, 5);
  expect(after(99, pace)).toBe(false);
  expect(after(1.1, pace)).toBe(true);
});

it('what was asked for goes by models or by time', () => {
  const byModels = new Pace({ models: 20 }, 5);
  // What would be is not counted.
  expect([byModels.isDue(19), byModels.isDueAfter(1), byModels.isDueAfter(0)]).toEqual([false, true, false]);
  expect(byModels.isDue(1)).toBe(true);
  const byTime = new Pace({ seconds: 2 }, 5);
  expect([after(1.9, byTime), after(0.2, byTime)]).toEqual([false, true]);
});
