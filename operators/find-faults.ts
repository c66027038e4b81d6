// Which models of a block have weights that no Gram can take, once the Gram has shown that some do; and the block without
// them.
import { badWeightDetail } from '../sources/bad-weight.ts';
import { displayName } from '../sources/display-name.ts';
import { SourceMalformed } from '../sources/errors.ts';
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import type { ReadFault, StagedSlot } from '../sources/staged-block.ts';
import { NumericalFailure } from './errors.ts';
import type { Tiles } from './tile-pool.ts';
import type { BadValue, VisitResult, VisitTask } from './tile-tasks.ts';

/** Products are finite where weights are, and the state was; a device that fails shows here too. */
export const isFiniteVisit = ({ gram }: VisitResult): boolean => allFinite(gram);

export const allFinite = (values: Float64Array): boolean => {
  // A sum of finite numbers may still overflow: then each is looked at.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  if (Number.isFinite(sum)) return true;
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i]!)) return false;
  return true;
};

/**
 * The first bad weight of each model that has one, among those that a visit was given.
 * Throws NumericalFailure where there is none: then it was the device.
 */
export const findFaults = async (
  tiles: Tiles,
  slot: PlannedSlot,
  task: Pick<VisitTask, 'slot' | 'tiles'>,
  staged: StagedSlot,
): Promise<readonly ReadFault[]> => {
  const bad = await tiles.scan({ slot: task.slot, staged: staged.rows, tiles: task.tiles });
  const faults = faultsOf(slot, staged.models, bad);
  if (faults.length > 0) return faults;
  const { library, version } = tiles.info;
  const detail = `${library} ${version} made a Gram matrix that is not finite, although every weight is`;
  throw new NumericalFailure({ slot: displayName(slot.name), detail });
};

export const faultsOf = (
  slot: PlannedSlot,
  models: readonly PlannedModel[],
  bad: readonly BadValue[],
): readonly ReadFault[] =>
  bad.map(({ model: id, index, value }): ReadFault => {
    const model = models.find((candidate) => candidate.id === id)!;
    const tensor = slot.tensorIn(model);
    const detail = badWeightDetail(index, value);
    const path = model.header.files[tensor.file]!.path;
    return {
      model,
      slot,
      error: new SourceMalformed({ path, tensor: displayName(tensor.name), rule: 'not-finite', detail }),
    };
  });

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

export const leaveOut = (staged: StagedSlot, left: ReadonlySet<PlannedModel>): StagedSlot => {
  const models = staged.models.filter((model) => !left.has(model));
  const position = new Map(models.map((model, i) => [model.id, i]));
  const rows = staged.rows.map((part) => ({
    ...part,
    positions: part.models.map((id) => position.get(id) ?? -1),
  }));
  return { slot: staged.slot, models, rows };
};
