// The data lane's beginning: blocks of models as descriptors, group after group. A descriptor weighs nothing; the
// weights are read only when an operator asks for them, into a buffer that the operator owns. RxJS has no backpressure,
// so payload never travels through a stream.
import { defer, from, type Observable } from 'rxjs';
import { type HeldFiles, openBlock } from './open-block.ts';
import { modelsToFold, type PlannedModel, type ReadingPlan, type SlotGroup } from './reading-plan.ts';
import { SourceFiles } from './source-files.ts';
import { type BlockAtHand, stageBlock, stagingBytes } from './staged-block.ts';
import { type TileRange, tilesOf } from './tile.ts';

/** b consecutive models of one group of slots, or of some tiles of a slot that is too large, not yet read. */
export interface WeightBlock {
  readonly plan: ReadingPlan;
  readonly group: SlotGroup;
  /** Which block of its group, and of how many; counted on through all passes. */
  readonly index: number;
  readonly blocks: number;
  /** None where a checkpoint has all of the group's models: nothing is to be read, and the group is to be finished. */
  readonly models: readonly PlannedModel[];
  /** Whether it is the first that the group streams: of what a checkpoint has, nothing is streamed again. */
  readonly first: boolean;
  /** Models of the stream up to and with this block, in its pass. */
  readonly modelsSeen: number;
  /** The parts in which the group's blocks come, one after the other; null where a block comes at once. */
  readonly parts: readonly TileRange[] | null;
  /** Which of the parts this is; 0 where there are none. */
  readonly part: number;
  /**
   * Reads the weights of a part (its own, unless another is named); in a group's first block the base's too. Where a group's
   * weights stay in their files, these are open until they are closed, and the buffer is for what the page cache has not got.
   */
  readonly read: (buffer: SharedArrayBuffer | null, part?: number) => Promise<ReadBlock>;
  /** Reads the base's weights alone, to where no model's are: for whoever could not use those of the first block. */
  readonly readBase: (buffer: SharedArrayBuffer | null, part?: number) => Promise<SourceBlock | null>;
}

/** Weights in memory, or in files that are open. */
export interface SourceBlock extends BlockAtHand {
  readonly files?: HeldFiles;
}

export interface ReadBlock extends SourceBlock {
  /** The base's weights, in the first block of a group when the plan has a base. */
  readonly base: SourceBlock | null;
}

/** @throws SourceMalformed when a file of a block was written to since it was opened */
export const checkBlock = ({ files, base }: ReadBlock): void => {
  files?.check();
  base?.files?.check();
};

/** Closes the files of a block that was not read into memory. */
export const closeBlock = ({ files, base }: ReadBlock): void => {
  files?.close();
  base?.files?.close();
};

/** Whether a block is read for the second time. */
export const isSecondPass = ({ plan, index, blocks }: Pick<WeightBlock, 'plan' | 'index' | 'blocks'>): boolean =>
  plan.passes === 2 && index >= blocks / 2;

/**
 * Bytes of buffer that any block of the group can need; what stands by, or none, where its weights stay in their files.
 */
export const blockBufferBytes = (plan: ReadingPlan, group: SlotGroup): number => {
  if (group.inFiles === true) return group.standby?.bytes ?? 0;
  const [first] = partsOf(group) ?? [];
  let largest = 0;
  for (let at = 0; at < plan.models.length; at += plan.block) {
    largest = Math.max(largest, stagingBytes(group, plan.models.slice(at, at + plan.block), first));
  }
  return largest + (plan.base === null ? 0 : stagingBytes(group, [plan.base], first));
};

/** Blocks alive at once: one in use and one being read, or as many as have buffers. */
export const blocksAlive = (groups: readonly SlotGroup[]): number =>
  groups.reduce((most, { standby }) => Math.max(most, standby?.buffers ?? 0), 2);

