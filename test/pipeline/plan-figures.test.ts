// Figures of a plan that are sums over its groups.
import { expect, it } from 'vitest';
import { bytesOver } from '../../pipeline/plan-figures.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../../sources/reading-plan.ts';

const slot = { tensorIn: () => ({ byteLength: 100 }) } as unknown as PlannedSlot;
const models = Array.from({ length: 10 }, (_, id) => ({ id }) as PlannedModel);
const group = (folded: number): SlotGroup => ({
  index: 0,
  slots: [slot, slot],
  ...(folded > 0 ? { folded: { models: folded, blocks: 1 } } : {}),
});

it.each([
  ['one pass', 0, 1, 2000],
  ['one pass, three models folded', 3, 1, 1400],
  // Every further pass reads all of them again: of a run that goes on, what it has read and what it will read add up.
  ['two passes', 0, 2, 4000],
  ['two passes, three models folded in the first', 3, 2, 3400],
])('counts the bytes of %s', (_, folded, passes, bytes) => {
  expect(bytesOver([{ group: group(folded), modes: ['models'], passes }], models)).toBe(bytes);
});
