// Which models are one model under several names. Proven where contents were hashed (`--verify`). Else narrowed down while
// slots finish, from what is known without another read: models whose pages agree in every tensor are candidates, and each
// slot parts those whose norms, mean entries, distances or coordinates differ by more than rounding.
// Cost: O(N) memory; sorting and comparing neighbours, O(C log C) a slot and key for C candidates, mostly none.
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { ROUNDING } from '../operators/subspace-state.ts';
import { displayName } from '../sources/display-name.ts';
import type { PlannedModel } from '../sources/reading-plan.ts';
import type { Finding } from './find-warnings.ts';
import { isExact, isFrozen, type SlotModels } from './slot-results.ts';

/** Groups of two and more models that nothing has told apart yet, each with its ids ascending. */
export type Alike = readonly (readonly number[])[];

/** Float32 products of equal weights differ by less than this share, wherever in a block they stand. */
const NOISE = 4 * ROUNDING;

/** Groups of two and more with the same key, in order of their first; what has no key is in none. */
const groupBy = <T>(values: Iterable<T>, keyOf: (value: T) => string | undefined): T[][] => {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const key = keyOf(value);
    if (key === undefined) continue;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [value]);
    else group.push(value);
  }
  return [...groups.values()].filter(({ length }) => length > 1);
};

/** Models that agree in the pages read for their fingerprints. */
export const alikeInPages = (models: readonly (PlannedModel & { readonly pages: string })[]): Alike =>
  groupBy(models, ({ pages }) => pages).map((group) => group.map(({ id }) => id).sort((a, b) => a - b));

/** Those that a slot does not tell apart either; a model that is not in the slot leaves. */
export const alikeInSlot = (alike: Alike, subspace: SubspaceEstimate, models: SlotModels): Alike => {
  if (alike.length === 0) return alike;
  const { state, spec } = subspace;
  const at = new Map(Array.from(models.modelIds, (id, i) => [id, i]));
  let groups: Alike = alike.map((group) => group.filter((id) => at.has(id)));
  const part = (keyOf: (i: number) => number, toleranceOf: (i: number) => number): void => {
    groups = groups.flatMap((group) =>
      group.length < 2
        ? []
        : neighbours(
            group,
            (id) => keyOf(at.get(id)!),
            (id) => toleranceOf(at.get(id)!),
          ),
    );
  };
  // Measured about the shift, model by model: a giant among the others blurs neither.
  const norm2 = (i: number): number => models.rawNorm2[i]! + 2 * state.shiftNorm2;
  part(
    (i) => models.rawNorm2[i]!,
    (i) => NOISE * norm2(i),
  );
  part(
    (i) => models.meanEntry[i]!,
    (i) => NOISE * Math.sqrt(norm2(i) / spec.features),
  );
  // What truncation forgets depends on when a model came, so distances and coordinates count only where nothing was lost.
  if (!isFrozen(subspace) && isExact(subspace)) {
    const k = subspace.rank;
    const largest = Math.max(state.largestNorm2, state.eigenvalues[0] ?? 0);
    part(
      (i) => models.norm2[i]!,
      () => NOISE * largest,
    );
    for (let j = 0; j < k; j++) {
      part(
        (i) => models.coordinates[i * k + j]!,
        () => Math.sqrt(NOISE * largest),
      );
    }
  }
  return groups;
};

/** Cuts a sorted group wherever the next value is further than the tolerance. */
const neighbours = (
  group: readonly number[],
  keyOf: (id: number) => number,
  toleranceOf: (id: number) => number,
): Alike => {
  const sorted = [...group].sort((a, b) => keyOf(a) - keyOf(b) || a - b);
  const parts: number[][] = [];
  for (const [i, id] of sorted.entries()) {
    if (i > 0 && keyOf(id) - keyOf(sorted[i - 1]!) <= toleranceOf(id)) parts.at(-1)!.push(id);
    else parts.push([id]);
  }
  return parts.filter(({ length }) => length > 1).map((ids) => ids.sort((a, b) => a - b));
};

/** For each model whose content equals an earlier one's, the first that has it. */
export const duplicatesOf = (
  models: readonly PlannedModel[],
  contents: ReadonlyMap<number, string>,
): ReadonlyMap<number, number> =>
  new Map(
    groupBy(models, ({ id }) => contents.get(id)).flatMap(([first, ...others]) =>
      others.map(({ id }) => [id, first!.id] as const),
    ),
  );

/**
 * A warning for each model that is, may be, or is as good as one that came before.
 * @param copies near-duplicates (near-duplicates.ts), each with its original
 */
export const sameModelFindings = (
  duplicates: ReadonlyMap<number, number>,
  alike: Alike,
  copies: ReadonlyMap<number, number>,
  modelOf: (id: number) => PlannedModel,
): readonly Finding[] => {
  const finding = (code: string, id: number, first: number, what: string): Finding => ({
    code,
    slot: null,
    slotId: null,
    model: modelOf(id).name,
    modelId: id,
    value: first,
    text: `${what} model ${displayName(modelOf(first).name)}`,
  });
  const proven = [...duplicates].map(([id, first]) => finding('identical-models', id, first, 'the same content as'));
  const likely = [...alike]
    .sort(([a], [b]) => a! - b!)
    .flatMap((group) => {
      const [first, ...others] = group.filter((id) => !duplicates.has(id));
      return others.map((id) => finding('indistinguishable-models', id, first!, 'nothing tells it apart from'));
    });
  const said = new Set([...proven, ...likely].map(({ modelId }) => modelId));
  const near = [...copies]
    .filter(([id]) => !said.has(id))
    .map(([id, first]) => finding('near-duplicate', id, first, 'within 5% of its distance from the mean it is'));
  return [...proven, ...likely, ...near];
};
