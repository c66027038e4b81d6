// What a plan says of LoRA adapters: whose they are, their ranks, and what their factors save against ΔW.
import type { ModelInPlan, Plan } from './plan.ts';
import { basisBytes } from './plan-figures.ts';

export interface AdapterFacts {
  readonly lora: 'delta' | 'factors';
  readonly adapters: number;
  /** As the adapters name them, each once; null for those that name none. */
  readonly baseModels: readonly (string | null)[];
  /** Modules of models by rank, the smallest rank first; none where factors are slots themselves. */
  readonly ranks: readonly (readonly [rank: number, modules: number])[];
  /** Bytes of all factors as stored. */
  readonly factorBytes: number;
  /** Bytes that ΔW of all modules would take in float32; it is never held. */
  readonly deltaBytes: number;
  /** Bytes of basis and mean files, whether or not they are written. */
  readonly basisBytes: number;
}

/** Null where there are no adapters. */
export const adapterFacts = ({ config, models, slots }: Plan): AdapterFacts | null => {
  const bases = new Set(
    models.flatMap(({ header }) => (header.adapter === undefined ? [] : [header.adapter.baseModel])),
  );
  if (bases.size === 0) return null;
  const ranks = new Map<number, number>();
  let factorBytes = 0;
  let deltaBytes = 0;
  const add = (model: ModelInPlan): void => {
    for (const slot of slots) {
      const { byteLength, lora } = slot.tensorIn(model);
      factorBytes += byteLength;
      deltaBytes += slot.features * 4;
      if (lora !== undefined) ranks.set(lora.rank, (ranks.get(lora.rank) ?? 0) + 1);
    }
  };
  models.forEach(add);
  return {
    lora: config.lora,
    adapters: models.length,
    baseModels: [...bases],
    ranks: [...ranks].sort(([a], [b]) => a - b),
    factorBytes,
    deltaBytes,
    basisBytes: basisBytes(slots, models.length, config),
  };
};
