// Which engine a plan runs, and why: asked for, or for `auto` the cheaper one of those that fit the memory.
import { ConfigInvalid } from '../configs/errors.ts';
import type { RunConfig } from '../configs/run-config.ts';
import { prefixesOf } from '../operators/exact-spectrum.ts';
import { type AdapterFlopsOptions, type AdapterWork, denseFlops, factoredFlops } from '../operators/factored-flops.ts';
import { type FollowingEngine, followedFlops } from '../operators/followed-scatter.ts';
import { isFollowed, LARGEST_EXACT_SIDE, sideOf } from '../operators/mode-scatter.ts';
import type { SideMode } from '../operators/scatter-tasks.ts';
import { mayAdd, renewsAfter } from '../operators/stored-rows.ts';
import type { EngineName } from '../operators/subspace.ts';
import { maxStateRows, sketchRows, stateRowsFor } from '../operators/subspace-state.ts';
import { rowsBeforeBlock } from '../operators/update-subspace.ts';
import { formatDuration } from '../sinks/human-format.ts';
import { type PlannedModel, type PlannedSlot, type SlotGroup, weightBytes } from '../sources/reading-plan.ts';
import { groupSlots, type MemoryNeeds } from './memory-plan.ts';

export interface ChosenEngine {
  readonly engine: EngineName;
  readonly groups: readonly SlotGroup[];
  /** Why it was taken; null where it was asked for. */
  readonly reason: string | null;
}

/** What a machine of today does, to compare engines by: bytes a second, and operations a second and thread. */
const NOMINAL = { bytes: 1.5e9, flops: 50e9, algebra: 2e9 };

/**
 * @param needs of a run, but for the engine
 * @param groupsOf how an engine would group the slots
 * @throws ConfigInvalid when the engine asked for, or with `auto` either, does not fit the memory
 */
export const chooseEngine = (
  config: RunConfig,
  slots: readonly PlannedSlot[],
  needs: Omit<MemoryNeeds, 'engine' | 'basis'>,
  groupsOf = (engine: EngineName): readonly SlotGroup[] =>
    groupSlots(slots, { ...needs, engine, basis: writesBasis(engine, config, slots) }),
): ChosenEngine => {
  if (config.engine !== 'auto') return { engine: config.engine, groups: groupsOf(config.engine), reason: null };
  let exact: readonly SlotGroup[];
  try {
    exact = groupsOf('exact');
  } catch (cause) {
    if (!(cause instanceof ConfigInvalid)) throw cause;
    return { engine: 'incremental', groups: groupsOf('incremental'), reason: 'exact does not fit the memory' };
  }
  const [slow, fast] = (['incremental', 'exact'] as const).map((engine) => secondsOf(engine, config, slots, needs));
  const compared = `about ${formatDuration(fast!)} against ${formatDuration(slow!)}`;
  if (fast! <= slow!) return { engine: 'exact', groups: exact, reason: `fits the memory and costs less, ${compared}` };
  const reason = `costs less than exact, ${formatDuration(slow!)} against ${formatDuration(fast!)}`;
  return { engine: 'incremental', groups: groupsOf('incremental'), reason };
};

/** Seconds on a nominal machine: the longer of reading and multiplying, and the small algebra. */
const secondsOf = (
  engine: EngineName,
  config: RunConfig,
  slots: readonly PlannedSlot[],
  { models, threads }: Pick<MemoryNeeds, 'models' | 'threads'>,
): number => {
  const basis = writesBasis(engine, config, slots);
  const passes = passesOver(engine, basis, config);
  const bytes = weightBytes(slots, models) * passes;
  const sum = (of: (slot: PlannedSlot) => number): number => slots.reduce((all, slot) => all + of(slot), 0);
  const flops = isFactored(engine, config, slots, models)
    ? sum((slot) => factoredFlopsOf(slot, models, config))
    : sum((slot) => flopsOf(engine, slot, models.length, config) + passes * decodeFlops(slot, models));
  const algebra = slots.reduce((sum, slot) => sum + algebraOf(engine, slot, models.length, config), 0);
  return Math.max(bytes / NOMINAL.bytes, flops / NOMINAL.flops / threads) + algebra / NOMINAL.algebra;
};