/** The tile ranges in which a group too large for the memory is visited, the first the largest; null for all others. */
export const partsOf = ({ slots, tilesAtOnce }: SlotGroup): readonly TileRange[] | null => {
  if (tilesAtOnce === undefined) return null;
  const tiles = tilesOf(slots[0]!.features).length;
  return Array.from({ length: Math.ceil(tiles / tilesAtOnce) }, (_, i) => ({
    from: i * tilesAtOnce,
    to: Math.min((i + 1) * tilesAtOnce, tiles),
  }));
};

/** Streams a plan's blocks in order. Cold; files are open while a block is read, or until it is closed. */
export const weightBlocks = (plan: ReadingPlan): Observable<WeightBlock> =>
  defer(() => from(blocksOf(plan, new SourceFiles())));

/**
 * What was staged of the last two blocks of a group of LoRA modules that come in parts: factors serve all tiles, so they are
 * read and made canonical once a block, into memory of their own. Two, since a block is read while the one before is in use.
 */
class StagedFactorBlocks {
  readonly #kept = new Map<
    number,
    { readonly buffer: SharedArrayBuffer; index: number; block: Promise<BlockAtHand> }
  >();

  stage(
    index: number,
    bytes: number,
    stage: (buffer: SharedArrayBuffer) => Promise<BlockAtHand>,
  ): Promise<BlockAtHand> {
    const known = this.#kept.get(index % 2);
    if (known?.index === index) return known.block;
    const buffer =
      known !== undefined && known.buffer.byteLength >= bytes ? known.buffer : new SharedArrayBuffer(bytes);
    const block = stage(buffer);
    this.#kept.set(index % 2, { buffer, index, block });
    return block;
  }
}

function* blocksOf(plan: ReadingPlan, files: SourceFiles): Generator<WeightBlock> {
  for (const group of plan.groups) {
    const parts = partsOf(group);
    const factors = parts !== null && group.slots[0]!.isDelta === true ? new StagedFactorBlocks() : null;
    const folded = group.folded ?? { models: 0, blocks: 0 };
    const perPass = folded.blocks + Math.ceil(modelsToFold(group, plan.models).length / plan.block);
    const blocks = perPass * (plan.passes ?? 1);
    // Where nothing is left to fold, an empty last block says so.
    for (let index = Math.min(folded.blocks, blocks - 1); index < blocks; index++) {
      const from = folded.models + Math.max((index % perPass) - folded.blocks, 0) * plan.block;
      const models = plan.models.slice(from, from + plan.block);
      const first = index <= folded.blocks;
      const readBasePart = async (buffer: SharedArrayBuffer | null, range?: TileRange): Promise<SourceBlock | null> => {
        if (plan.base === null) return null;
        const base: SourceBlock =
          buffer === null || group.inFiles === true
            ? await openBlock(files, group, [plan.base], range)
            : await stageBlock(files, group, [plan.base], buffer, stagingBytes(group, models, range), range);
        if (base.faults.length === 0) return base;
        base.files?.close();
        throw base.faults[0]!.error;
      };
      const readModels = (buffer: SharedArrayBuffer | null, range?: TileRange): Promise<SourceBlock> => {
        if (buffer === null || group.inFiles === true) return openBlock(files, group, models, range, buffer);
        const stage = (into: SharedArrayBuffer) => stageBlock(files, group, models, into, 0, range);
        return factors?.stage(index, stagingBytes(group, models), stage) ?? stage(buffer);
      };
      const readPart = async (buffer: SharedArrayBuffer | null, range?: TileRange): Promise<ReadBlock> => {
        const read = await readModels(buffer, range);
        try {
          return { ...read, base: first ? await readBasePart(buffer, range) : null };
        } catch (error) {
          read.files?.close();
          throw error;
        }
      };
      const modelsSeen = from + models.length;
      for (let part = 0; part < (parts?.length ?? 1); part++) {
        const read = (buffer: SharedArrayBuffer | null, other = part): Promise<ReadBlock> =>
          readPart(buffer, parts?.[other]);
        const readBase = (buffer: SharedArrayBuffer | null, other = part) => readBasePart(buffer, parts?.[other]);
        yield { plan, group, index, blocks, models, first, modelsSeen, parts, part, read, readBase };
        if (models.length === 0) break;
      }
    }
  }
}
