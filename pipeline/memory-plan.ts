// Slot groups: as many slots as fit the memory with all that streaming them needs. Groups run one after another, each
// streaming all models, so every byte is read once and memory does not depend on the number of models.
import { ConfigInvalid } from '../configs/errors.ts';
import { coreBytes } from '../operators/core-tensor.ts';
import { rowStride } from '../operators/devices/blas-device.ts';
import { modelsReadAtOnce } from '../operators/exact-modes.ts';
import { prefixesOf } from '../operators/exact-spectrum.ts';
import { followedBytes } from '../operators/followed-scatter.ts';
import { BLOCK_SIDE, packedLength } from '../operators/linalg/packed-blocks.ts';
import { KRYLOV_BLOCK, krylovRows } from '../operators/linalg/top-eigenpairs.ts';
import { isFollowed, modelsAtOnce, sampleShape, sideOf } from '../operators/mode-scatter.ts';
import { LANES, WHOLE_SPECTRUM_SIDE } from '../operators/scatter-spectrum.ts';
import type { SideMode } from '../operators/scatter-tasks.ts';
import type { EngineName } from '../operators/subspace.ts';
import { maxStateRows } from '../operators/subspace-state.ts';
import { rowsBeforeBlock } from '../operators/update-subspace.ts';
import { formatBytes } from '../sinks/human-format.ts';
import { displayName } from '../sources/display-name.ts';
import { areCold, fetchingBytes } from '../sources/fetching.ts';
import { canStayInFiles, isFloat32, tileRowsBytes } from '../sources/open-block.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { readingBytes } from '../sources/staged-block.ts';
import { panelsIn, stretchWidth, TILE_WIDTH, tilesOf } from '../sources/tile.ts';
import { blockBufferBytes } from '../sources/weight-blocks.ts';

export interface MemoryNeeds {
  readonly engine: EngineName;
  readonly models: readonly PlannedModel[];
  readonly base: PlannedModel | null;
  readonly block: number;
  readonly rank: number;
  readonly center: boolean;
  readonly threads: number;
  /** The device's panel width. */
  readonly panel: number;
  /** Buffers that a thread reads a tile's rows into, one after the other. */
  readonly rowBuffers: number;
  /** Whether the device takes rows of float32 where they are read to. */
  readonly inPlace: boolean;
  readonly memory: number;
  /** Whether `memory` is what a card has free, and not what was asked for. */
  readonly cardBinds: boolean;
  readonly basis: boolean;
  /** Of the engine `exact`: parts of weights whose memory is counted. Default: two, one in use and one being read. */
  readonly partsStaged?: 1;
  /** Of the engine `exact`: prefixes of the stream that are solved at once. Default: one. */
  readonly solvers?: number;
  /** Sums of slots that are kept beside, at most. */
  readonly sums: number;
  /** The modes rows and cols, where they are to share the reading. */
  readonly sides: readonly SideMode[];
  /** The widest scatter matrix that is kept whole. */
  readonly largestSide: number;
  /** Whether the core tensor is made in the modes rows and cols. */
  readonly core: boolean;
}

/** What a group holds in memory at its fullest, in bytes. */
export interface GroupMemory {
  /** Panels: constant rows, mean, state and block; and a spare one a thread and slot. */
  readonly state: number;
  /**
   * Two blocks as stored, one in use, one being read; or a tile's rows a thread, where weights stay in their files, and with them
   * what stands by to read past the page cache.
   */
  readonly staging: number;
  /**
   * Gram matrices on their way, the window through which a basis is written where staging is too small for it, and the
   * factors of adapters while they are read.
   */
  readonly rest: number;
}

/** Tiles that one row group of a basis file takes: about 16 MiB, whatever the memory. */
export const windowTiles = (rank: number): number =>
  Math.max(1, Math.min(16, Math.floor(2 ** 24 / ((1 + rank) * TILE_WIDTH * 4))));

/**
 * Bytes that slots are put together for, at most, whatever the memory: a group's memory is touched once, and the groups
 * after it find it warm. A larger group gains nothing but fewer opens of the same files.
 */
