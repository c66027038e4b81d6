// What is to be said of a whole run over LoRA adapters before it starts.
import type { Plan } from './plan.ts';

export const adapterWarnings = ({ config, models }: Pick<Plan, 'config' | 'models'>): readonly string[] => {
  if (config.lora !== 'factors' || models.every(({ header }) => header.adapter === undefined)) return [];
  return [
    '--lora factors looks at A and B, which depend on the seed: A begins random and training moves it little, so adapters ' +
      'of one seed look alike whatever they learned, and M A, B M⁻¹ are the same adapter for every M; --lora delta looks at ' +
      'what the adapter does to each weight',
  ];
};
