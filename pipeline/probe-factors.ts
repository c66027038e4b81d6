// How long making the factors of adapters canonical takes, by trying one: it is done on the thread that reads, for every module
// of every adapter, and costs more than reading them.
import { canonicalAdapter } from '../sources/canonical-adapter.ts';
import type { LoraTensors } from '../sources/model.ts';
import type { Plan } from './plan.ts';

/** Of the factors that are tried, at most: 10 ms of work. */
const PROBE_RANK = 16;

/** Seconds that making factors canonical takes, all of them once: the largest module is tried. */
export const probeFactors = ({ slots, models }: Pick<Plan, 'slots' | 'models'>): number => {
  const costOf = ({ rows, cols, rank }: LoraTensors): number => (rows + cols) * rank ** 2;
  let largest: LoraTensors | null = null;
  let cost = 0;
  for (const slot of slots) {
    for (const model of models) {
      const { lora } = slot.tensorIn(model);
      if (lora === undefined) continue;
      cost += costOf(lora);
      if (largest === null || costOf(lora) > costOf(largest)) largest = lora;
    }
  }
  if (largest === null) return 0;
  const tried = { ...largest, rank: Math.min(largest.rank, PROBE_RANK) };
  const numbers = (length: number) => Float64Array.from({ length }, (_, i) => Math.sin(i + 1));
  const [a, b] = [numbers(tried.cols * tried.rank), numbers(tried.rows * tried.rank)];
  const seconds = Array.from({ length: 4 }, () => {
    const start = performance.now();
    canonicalAdapter(a, b, 1, tried.rank);
    return (performance.now() - start) / 1e3;
  });
  return (Math.min(...seconds) * cost) / costOf(tried);
};
