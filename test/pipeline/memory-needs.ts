// What plans of groups need to know beside the models, engine and memory of a test.
import type { MemoryNeeds } from '../../pipeline/memory-plan.ts';

export const memoryNeeds = {
  base: null,
  center: true,
  threads: 2,
  panel: 2048,
  rowBuffers: 1,
  inPlace: false,
  cardBinds: false,
  sums: 1,
  sides: [],
  largestSide: Number.POSITIVE_INFINITY,
  core: false,
} as const satisfies Partial<MemoryNeeds>;