const GROUP_BYTES = 2 ** 29;
/** Tiles that a slot too large for the memory is read in at a time, at most: 32 MiB a model, more than any disk needs. */
const MOST_TILES_AT_ONCE = 512;
/** Panels a thread holds of a spilled slot: two that mixing swaps, and one on the way from or to the disk. */
const SPILLED_PANELS = 3;

/** Rows of a slot's panels. */
const rowsOf = (needs: MemoryNeeds, { features }: PlannedSlot): number => {
  const { engine, rank, center } = needs;
  const spec = { features, rank, center, shiftIsOrigin: true, engine };
  return rowsBeforeBlock(maxStateRows(spec, needs.models.length)) + Math.min(needs.block, needs.models.length);
};

/**
 * Bytes of disk that a slot too large for the memory takes while its group runs: two generations of all its rows, or its
 * directions.
 */
export const spillBytes = (needs: MemoryNeeds, { slots, tilesAtOnce }: SlotGroup): number => {
  if (tilesAtOnce === undefined) return 0;
  const [slot] = slots;
  if (needs.engine === 'exact') return directionRows(needs, slot!) * slot!.features * 4;
  return 2 * rowsOf(needs, slot!) * slot!.features * 4;
};

/** Rows that the engine `exact` keeps of a slot: [1; −shift; mean; directions], or none without a basis. */
const directionRows = (needs: MemoryNeeds, { features }: PlannedSlot): number =>
  needs.basis ? rowsBeforeBlock(Math.min(needs.rank, needs.models.length, features)) : 0;

export const groupMemory = (needs: MemoryNeeds, group: SlotGroup): GroupMemory => {
  const engine = needs.engine === 'exact' ? exactMemory(needs, group) : incrementalMemory(needs, group);
  const own = { ...engine, rest: engine.rest + readingBytes(group, needs.models) };
  if (group.beside !== true) return own;
  // Its own readings, for energies, take buffers of their own.
  const beside = sideMemory({ ...needs, modes: needs.sides }, group);
  return { state: own.state + beside.state, staging: own.staging + beside.staging, rest: own.rest + beside.rest };
};

/** N x N numbers that a prefix of the stream takes while it is solved: centred, the solver's copy and its room, and the vectors. */
const SOLVER_MATRICES = 5;

const solverMatrices = (models: number): number => SOLVER_MATRICES * models ** 2 * 8;

/** What a slot's spectra take in the engine `exact`: the products, the prefixes that are solved at once, and the directions of all. */
export const spectrumBytes = ({ models: { length: models }, block, rank, solvers = 1 }: MemoryNeeds): number => {
  const directions = prefixesOf(models, block).reduce(
    (sum, prefix) => sum + Math.min(rank, prefix.models) * prefix.models,
    0,
  );
  return (models ** 2 + directions) * 8 + solvers * solverMatrices(models);
};

/**
 * Prefixes that are solved at once: one a thread, as far as what the groups leave of the memory goes. At least one, and no more where
 * nobody knows what is left.
 */
export const solversAtOnce = (needs: MemoryNeeds, groups: readonly GroupMemory[]): number => {
  if (groups.length === 0) return 1;
  const left = groups.reduce((least, group) => Math.min(least, needs.memory - totalOf(group)), Infinity);
  const { length: models } = needs.models;
  const others = Math.floor(Math.max(left, 0) / solverMatrices(models));
  return Math.min(needs.threads, prefixesOf(models, needs.block).length, 1 + others);
};

/**
 * All models of a part at once, staged twice, or once where only the kernel's cache has them (`partsStaged`); a matrix a
 * thread in which they pass, and a panel a slot to mix into; the Grams of a part's tiles on their way; a Gram a slot, and what
 * one slot's spectra take.
 */
