// Slot groups: as many slots as fit the memory with all that streaming them needs. Groups run one after another, each
// streaming all models, so every byte is read once and memory does not depend on the number of models.
import { ConfigInvalid } from '../configs/errors.ts';
import { rowStride } from '../operators/devices/blas-device.ts';
import { maxStateRows } from '../operators/subspace-state.ts';
import { rowsBeforeBlock } from '../operators/update-subspace.ts';
import { formatBytes } from '../sinks/human-format.ts';
import { displayName } from '../sources/display-name.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { TILE_WIDTH, tilesOf } from '../sources/tile.ts';
import { blockBufferBytes } from '../sources/weight-blocks.ts';

export interface MemoryNeeds {
  readonly models: readonly PlannedModel[];
  readonly base: PlannedModel | null;
  readonly block: number;
  readonly rank: number;
  readonly center: boolean;
  readonly threads: number;
  /** The device's panel width. */
  readonly panel: number;
  readonly memory: number;
  readonly basis: boolean;
}

/** What a group holds in memory at its fullest, in bytes. */
export interface GroupMemory {
  /** Panels: constant rows, mean, state and block; and a spare one a thread and slot. */
  readonly state: number;
  /** Two blocks as stored: one in use, one being read. */
  readonly staging: number;
  /** Gram matrices on their way, and the window through which a basis is written where staging is too small for it. */
  readonly rest: number;
}

/** Tiles that one row group of a basis file takes: about 16 MiB, whatever the memory. */
export const windowTiles = (rank: number): number =>
  Math.max(1, Math.min(16, Math.floor(2 ** 24 / ((1 + rank) * TILE_WIDTH * 4))));

export const groupMemory = (needs: MemoryNeeds, group: SlotGroup): GroupMemory => {
  const block = Math.min(needs.block, needs.models.length);
  let state = 0;
  let grams = 0;
  let window = 0;
  for (const { features } of group.slots) {
    const spec = { features, rank: needs.rank, center: needs.center, shiftIsOrigin: true };
    const rows = rowsBeforeBlock(maxStateRows(spec, needs.models.length)) + block;
    const tiles = tilesOf(features);
    const widest = Math.min(features, needs.panel);
    const panels = tiles.reduce((sum, { width }) => sum + Math.ceil(width / widest), 0);
    state += (panels + Math.min(needs.threads, tiles.length)) * rows * rowStride(widest) * 4;
    grams += tiles.length * rows * rows * 8;
    const windowed = Math.min(features, windowTiles(needs.rank) * TILE_WIDTH);
    window = Math.max(window, (1 + Math.min(needs.rank, needs.models.length)) * windowed * 4);
  }
  const reading: ReadingPlan = { models: needs.models, base: needs.base, groups: [group], block: needs.block };
  const staging = blockBufferBytes(reading, group);
  // A window that fits is read into a staging buffer; a larger one takes memory of its own.
  return { state, staging: 2 * staging, rest: grams + (needs.basis && window > staging ? window : 0) };
};

const totalOf = ({ state, staging, rest }: GroupMemory): number => state + staging + rest;

/**
 * Puts consecutive slots together as long as they fit.
 * @throws ConfigInvalid when one slot alone does not fit, with what it needs
 */
export const groupSlots = (slots: readonly PlannedSlot[], needs: MemoryNeeds): readonly SlotGroup[] => {
  // Needs add up but for the window, which the largest slot decides: the sum errs on the safe side.
  const alone = slots.map((slot) => totalOf(groupMemory(needs, { index: 0, slots: [slot] })));
  const most = Math.max(...alone);
  if (most > needs.memory) throw tooLarge(slots[alone.indexOf(most)]!, most, needs.memory);
  const groups: SlotGroup[] = [];
  let current: PlannedSlot[] = [];
  let filled = 0;
  slots.forEach((slot, i) => {
    if (filled + alone[i]! > needs.memory) {
      groups.push({ index: groups.length, slots: current });
      current = [];
      filled = 0;
    }
    current.push(slot);
    filled += alone[i]!;
  });
  if (current.length > 0) groups.push({ index: groups.length, slots: current });
  return groups;
};

const tooLarge = (slot: PlannedSlot, needed: number, memory: number): ConfigInvalid => {
  const mebibytes = Math.ceil(needed / 2 ** 20);
  return new ConfigInvalid({
    issues: [
      `memory: slot ${displayName(slot.name)} (${slot.rows} x ${slot.cols}) needs ${formatBytes(needed)} ` +
        `(${mebibytes} MiB), found ${formatBytes(memory)}; give --memory ${mebibytes}MiB, a smaller --rank or --block, or leave the slot out with --exclude`,
    ],
  });
};
