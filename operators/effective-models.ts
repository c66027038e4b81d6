// How many models a run has seen when those of one start, or copies, count together.
import { ConnectedComponents } from './linalg/connected-components.ts';
import type { NearDuplicates } from './near-duplicates.ts';
import type { SeedGroups } from './seed-groups.ts';

export interface EffectiveModels {
  /** Clusters: independent starts, each with what was made of it and its copies. */
  readonly starts: number;
  /**
   * N² / Σ n_c² over clusters of n_c models: as many equal clusters would make two models drawn at random share one as often.
   * Kish's effective sample size where members of a cluster are copies (Kish 1965, sec. 5.4), the participation ratio of
   * cluster sizes (Hill 1973, order 2). From 1, all of one start, to N, all apart. The least favourable reading: members of a
   * seed group differ in what they were trained for.
   */
  readonly effective: number;
}

/**
 * @param models those that count, as indices into all of the stream: those of a slot
 * @param duplicateOf of every model of the stream
 */
export const effectiveModels = (
  models: readonly number[],
  { groups }: Pick<SeedGroups, 'groups'>,
  { duplicateOf }: Pick<NearDuplicates, 'duplicateOf'>,
): EffectiveModels => {
  const components = new ConnectedComponents(duplicateOf.length);
  for (const [first, ...others] of groups) for (const model of others) components.join(first!, model);
  duplicateOf.forEach((original, model) => {
    if (original >= 0) components.join(original, model);
  });
  const sizes = new Map<number, number>();
  for (const model of models) {
    const first = components.firstOf(model);
    sizes.set(first, (sizes.get(first) ?? 0) + 1);
  }
  const squares = [...sizes.values()].reduce((sum, count) => sum + count * count, 0);
  return { starts: sizes.size, effective: squares === 0 ? 0 : models.length ** 2 / squares };
};