const exactMemory = (needs: MemoryNeeds, group: SlotGroup): GroupMemory => {
  const models = needs.models.length;
  const passing = rowsBeforeBlock(models);
  let state = 0;
  let pass = 0;
  let grams = 0;
  let window = 0;
  for (const slot of group.slots) {
    const { features } = slot;
    const kept = directionRows(needs, slot);
    const tiles = tilesOf(features).slice(0, group.tilesAtOnce);
    const widest = Math.min(features, needs.panel);
    const panels = panelsIn(tiles, widest);
    const threads = Math.min(needs.threads, tiles.length);
    const held = group.tilesAtOnce === undefined ? panels * kept : 2 * threads * kept;
    state += (threads * (kept + 1) + held) * rowStride(widest) * 4;
    const passed = isReadInPlace(needs, group, slot) ? Math.min(features, stretchWidth(models)) : widest;
    pass = Math.max(pass, passing * rowStride(passed) * 4);
    grams += (tiles.length + 1) * passing * passing * 8;
    window = Math.max(window, windowBytes(needs, features));
  }
  const reading: ReadingPlan = { models: needs.models, base: needs.base, groups: [group], block: models };
  const buffer = blockBufferBytes(reading, group);
  // The sums stand by from the first group on, and are looked at one after the other.
  const algebra = spectrumBytes(needs) + needs.sums * passing * passing * 8;
  const rest = grams + algebra + (needs.basis && window > buffer ? window : 0);
  state += threadsOn(needs, group) * pass;
  return { state, staging: stagingOf(needs, group, reading, buffer, needs.partsStaged), rest };
};

/** Threads that have any of a group's tiles. */
const threadsOn = ({ threads }: Pick<MemoryNeeds, 'threads'>, { slots, tilesAtOnce = threads }: SlotGroup): number => {
  const tiles = slots.reduce((sum, { features }) => sum + tilesOf(features).length, 0);
  return Math.min(threads, tilesAtOnce, tiles);
};

/** Whether a slot's rows go from their files to where they are multiplied. What does not, where a model is left out, takes a buffer. */
const isReadInPlace = ({ inPlace, engine, models }: MemoryNeeds, { inFiles }: SlotGroup, slot: PlannedSlot): boolean =>
  inPlace && engine === 'exact' && inFiles === true && isFloat32(slot, models);

/** @param buffer bytes of a block's buffer, where there is one */
const stagingOf = (needs: MemoryNeeds, group: SlotGroup, reading: ReadingPlan, buffer: number, blocks = 2): number => {
  if (group.inFiles !== true) return blocks * buffer;
  const width = (slot: PlannedSlot): number =>
    isReadInPlace(needs, group, slot) ? stretchWidth(needs.models.length) : TILE_WIDTH;
  const rows = needs.rowBuffers * threadsOn(needs, group) * tileRowsBytes(group, reading, width);
  return rows + (group.standby?.buffers ?? 0) * buffer;
};

/** The window through which a slot's basis is written. */
const windowBytes = (needs: MemoryNeeds, features: number): number =>
  (1 + Math.min(needs.rank, needs.models.length)) * Math.min(features, windowTiles(needs.rank) * TILE_WIDTH) * 4;

const incrementalMemory = (needs: MemoryNeeds, group: SlotGroup): GroupMemory => {
  let state = 0;
  let grams = 0;
  let window = 0;
  for (const slot of group.slots) {
    const { features } = slot;
    const rows = rowsOf(needs, slot);
    const tiles = tilesOf(features).slice(0, group.tilesAtOnce);
    const widest = Math.min(features, needs.panel);
    const panels = panelsIn(tiles, widest);
    const threads = Math.min(needs.threads, tiles.length);
    const held = group.tilesAtOnce === undefined ? panels + threads : SPILLED_PANELS * threads;
    state += held * rows * rowStride(widest) * 4;
    grams += tiles.length * rows * rows * 8;
    window = Math.max(window, windowBytes(needs, features));
  }
  const reading: ReadingPlan = { models: needs.models, base: needs.base, groups: [group], block: needs.block };
  const buffer = blockBufferBytes(reading, group);
  // A window that fits is read into a block's buffer; a larger one takes memory of its own.
  const rest = grams + (needs.basis && window > buffer ? window : 0);
  return { state, staging: stagingOf(needs, group, reading, buffer), rest };
};

/** What the modes rows and cols need beside what `MemoryNeeds` says. */
export interface SideNeeds extends Omit<MemoryNeeds, 'engine' | 'basis' | 'sums' | 'sides'> {
  readonly modes: readonly SideMode[];
}

/**
 * The mean in float64, the origin where there is a base, the samples of a few models and the strips of each mode; two
 * blocks as stored; and the room of the solver and of each thread's products.
 */
