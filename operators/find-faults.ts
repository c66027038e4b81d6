// Which models of a block have weights that no Gram can take, once the Gram has shown that some do; and the block without
// them.
import { badWeightDetail } from '../sources/bad-weight.ts';
import { displayName } from '../sources/display-name.ts';
import { SourceMalformed } from '../sources/errors.ts';
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import type { ReadFault, StagedSlot } from '../sources/staged-block.ts';
import type { Tiles } from './tile-pool.ts';
import type { BadValue, VisitResult, VisitTask } from './tile-tasks.ts';
import { blockNorms2 } from './update-subspace.ts';

/** Every model's ‖x‖² is finite exactly when its weights are, and the state's when it was. */
export const hasFiniteNorms = ({ gram, columns }: VisitResult, block: number): boolean =>
  blockNorms2({ values: gram, columns, block }).every(Number.isFinite);

/** The first bad weight of each model that has one, among those that a visit was given. */
export const findFaults = async (
  tiles: Tiles,
  slot: PlannedSlot,
  task: Pick<VisitTask, 'slot' | 'tiles'>,
  staged: StagedSlot,
): Promise<readonly ReadFault[]> => {
  const bad = await tiles.scan({ slot: task.slot, staged: staged.rows, tiles: task.tiles });
  const faults = faultsOf(slot, staged.models, bad);
  if (faults.length > 0) return faults;
  throw new Error(`slot ${slot.name}: the Gram matrix is not finite although every weight is`);
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
export const withoutRepeats = (faults: readonly ReadFault[]): readonly ReadFault[] =>
  faults.filter(
    ({ model, slot }, i) => faults.findIndex((other) => other.model === model && other.slot === slot) === i,
  );

export const leaveOut = (staged: StagedSlot, left: ReadonlySet<PlannedModel>): StagedSlot => {
  const models = staged.models.filter((model) => !left.has(model));
  const position = new Map(models.map((model, i) => [model.id, i]));
  const rows = staged.rows.map((part) => ({
    ...part,
    positions: part.models.map((id) => position.get(id) ?? -1),
  }));
  return { slot: staged.slot, models, rows };
};