/** Modes other than `models`. */
export const sideModesOf = ({ mode }: RunConfig): readonly SideMode[] =>
  mode.filter((name): name is SideMode => name !== 'models');

/** Times that the modes rows and cols read every weight of groups that are theirs alone. */
export const sidePasses = ({ energies, core }: RunConfig): number => (energies || core ? 2 : 1);

/** Times that a group's weights are read where mode models shares them with the modes rows and cols. */
export const sharedPasses = (engine: EngineName, basis: boolean, config: RunConfig): number =>
  Math.max(passesOver(engine, basis, config), sidePasses(config));

/** The widest scatter matrix that is kept whole: any, where the engine exact was asked for. */
export const largestSideOf = ({ engine }: Pick<RunConfig, 'engine'>): number =>
  engine === 'exact' ? Infinity : LARGEST_EXACT_SIDE;

/** What follows sides that are wider. */
export const followerOf = ({ engine }: Pick<RunConfig, 'engine'>): FollowingEngine =>
  engine === 'frequent-directions' ? engine : 'incremental';

/**
 * Operations of a slot's products in the modes rows and cols: half of each scatter matrix, or what following costs, and the
 * energies and the core tensor.
 */
export const sideFlopsOf = ({ rows, cols, features }: PlannedSlot, models: number, config: RunConfig): number =>
  sideModesOf(config).reduce(
    (sum, mode) => {
      const side = sideOf(mode, { rows, cols });
      const energies = config.energies ? 2 * Math.min(config.rank, side) : 0;
      const followed = isFollowed(side, { largestSide: largestSideOf(config) });
      const each = followed ? followedFlops(side, features / side, config.rank) : side + 1;
      return sum + models * features * (each + energies);
    },
    coreFlops({ rows, cols, features }, models, config),
  );

/** U_r Wᵀ, then U_cᵀ, then ⊗ v, a model. */
const coreFlops = (
  { rows, cols, features }: Pick<PlannedSlot, 'rows' | 'cols' | 'features'>,
  models: number,
  { core, rank }: RunConfig,
): number => {
  if (!core) return 0;
  const [k, r, c] = [models, cols, rows].map((most) => Math.min(rank, most));
  return 2 * models * (features * r! + r! * c! * (rows + k!));
};

/** Whether mode models writes its directions out: in engine exact those of adapters are left as sums over the adapters. */
export const writesBasis = (engine: EngineName, { basis }: RunConfig, slots: readonly PlannedSlot[]): boolean =>
  basis === 'dense' || (basis && !(engine === 'exact' && slots.some(({ isDelta }) => isDelta === true)));

/** Times that mode models reads every weight. @param basis whether directions are made */
export const passesOver = (engine: EngineName, basis: boolean, { passes }: Pick<RunConfig, 'passes'>): number => {
  if (engine === 'randomized') return passes;
  return engine === 'exact' && basis ? 2 : 1;
};

/** Whether a state of some models can be gone on from with others; else a group is read from its beginning. */
export const keepsState = (engine: EngineName, { passes }: Pick<RunConfig, 'passes'>): boolean =>
  engine !== 'exact' && !(engine === 'randomized' && passes === 2);

/** Operations of a slot's small algebra, some 10 n³ an eigendecomposition of n x n. */
const algebraOf = (
  engine: EngineName,
  { features }: PlannedSlot,
  models: number,
  { rank, block }: RunConfig,
): number => {
  if (engine === 'exact') return prefixesOf(models, block).reduce((sum, prefix) => sum + 10 * prefix.models ** 3, 0);
  const size = Math.min(stateRowsFor({ rank, features }), models) + Math.min(block, models);
  return Math.ceil(models / block) * 10 * size ** 3;
};

/** The adapters of a slot, by the ranks of their tensors. */
export const adapterWork = ({ rows, cols, tensorIn }: PlannedSlot, models: readonly PlannedModel[]): AdapterWork => ({
  rows,
  cols,
  ranks: models.map((model) => tensorIn(model).lora!.rank),
});

const adapterOptions = ({ mode, center, energies, core, rank }: RunConfig): AdapterFlopsOptions => ({
  modes: mode,
  center,
  energies: energies ? rank : 0,
  core: core ? rank : 0,
});