export const sideMemory = (needs: SideNeeds, group: SlotGroup): GroupMemory => {
  const staging = sideStaging(needs, group, modelsReadAtOnce(group, needs.block));
  const { state, rest } = sideState(needs, group.slots);
  return { state, staging: 2 * staging, rest: rest + readingBytes(group, needs.models) };
};

/** A block as stored. */
const sideStaging = ({ models, base }: SideNeeds, group: SlotGroup, block: number): number =>
  blockBufferBytes({ models, base, groups: [group], block }, group);

const sideState = (needs: SideNeeds, slots: readonly PlannedSlot[]): Pick<GroupMemory, 'state' | 'rest'> => {
  let state = 0;
  let solver = 0;
  let widest = 0;
  for (const slot of slots) {
    const { features } = slot;
    if (needs.core) {
      const [models, rows, cols] = [needs.models.length, slot.cols, slot.rows].map((most) =>
        Math.min(needs.rank, most),
      );
      state += coreBytes({ models: models!, rows: rows!, cols: cols! }) + needs.models.length * models! * 8;
    }
    state += features * ((needs.center ? 8 : 0) + (needs.base === null ? 0 : 4));
    state += modelsAtOnce(features, needs.block) * slot.rows * sampleShape(slot).stride * 4;
    for (const mode of needs.modes) {
      const side = sideOf(mode, slot);
      if (isFollowed(side, needs)) {
        state += followedBytes(side, needs.rank);
        continue;
      }
      state += packedLength(side) * 8;
      solver = Math.max(solver, solverBytes(side, needs.rank));
      widest = Math.max(widest, side);
    }
  }
  return { state, rest: solver + needs.threads * Math.min(widest, BLOCK_SIDE) ** 2 * 4 };
};

/**
 * The whole matrix, its vectors and LAPACK's room (three times as much); or a Krylov space with its image, what is mixed
 * from them, and a product's shares.
 */
export const solverBytes = (side: number, rank: number): number => {
  if (side <= WHOLE_SPECTRUM_SIDE) return 6 * side * side * 8;
  const wanted = Math.min(rank, side);
  return (2 * krylovRows(side, wanted) + 3 * wanted + (2 * LANES + 4) * KRYLOV_BLOCK) * side * 8;
};

const totalOf = ({ state, staging, rest }: GroupMemory): number => state + staging + rest;

/**
 * Puts consecutive slots together for the modes rows and cols.
 * @param first index of the first group
 * @throws ConfigInvalid when a slot does not fit alone, with what it needs
 */
export const groupSides = (slots: readonly PlannedSlot[], needs: SideNeeds, first: number): readonly SlotGroup[] => {
  // Looking at all models anew for every slot that joins would take seconds where there are thousands: what a slot stages
  // is asked once for each number of models at once. The sum errs on the safe side.
  const staged = new Map<string, number>();
  const stagingOf = (slot: PlannedSlot, block: number): number => {
    const key = `${slot.id} ${block}`;
    let bytes = staged.get(key);
    if (bytes === undefined) {
      bytes = sideStaging(needs, { index: 0, slots: [slot] }, block);
      staged.set(key, bytes);
    }
    return bytes;
  };
  const reading = new Map<PlannedSlot, number>();
  const readingOf = (slot: PlannedSlot): number => {
    const bytes = reading.get(slot) ?? readingBytes({ index: 0, slots: [slot] }, needs.models);
    reading.set(slot, bytes);
    return bytes;
  };
  const bytesOf = (some: readonly PlannedSlot[]): number => {
    const block = modelsReadAtOnce({ slots: some }, needs.block);
    const { state, rest } = sideState(needs, some);
    const beside = some.reduce((sum, slot) => sum + readingOf(slot), 0);
    return state + 2 * some.reduce((sum, slot) => sum + stagingOf(slot, block), 0) + rest + beside;
  };
  const groups: SlotGroup[] = [];
  let current: PlannedSlot[] = [];
  for (const slot of slots) {
    const alone = bytesOf([slot]);
    if (alone > needs.memory) throw sidesTooLarge(slot, alone, needs);
    if (current.length > 0 && bytesOf([...current, slot]) > Math.min(needs.memory, GROUP_BYTES)) {
      groups.push({ index: first + groups.length, slots: current });
      current = [];
    }
    current.push(slot);
  }
  if (current.length > 0) groups.push({ index: first + groups.length, slots: current });
  return groups;
};

