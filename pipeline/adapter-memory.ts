// Groups of the engine `exact` over adapters by their factors: a module each. Its factors stay in memory where they fit beside
// the rest, else they are read anew for every use; results are the same. Memory: adapters' factors, 4 (rows + cols) r bytes each.
import { ConfigInvalid } from '../configs/errors.ts';
import { coreBytes } from '../operators/core-tensor.ts';
import { adaptersReadAtOnce } from '../operators/exact-adapters.ts';
import type { AdapterWork } from '../operators/factored-flops.ts';
import { factoredGramBytes } from '../operators/factored-gram.ts';
import { factoredModesBytes } from '../operators/factored-modes.ts';
import { sideOf } from '../operators/mode-scatter.ts';
import { rowsBeforeBlock } from '../operators/update-subspace.ts';
import { formatBytes } from '../sinks/human-format.ts';
import { displayName } from '../sources/display-name.ts';
import type { PlannedSlot, SlotGroup } from '../sources/reading-plan.ts';
import { readingBytes, stagingBytes } from '../sources/staged-block.ts';
import { adapterWork } from './choose-engine.ts';
import { type GroupMemory, type MemoryNeeds, solverBytes, spectrumBytes } from './memory-plan.ts';

/** What a thread takes for the blocks of a Gram matrix of factors. */
const THREAD_BYTES = 5 * 2 ** 20;

/** What `factoredGram` and the modes need of a slot's adapters, and what beside. */
const factoredNeeds = (group: SlotGroup, needs: MemoryNeeds, withModels: boolean) => {
  const source = adapterWork(group.slots[0]!, needs.models);
  return {
    mostStack: withModels ? factoredGramBytes(source, { memory: Infinity }) : 0,
    leastStack: withModels ? factoredGramBytes(source, { memory: 0 }) : 0,
    modes: needs.sides.length === 0 ? 0 : sidesBytes(source, needs),
    rest: restBytes(group, needs, withModels),
    all: stagingBytes(group, needs.models),
    portion: 2 * stagingBytes(group, needs.models.slice(0, adaptersReadAtOnce(group, needs.models))),
  };
};

/**
 * A group a slot.
 * @param first index of the first group
 * @throws ConfigInvalid when a module does not fit the memory, with what it needs
 */
export const groupAdapters = (
  slots: readonly PlannedSlot[],
  needs: MemoryNeeds,
  withModels: boolean,
  first: number,
): readonly SlotGroup[] =>
  slots.map((slot, i) => {
    const beside = withModels && needs.sides.length > 0 ? ({ beside: true } as const) : {};
    const group: SlotGroup = { index: first + i, slots: [slot], ...beside };
    const { mostStack, leastStack, modes, rest, all, portion } = factoredNeeds(group, needs, withModels);
    const least = rest + Math.max(leastStack, modes);
    const holds = all + least <= needs.memory;
    const staging = holds ? all : portion;
    if (staging + least > needs.memory) throw tooLarge(slot, staging + least, needs);
    return { ...group, factored: { holds, stackBytes: Math.min(mostStack, needs.memory - staging - rest) } };
  });

/** What such a group holds in memory at its fullest, in bytes. */
export const adapterMemory = (group: SlotGroup, needs: MemoryNeeds): GroupMemory => {
  const { holds, stackBytes } = group.factored!;
  const { modes, rest, all, portion } = factoredNeeds(group, needs, stackBytes > 0);
  return { state: Math.max(stackBytes, modes), staging: holds ? all : portion, rest };
};

/** Scatter matrices, the mean, stacked factors, and the solver's room. */
const sidesBytes = (source: AdapterWork, needs: MemoryNeeds): number => {
  const { sides: modes, rank, center } = needs;
  const solver = Math.max(...modes.map((mode) => solverBytes(sideOf(mode, source), rank)));
  return factoredModesBytes(source, { modes, rank, center }) + solver + (needs.core ? coreNeeds(source, rank) : 0);
};

/** The core tensor, the directions it is made of, and what one task answers. */
const coreNeeds = ({ rows, cols, ranks: { length } }: AdapterWork, rank: number): number => {
  const [models, ofRows, ofCols] = [length, cols, rows].map((most) => Math.min(rank, most)) as [number, number, number];
  const each = ofRows * ofCols * 8;
  return coreBytes({ models, rows: ofRows, cols: ofCols }) + length * (models * 8 + each) + 12 * rank * (rows + cols);
};

/** The Gram matrix with its algebra and the sums that stand by, each thread's products, and what reading takes. */
const restBytes = (group: SlotGroup, needs: MemoryNeeds, withModels: boolean): number => {
  const { models, sums, threads } = needs;
  const n = models.length;
  const gram = withModels ? spectrumBytes(needs) + sums * (rowsBeforeBlock(0) + n) ** 2 * 8 : 0;
  return gram + threads * THREAD_BYTES + readingBytes(group, models);
};

const tooLarge = (slot: PlannedSlot, needed: number, { memory }: MemoryNeeds): ConfigInvalid => {
  const mebibytes = Math.ceil(needed / 2 ** 20);
  return new ConfigInvalid({
    issues: [
      `memory: module ${displayName(slot.name)} (${slot.rows} x ${slot.cols}) needs ${formatBytes(needed)} ` +
        `(${mebibytes} MiB) for the factors of its adapters, found ${formatBytes(memory)}; give --memory ${mebibytes}MiB, ` +
        '--engine incremental, another --mode, or leave the slot out with --exclude',
    ],
  });
};