/**
 * Whether the engine exact multiplies adapters by their factors: where that is cheaper over all slots, and no ΔW is to be
 * written out. For all slots or for none: tables have them in order.
 */
export const isFactored = (
  engine: EngineName,
  config: RunConfig,
  slots: readonly PlannedSlot[],
  models: readonly PlannedModel[],
): boolean => {
  if (engine !== 'exact' || config.basis === 'dense' || !slots.every(({ isDelta }) => isDelta === true)) return false;
  const options = adapterOptions(config);
  const works = slots.map((slot) => adapterWork(slot, models));
  const sum = (of: typeof denseFlops): number => works.reduce((all, work) => all + of(work, options), 0);
  return sum(factoredFlops) < sum(denseFlops);
};

/** Operations of a slot's products by the factors of its adapters, in all modes. */
export const factoredFlopsOf = (slot: PlannedSlot, models: readonly PlannedModel[], config: RunConfig): number =>
  factoredFlops(adapterWork(slot, models), adapterOptions(config));

/** Times that factors are read: once where they stay in memory, else for their ranks and for every use. */
export const factoredPasses = ({ factored }: SlotGroup, config: RunConfig): number => {
  if (factored!.holds) return 1;
  const sides = sideModesOf(config).length > 0 ? 1 + (config.energies ? 1 : 0) + (config.core ? 1 : 0) : 0;
  return 1 + (config.mode.includes('models') ? 1 : 0) + sides;
};

/** Operations that making ΔW of its factors takes, once for all models; 0 where weights are stored. */
export const decodeFlops = (slot: PlannedSlot, models: readonly PlannedModel[]): number => {
  if (slot.isDelta !== true) return 0;
  const ranks = models.reduce((sum, model) => sum + slot.tensorIn(model).lora!.rank, 0);
  return 2 * slot.features * ranks;
};

/** Operations of a slot's large products. */
export const flopsOf = (engine: EngineName, slot: PlannedSlot, models: number, config: RunConfig): number => {
  if (engine === 'randomized') return randomizedFlops(slot, models, config);
  return engine === 'exact'
    ? exactFlops(slot, models, config, writesBasis(engine, config, [slot]))
    : incrementalFlops(slot, models, config);
};

/** 2 D for each model and row held, in the Gram and in what is added; then the directions. */
const randomizedFlops = ({ features }: PlannedSlot, models: number, { rank, block, passes }: RunConfig): number => {
  const held = 2 * sketchRows({ rank, features });
  const each = rowsBeforeBlock(held) + Math.min(block, models) + 1 + held;
  return 2 * features * (passes * models * each + (passes - 1) * (1 + held) ** 2 + (1 + rank) * (1 + held));
};

/** D (rows x rows) for the upper triangle of the Gram; 2 D (rows x directions) for the basis. */
const exactFlops = ({ features }: PlannedSlot, models: number, { rank, center }: RunConfig, basis: boolean): number => {
  const rows = rowsBeforeBlock(0) + models;
  const directions = Math.min(rank, features, center ? models - 1 : models);
  return features * (rows * rows + (basis ? 2 * (1 + directions) * (1 + models) : 0));
};

/**
 * 2 D (rows x columns) for every Gram and every mixing, as `incrementalPca` does them when nothing is dropped as noise and
 * rows can be added wherever that is tried.
 */
const incrementalFlops = ({ features }: PlannedSlot, models: number, { rank, block, center }: RunConfig): number => {
  const rowsAfter = (n: number): number => maxStateRows({ features, rank, center, shiftIsOrigin: true }, n);
  let products = 0;
  for (let n = 0; n < models; n += block) {
    const b = Math.min(block, models - n);
    const r = rowsAfter(n);
    const m = 1 + rowsAfter(n + b);
    const adds = n > 0 && mayAdd(features, m) && !renewsAfter(n / block);
    products += (rowsBeforeBlock(r) + b) * b + m * (1 + r + b - (adds ? m : 0));
  }
  // Then the directions.
  const last = rowsAfter(models);
  products += (1 + Math.min(rank, last)) * (1 + last);
  return 2 * features * products;
};