/** What was found in place of so many MiB, and what gives more. */
const moreThan = ({ memory, cardBinds }: Pick<MemoryNeeds, 'memory' | 'cardBinds'>, mebibytes: number): string =>
  cardBinds
    ? `found ${formatBytes(memory)} on the card beside what its threads take; give fewer --threads, --device blas`
    : `found ${formatBytes(memory)}; give --memory ${mebibytes}MiB`;

const sidesTooLarge = (slot: PlannedSlot, needed: number, needs: SideNeeds): ConfigInvalid => {
  const mebibytes = Math.ceil(needed / 2 ** 20);
  const sides = needs.modes.map((mode) => `${mode} (side ${sideOf(mode, slot)})`).join(' and ');
  return new ConfigInvalid({
    issues: [
      `memory: slot ${displayName(slot.name)} (${slot.rows} x ${slot.cols}) needs ${formatBytes(needed)} ` +
        `(${mebibytes} MiB) in mode ${sides}, ${moreThan(needs, mebibytes)}, ` +
        'another --mode, or leave the slot out with --exclude',
    ],
  });
};

/** The most tiles of a slot that fit the memory at a time; 0 when not even one does. */
const tilesThatFit = (slot: PlannedSlot, needs: MemoryNeeds): number => {
  let fitting = 0;
  const most = Math.min(MOST_TILES_AT_ONCE, tilesOf(slot.features).length);
  for (let tiles = 1; tiles <= most; tiles *= 2) {
    const total = totalOf(groupMemory(needs, { index: 0, slots: [slot], tilesAtOnce: tiles }));
    if (total <= (tiles === 1 ? needs.memory : Math.min(needs.memory, GROUP_BYTES))) fitting = tiles;
  }
  return fitting;
};

/**
 * Puts consecutive slots together as long as they fit, and as it is worth it. A slot that does not fit alone makes a group
 * of its own, whose state is kept in a file.
 * @param first index of the first group
 * @throws ConfigInvalid when not even one tile of a slot fits, with what it needs
 */
export const groupSlots = (slots: readonly PlannedSlot[], needs: MemoryNeeds, first = 0): readonly SlotGroup[] => {
  // Of weights that stay in their files the kernel's cache alone has more than a tile, and gives it up when memory is short.
  if (needs.engine === 'exact' && mayStayInFiles(slots, needs)) {
    const groups = groupsIfAny(() => groupsOf(slots, { ...needs, partsStaged: 1 }, first));
    if (groups?.every(({ inFiles }) => inFiles === true)) return groups;
  }
  return groupsOf(slots, needs, first);
};

/** Null where a slot does not fit: what it needs is told by whoever counts all of it. */
const groupsIfAny = (make: () => readonly SlotGroup[]): readonly SlotGroup[] | null => {
  try {
    return make();
  } catch (error) {
    if (error instanceof ConfigInvalid) return null;
    throw error;
  }
};

