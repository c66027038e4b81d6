// Which models of a block have weights that no Gram can take, once the Gram has shown that some do; and the block without
// them.
import { badWeightDetail } from '../sources/bad-weight.ts';
import { displayName } from '../sources/display-name.ts';
import { SourceMalformed } from '../sources/errors.ts';
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import { endsTooSoon, notReadable } from '../sources/source-files.ts';
import type { ReadFault, SlotAtHand } from '../sources/staged-block.ts';
import { NumericalFailure } from './errors.ts';
import { sumOf } from './linalg/array-loops.ts';
import { type DoubleProduct, productOf } from './linalg/dense-products.ts';
import { firstOfEachModel, type Tiles } from './tile-pool.ts';
import type { BadRow, VisitResult, VisitTask } from './tile-tasks.ts';

/** Products are finite where weights are, and the state was; a device that fails shows here too. */
export const isFiniteVisit = ({ gram, columns }: VisitResult, product: DoubleProduct): boolean => {
  // Summed by a product: of a large Gram a loop is over before it is compiled.
  const rows = gram.length / columns;
  const sums = productOf(gram, new Float64Array(columns).fill(1), rows, columns, 1, { product });
  return Number.isFinite(sumOf(sums)) || allFinite(gram);
};

export const allFinite = (values: Float64Array): boolean => {
  // A sum of finite numbers may still overflow: then each is looked at.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  if (Number.isFinite(sum)) return true;
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i]!)) return false;
  return true;
};

/**
 * Why a visit's Gram matrix stands for nothing, model by model: rows that could not be read, weights that no product can
 * take. None where it is good.
 * @throws the base's fault; NumericalFailure where no weight is bad: then it was the device
 */
export const faultsOfVisit = async (
  tiles: Tiles,
  { slot, models, rows }: SlotAtHand,
  base: PlannedModel | null,
  task: Pick<VisitTask, 'slot' | 'tiles'>,
  visit: VisitResult,
): Promise<readonly ReadFault[]> => {
  const isGood = isFiniteVisit(visit, tiles.multiplyDouble);
  const bad: BadRow[] = [...visit.unread];
  if (!isGood) bad.push(...(await tiles.scan({ slot: task.slot, staged: rows, tiles: task.tiles })));
  const faults = faultsOf(slot, models, base, firstOfEachModel(bad));
  if (isGood || faults.length > 0) return faults;
  const { library, version } = tiles.info;
  const detail = `${library} ${version} made a Gram matrix that is not finite, although every weight is`;
  throw new NumericalFailure({ slot: displayName(slot.name), detail });
};

/** @throws the base's fault, without which there is no origin */
export const faultsOf = (
  slot: PlannedSlot,
  models: readonly PlannedModel[],
  base: PlannedModel | null,
  bad: readonly BadRow[],
): readonly ReadFault[] =>
  bad.map((row): ReadFault => {
    const model = models.find((candidate) => candidate.id === row.model);
    if (model === undefined) throw errorOf(slot, base!, row);
    return { model, slot, error: errorOf(slot, model, row) };
  });

const errorOf = (slot: PlannedSlot, model: PlannedModel, row: BadRow): ReadFault['error'] => {
  const tensor = slot.tensorIn(model);
  const { path } = model.header.files[tensor.file]!;
  if ('value' in row) {
    const detail = badWeightDetail(row.index, row.value);
    return new SourceMalformed({ path, tensor: displayName(tensor.name), rule: 'not-finite', detail });
  }
  return row.cause === null ? endsTooSoon(path, row.at, row.missing) : notReadable(path, row.at, row.cause);
};

/** The first fault of each model and slot. */
export const withoutRepeats = (faults: readonly ReadFault[]): readonly ReadFault[] => {
  const seen = new Map<PlannedSlot, Set<PlannedModel>>();
  return faults.filter(({ slot, model }) => {
    const models = seen.get(slot) ?? new Set();
    seen.set(slot, models);
    const isNews = !models.has(model);
    models.add(model);
    return isNews;
  });
};

export const leaveOut = (staged: SlotAtHand, left: ReadonlySet<PlannedModel>): SlotAtHand => {
  const models = staged.models.filter((model) => !left.has(model));
  const position = new Map(models.map((model, i) => [model.id, i]));
  const rows = staged.rows.map((part) => ({
    ...part,
    positions: part.models.map((id) => position.get(id) ?? -1),
  }));
  return { slot: staged.slot, models, rows };
};
