// The first fault of each model and slot is told, in order, however many there are.
import { expect, it } from 'vitest';
import { withoutRepeats } from '../../operators/find-faults.ts';
import type { PlannedModel, PlannedSlot } from '../../sources/reading-plan.ts';
import type { ReadFault } from '../../sources/staged-block.ts';

it('keeps the first of 400,000 faults of 200 slots and 1,000 models, without comparing each with each', () => {
  const slots = Array.from({ length: 200 }, (_, id) => ({ id }) as PlannedSlot);
  const models = Array.from({ length: 1000 }, (_, id) => ({ id }) as PlannedModel);
  const once = slots.flatMap((slot) => models.map((model) => ({ slot, model }) as ReadFault));
  const again = once.map((fault) => ({ ...fault }));
  const kept = withoutRepeats([...once, ...again.reverse()]);
  expect(kept).toHaveLength(once.length);
  expect(kept.every((fault, i) => fault === once[i])).toBe(true);
  expect(withoutRepeats([])).toEqual([]);
});
