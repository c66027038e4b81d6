// What a plan comes to: groups in the order in which they run, and bytes that are read, written, kept and held.
import type { RunConfig } from '../configs/run-config.ts';
import type { ModeName } from '../configs/schema.ts';
import { followedBytes } from '../operators/followed-scatter.ts';
import { packedLength } from '../operators/linalg/packed-blocks.ts';
import { isFollowed, sideOf } from '../operators/mode-scatter.ts';
import { maxStateRows } from '../operators/subspace-state.ts';
import { savedRows } from '../operators/update-subspace.ts';
import {
  modelsToFold,
  type PlannedModel,
  type PlannedSlot,
  type SlotGroup,
  weightBytes,
} from '../sources/reading-plan.ts';
import {
  factoredPasses,
  keepsState,
  largestSideOf,
  passesOver,
  sharedPasses,
  sideModesOf,
  sidePasses,
} from './choose-engine.ts';
import type { Plan } from './plan.ts';

/** A group as it runs: in which modes, and how often it reads its weights. */
export interface PlannedGroup {
  readonly group: SlotGroup;
  readonly modes: readonly ModeName[];
  readonly passes: number;
}

/** All groups in the order in which they run. */
export const groupsInOrder = ({
  groups,
  sideGroups,
  engine,
  config,
  basis,
}: Pick<Plan, 'groups' | 'sideGroups' | 'engine' | 'config' | 'basis'>): readonly PlannedGroup[] => [
  ...groups.map((group) => {
    if (group.factored !== undefined) return { group, modes: config.mode, passes: factoredPasses(group, config) };
    return group.beside === true
      ? { group, modes: config.mode, passes: sharedPasses(engine, basis, config) }
      : { group, modes: ['models'] as const, passes: passesOver(engine, basis, config) };
  }),
  ...sideGroups.map((group) => {
    const passes = group.factored === undefined ? sidePasses(config) : factoredPasses(group, config);
    return { group, modes: sideModesOf(config), passes };
  }),
];

/** Weight bytes that some models cost a run, in all passes. */
export const bytesOver = (groups: readonly PlannedGroup[], models: readonly PlannedModel[]): number =>
  groups.reduce(
    (sum, { group, passes }) =>
      // What a checkpoint has folded is left out of the first pass alone.
      sum + weightBytes(group.slots, modelsToFold(group, models)) + weightBytes(group.slots, models) * (passes - 1),
    0,
  );

/** Bytes that the fullest group holds. */
export const peakMemory = ({ groupMemory }: Plan): number =>
  groupMemory.reduce((most, { state, staging, rest }) => Math.max(most, state + staging + rest), 0);

/**
 * Bytes that JavaScript heaps grow by beside it, about, most of it garbage. Measured at 20 to 57 MiB with one thread, 33 to
 * 65 with two, 49 to 99 with four; the larger figures where groups have many slots.
 */
export const heapMemory = ({ config }: Pick<Plan, 'config'>): number => (16 + 12 * config.threads) * 2 ** 20;

/** Disk that slots too large for the memory take, one after the other. */
export const bytesToSpill = ({ groupSpill }: Pick<Plan, 'groupSpill'>): number =>
  groupSpill.reduce((most, bytes) => Math.max(most, bytes), 0);

/**
 * Bytes of states: those that the run leaves for `extend`, the most that it has on the disk while it runs, and those of the
 * largest group.
 */
export const stateBytes = ({
  groups,
  models,
  engine,
  config,
}: Pick<Plan, 'groups' | 'models' | 'engine' | 'config'>): {
  readonly kept: number;
  readonly most: number;
  readonly group: number;
} => {
  if (!keepsState(engine, config)) return { kept: 0, most: 0, group: 0 };
  const { rank, center, dropState } = config;
  const sides = (slot: PlannedSlot): number =>
    sideModesOf(config).reduce((sum, mode) => {
      const side = sideOf(mode, slot);
      const followed = isFollowed(side, { largestSide: largestSideOf(config) });
      return sum + (followed ? followedBytes(side, rank) / 2 : packedLength(side) * 8);
    }, slot.features * 8);
  const each = groups.map(({ slots, beside }) =>
    slots.reduce((sum, slot) => {
      const { features } = slot;
      const rows = maxStateRows({ features, rank, center, shiftIsOrigin: true, engine }, models.length);
      return sum + features * 4 * savedRows(rows) + (beside === true ? sides(slot) : 0);
    }, 0),
  );
  const kept = dropState ? 0 : each.reduce((a, b) => a + b, 0);
  // Two checkpoints stay, and one is on its way.
  const group = each.reduce((most, bytes) => Math.max(most, bytes), 0);
  return { kept, most: kept + 3 * group, group };
};

/** Bytes of basis and mean files. @param ofModels whether mode models has any */
export const basisBytes = (
  slots: readonly PlannedSlot[],
  models: number,
  { rank, center, mode }: Pick<RunConfig, 'rank' | 'center' | 'mode'>,
  ofModels = true,
): number =>
  slots.reduce((bytes, { features, rows, cols }) => {
    const columns = mode.map((name) => {
      if (name === 'models' && !ofModels) return 0;
      const side = name === 'models' ? features : sideOf(name, { rows, cols });
      const most = name === 'models' ? Math.min(side, center ? models - 1 : models) : side;
      return side * Math.min(rank, most);
    });
    const mean = center && (ofModels || !mode.includes('models')) ? features : 0;
    return bytes + 4 * (columns.reduce((a, b) => a + b, 0) + mean);
  }, 0);