const groupsOf = (slots: readonly PlannedSlot[], needs: MemoryNeeds, first: number): readonly SlotGroup[] => {
  // Needs add up but for the window, which the largest slot decides: the sum errs on the safe side.
  const alone = slots.map((slot) => totalOf(groupMemory(needs, { index: 0, slots: [slot] })));
  // All slots share their reading with the modes rows and cols, or none does: tables have them in order, whoever reads.
  const withSides = slots.map((slot) =>
    needs.sides.length > 0 ? totalOf(groupMemory(needs, { index: 0, slots: [slot], beside: true })) : Infinity,
  );
  const shared = withSides.every((bytes) => bytes <= needs.memory);
  const each = shared ? withSides : alone;
  const least = slots.map((slot, i) =>
    alone[i]! <= needs.memory ? alone[i]! : totalOf(groupMemory(needs, { index: 0, slots: [slot], tilesAtOnce: 1 })),
  );
  const most = least.reduce((largest, bytes) => Math.max(largest, bytes), 0);
  if (most > needs.memory) throw tooLarge(slots[least.indexOf(most)]!, most, needs);
  const groups: SlotGroup[] = [];
  let current: PlannedSlot[] = [];
  let filled = 0;
  const close = (): void => {
    const beside = shared ? ({ beside: true } as const) : {};
    if (current.length > 0) groups.push({ index: first + groups.length, slots: current, ...beside });
    current = [];
    filled = 0;
  };
  slots.forEach((slot, i) => {
    if (filled + each[i]! > Math.min(needs.memory, GROUP_BYTES)) close();
    if (each[i]! > needs.memory) {
      groups.push({ index: first + groups.length, slots: [slot], tilesAtOnce: tilesThatFit(slot, needs) });
      return;
    }
    current.push(slot);
    filled += each[i]!;
  });
  close();
  return mayStayInFiles(slots, needs) && !shared ? groups.map((group) => inFiles(needs, group)) : groups;
};

/** A tile's rows for each of many threads may be more than two blocks of small slots. */
const inFiles = (needs: MemoryNeeds, group: SlotGroup): SlotGroup => {
  const left = { ...group, inFiles: true } as const;
  return totalOf(groupMemory(needs, left)) <= needs.memory ? left : group;
};

/** Files of a block, at most, of which three may be open at once beside all else that a process has open. */
const MOST_FILES_OF_THREE = 170;

/**
 * Has memory stand by to read past the page cache, where it has little of the models: buffers for the largest block for which all
 * groups, the fullest too, leave room. Three, unless two serve more: with a block that waits between the one in use and the one being
 * read, neither the disk nor the work waits for the slower of the other's blocks. The engine exact reads all models at once: it would
 * take twice the memory it does.
 */
export const withStandby = (groups: readonly SlotGroup[], needs: MemoryNeeds): readonly SlotGroup[] => {
  const staysInFiles = groups.length > 0 && groups.every((group) => group.inFiles === true);
  if (needs.engine === 'exact' || !staysInFiles || !areCold(needs.models)) return groups;
  const left = groups.map((group) => needs.memory - totalOf(groupMemory(needs, group)));
  const room = left.reduce((least, bytes) => Math.min(least, bytes), Infinity);
  const sizes = groups.map((group) => fetchingBytes(group, needs));
  const files = needs.models.reduce((most, { header }) => Math.max(most, header.files.length), 0);
  const mayBeThree = Math.min(needs.block, needs.models.length) * files <= MOST_FILES_OF_THREE;
  const choices = (mayBeThree ? [3, 2] : [2]).map((buffers) => {
    const served = sizes.filter((size) => buffers * size <= room);
    const bytes = served.reduce((most, size) => Math.max(most, size), 0);
    return { standby: { buffers, bytes }, served: served.reduce((sum, size) => sum + size, 0) };
  });
  const { standby, served } = choices.reduce((best, choice) => (choice.served > best.served ? choice : best));
  return served === 0 ? groups : groups.map((group) => ({ ...group, standby }));
};

/**
 * Whether weights are left in their files: what the kernel fetches ahead then stands in its cache, and takes as much of the
 * machine as two blocks in memory would, so that groups are the same (but for the engine exact, which keeps nothing else).
 */
const mayStayInFiles = (slots: readonly PlannedSlot[], { models, base, block, engine }: MemoryNeeds): boolean =>
  slots.every(({ isDelta }) => isDelta !== true) &&
  canStayInFiles({ models, base, block: engine === 'exact' ? models.length : block });

const tooLarge = (slot: PlannedSlot, needed: number, needs: MemoryNeeds): ConfigInvalid => {
  const mebibytes = Math.ceil(needed / 2 ** 20);
  const smaller = needs.engine === 'exact' ? '--engine incremental' : 'a smaller --rank or --block';
  return new ConfigInvalid({
    issues: [
      `memory: slot ${displayName(slot.name)} (${slot.rows} x ${slot.cols}) needs ${formatBytes(needed)} ` +
        `(${mebibytes} MiB), ${moreThan(needs, mebibytes)}, ${smaller}, or leave the slot out with --exclude`,
    ],
  });
};
