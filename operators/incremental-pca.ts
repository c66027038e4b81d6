// The streaming engines as an RxJS operator: blocks of models are folded into one running PCA a slot.
// Every weight is touched three times a block (widened, multiplied into a small Gram, mixed into the next state); all else
// is float64 algebra on a few dozen rows (update-subspace.ts). Cost a weight and model: about 2 (r + b) flops for the Gram
// and 2 r (r + b) / b for the mixing, r the state rows. Memory: (3 + ℓ + b) floats a weight, ℓ = max(2k, 16), of the group.
// Source: Ross et al. 2008, sec. 2.1.1; Levy & Lindenbaum 2000.
import {
  concat,
  defer,
  EMPTY,
  from,
  ignoreElements,
  mergeMap,
  type Observable,
  type ObservableInput,
  type OperatorFunction,
  of,
  tap,
} from 'rxjs';
import type { PlannedModel, PlannedSlot, SlotGroup } from '../sources/reading-plan.ts';
import type { ReadFault } from '../sources/staged-block.ts';
import { blockBufferBytes, blocksAlive, isSecondPass, type WeightBlock } from '../sources/weight-blocks.ts';
import { BlockBuffers, type HeldBlock, type TimedRead } from './block-buffers.ts';
import { concatMapAhead } from './concat-map-ahead.ts';
import type { GroupModes } from './exact-modes.ts';
import { IncrementalEngine, type RestoredGroup } from './incremental-engine.ts';
import type { Subspace, SubspaceEstimate } from './subspace.ts';
import type { StreamingEngine } from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';
import type { TileTimings } from './time-spent.ts';
import type { SubspaceUpdate } from './update-subspace.ts';

/** What a checkpoint sees of an engine between two blocks. */
export type SavedEngine = Pick<IncrementalEngine, 'save' | 'rested' | 'beside'>;

export interface IncrementalPcaOptions<R> {
  /** Directions reported, k; the state keeps up to max(2k, 16). */
  readonly rank: number;
  readonly tiles: Tiles;
  /** How the state is updated. Default: `incremental`. */
  readonly engine?: StreamingEngine;
  /** Of the engine `randomized`: draws the signs. Default 0. */
  readonly seed?: number;
  /** Subtract the mean over models (PCA). Default true. */
  readonly center?: boolean;
  /** Shows the subspaces of the running group after every so many blocks of its first pass, the last one left out. */
  readonly snapshot?: {
    /** Blocks. */
    readonly every: number;
    readonly use: (estimates: readonly SubspaceEstimate[], update: BlockUpdate) => ObservableInput<R>;
  };
  /** What a checkpoint has of a group whose plan says so (`folded`). */
  readonly restore?: (group: SlotGroup) => RestoredGroup | null;
  /** May write down the running group's state after a block; the stream waits for it. */
  readonly checkpoint?: (update: BlockUpdate, engine: SavedEngine) => Promise<void>;
  /** Whether the next block may be visited before this one is told: a state that is to be written should not wait for that. */
  readonly mayVisitAhead?: () => boolean;
  /** After all of a group's slots were finished; the stream waits for it. */
  readonly afterGroup?: (group: SlotGroup) => Promise<void>;
  /** What a group's blocks are also handed to, where they come whole: its modes rows and cols. */
  readonly beside?: (group: SlotGroup) => GroupModes | null;
  /** Where slots too large for the memory keep their rows; needed when the plan has any. */
  readonly scratch?: string;
  /** Blocks alive at once (`blocksAlive`). Default: two. */
  readonly blocksAlive?: number;
  /** What a model with NaN, Inf or missing bytes does: stop the stream (default), or be left out of that slot. */
  readonly onBadSource?: 'error' | 'skip';
  /**
   * Uses a slot's finished subspace while its rows are still on the device; what it emits goes downstream.
   * Default: emits the subspace's numbers.
   */
  readonly finish?: (subspace: Subspace) => ObservableInput<R>;
}

/** What a block did to one slot. */
export interface SlotUpdate {
  readonly slot: PlannedSlot;
  readonly models: readonly PlannedModel[];
  readonly update: SubspaceUpdate;
}

export interface BlockUpdate {
  readonly kind: 'block';
  readonly group: SlotGroup;
  readonly index: number;
  readonly blocks: number;
  /** Models of the stream up to and with this block. */
  readonly modelsSeen: number;
  readonly slots: readonly SlotUpdate[];
  /** Models left out of slots in this block (`onBadSource: 'skip'`). */
  readonly skipped: readonly ReadFault[];
  readonly bytes: number;
  /** Seconds from asking for the block's weights to having them, or their files; overlaps the work on the block before. */
  readonly readSeconds: number;
  /** Seconds in which nothing could be folded, because the block's weights were not there yet. */
  readonly waitSeconds: number;
  /** Seconds of work on tiles since the update before, summed over threads. */
  readonly tileSeconds: TileTimings;
}

/** Waits for whoever wants to know that a group is done. */
export const afterGroup = (
  options: Pick<IncrementalPcaOptions<unknown>, 'afterGroup'>,
  group: SlotGroup,
): Observable<never> =>
  options.afterGroup === undefined ? EMPTY : defer(() => options.afterGroup!(group)).pipe(ignoreElements());

/** Folds blocks of weights; emits an update a block, and what `finish` makes of each slot at a group's end. */
export const incrementalPca =
  <R = Subspace>(options: IncrementalPcaOptions<R>): OperatorFunction<WeightBlock, BlockUpdate | R> =>
  (source) =>
    defer(() => {
      const engine = new IncrementalEngine(options as IncrementalPcaOptions<unknown>);
      // Looks at every model: once a run, or the time of a run would grow with their square. And for all groups, so that no
      // group leaves buffers behind that are too small for the next.
      let buffers: BlockBuffers | null = null;
      const buffersOf = ({ plan }: WeightBlock): BlockBuffers => {
        buffers ??= new BlockBuffers(() =>
          plan.groups.reduce((most, group) => Math.max(most, blockBufferBytes(plan, group)), 0),
        );
        return buffers;
      };
      return source.pipe(
        concatMapAhead<WeightBlock, HeldBlock, TimedRead, BlockUpdate | R>({
          ahead: options.blocksAlive ?? blocksAlive([]),
          acquire: (block) => buffersOf(block).acquire(block.group),
          read: async (block, held) => {
            engine.openEarly(block);
            const timed = await buffersOf(block).read(block, held);
            engine.foresee(block, timed);
            return timed;
          },
          use: (block, timed) =>
            from(engine.fold(block, timed)).pipe(
              mergeMap((update) => {
                const finish = concat(
                  defer(() => engine.finish(timed.buffer) as Observable<R>),
                  afterGroup(options, block.group),
                );
                if (update === null) return block.models.length === 0 ? finish : EMPTY;
                const { snapshot, checkpoint } = options;
                const last = block.index === block.blocks - 1;
                const looks =
                  !last && !isSecondPass(block) && snapshot !== undefined && (block.index + 1) % snapshot.every === 0;
                return concat(
                  of(update),
                  looks ? defer(() => engine.estimates()).pipe(mergeMap((seen) => snapshot.use(seen, update))) : EMPTY,
                  checkpoint === undefined ? EMPTY : defer(() => checkpoint(update, engine)).pipe(ignoreElements()),
                  last ? finish : EMPTY,
                );
              }),
              tap({ complete: () => engine.rest() }),
            ),
          release: (held) => {
            if (held.timed !== null) engine.forget(held.timed);
            buffers!.release(held);
          },
        }),
      );
    });
