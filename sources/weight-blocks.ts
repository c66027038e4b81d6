// The data lane's beginning: blocks of models as descriptors, group after group. A descriptor weighs nothing; the
// weights are read only when an operator asks for them, into a buffer that the operator owns. RxJS has no backpressure,
// so payload never travels through a stream.
import { defer, from, type Observable } from 'rxjs';
import type { PlannedModel, ReadingPlan, SlotGroup } from './reading-plan.ts';
import { SourceFiles } from './source-files.ts';
import { type StagedBlock, stageBlock, stagingBytes } from './staged-block.ts';

/** b consecutive models of one group of slots, not yet read. */
export interface WeightBlock {
  readonly plan: ReadingPlan;
  readonly group: SlotGroup;
  /** Which block of its group, and of how many. */
  readonly index: number;
  readonly blocks: number;
  readonly models: readonly PlannedModel[];
  /** Reads the weights; in a group's first block the base's too. */
  readonly read: (buffer: SharedArrayBuffer) => Promise<ReadBlock>;
}

export interface ReadBlock extends StagedBlock {
  /** The base's weights, in the first block of a group when the plan has a base. */
  readonly base: StagedBlock | null;
}

/** Bytes of buffer that any block of the group can need. */
export const blockBufferBytes = (plan: ReadingPlan, group: SlotGroup): number => {
  let largest = 0;
  for (let at = 0; at < plan.models.length; at += plan.block) {
    largest = Math.max(largest, stagingBytes(group, plan.models.slice(at, at + plan.block)));
  }
  return largest + (plan.base === null ? 0 : stagingBytes(group, [plan.base]));
};

/** Streams a plan's blocks in order. Cold; files are open only while a block is read. */
export const weightBlocks = (plan: ReadingPlan): Observable<WeightBlock> =>
  defer(() => from(blocksOf(plan, new SourceFiles())));

function* blocksOf(plan: ReadingPlan, files: SourceFiles): Generator<WeightBlock> {
  const blocks = Math.ceil(plan.models.length / plan.block);
  for (const group of plan.groups) {
    for (let index = 0; index < blocks; index++) {
      const models = plan.models.slice(index * plan.block, (index + 1) * plan.block);
      const read = async (buffer: SharedArrayBuffer): Promise<ReadBlock> => {
        const staged = await stageBlock(files, group, models, buffer);
        if (index > 0 || plan.base === null) return { ...staged, base: null };
        const base = await stageBlock(files, group, [plan.base], buffer, stagingBytes(group, models));
        if (base.faults.length > 0) throw base.faults[0]!.error;
        return { ...staged, base };
      };
      yield { plan, group, index, blocks, models, read };
    }
  }
}
