// The engine `exact` in the modes rows and cols as a stream: blocks of whole models are added to the slots' scatter
// matrices (mode-scatter.ts), the eigenpairs found, and each model's energy along them measured in a second pass.
import { concat, defer, EMPTY, from, mergeMap, type Observable, type ObservableInput, of } from 'rxjs';
import type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from '../sources/reading-plan.ts';
import { weightBytes } from '../sources/reading-plan.ts';
import type { ReadFault } from '../sources/staged-block.ts';
import { blockBufferBytes, type ReadBlock, type WeightBlock, weightBlocks } from '../sources/weight-blocks.ts';
import { concatMapAhead } from './concat-map-ahead.ts';
import type { CoreEnergy } from './core-tensor.ts';
import type { FollowingEngine } from './followed-scatter.ts';
import { afterGroup, type BlockUpdate } from './incremental-pca.ts';
import {
  ModeScatter,
  modelsAtOnce,
  type SavedScatter,
  type ScatterModels,
  type ScatterOptions,
  type SlotEnergies,
} from './mode-scatter.ts';
import type { ModeSpectrum } from './scatter-spectrum.ts';
import type { SideMode } from './scatter-tasks.ts';
import type { Tiles } from './tile-pool.ts';

/** Blocks alive at once: one in use, one being read. */
const BLOCKS_ALIVE = 2;

export interface ExactModesOptions<R> {
  readonly modes: readonly SideMode[];
  /** Directions made of each mode, k. */
  readonly rank: number;
  readonly tiles: Tiles;
  /** Centre every position over the models. Default true. */
  readonly center?: boolean;
  /** The widest scatter matrix that is kept whole; wider ones are followed. Default `LARGEST_EXACT_SIDE`. */
  readonly largestSide?: number;
  /** What follows wider ones. Default `incremental`. */
  readonly follower?: FollowingEngine;
  /** Measure every model along the directions, in a second pass over the weights. Default true. */
  readonly energies?: boolean;
  /** Also make the core tensor of each slot there, with these directions of mode models. */
  readonly vectorsOf?: ScatterOptions['vectorsOf'];
  /** What a model with NaN, Inf or missing bytes does: stop the stream (default), or be left out of that slot. */
  readonly onBadSource?: 'error' | 'skip';
  /** After all of a group's slots were finished; the stream waits for it. */
  readonly afterGroup?: (group: SlotGroup) => Promise<void>;
  /** Where the weights come from. Default: the plan's files. */
  readonly blocks?: (plan: ReadingPlan) => Observable<WeightBlock>;
  /** Uses a slot's results; what it emits goes downstream. Default: emits the results. */
  readonly finish?: (slot: ModesOfSlot) => ObservableInput<R>;
}

/** All that is known of a slot in these modes. */
export interface ModesOfSlot extends ScatterModels {
  readonly kind: 'modes';
  readonly slot: PlannedSlot;
  readonly spectra: readonly ModeSpectrum[];
  /** Null where they were not asked for. */
  readonly energies: SlotEnergies | null;
  /** Null where it was not asked for, or could not be made. */
  readonly core: readonly CoreEnergy[] | null;
  /** features float32, absolute; null uncentred. */
  readonly mean: Float32Array | null;
}

interface TimedRead {
  readonly read: ReadBlock;
  readonly seconds: number;
  readonly ready: number;
}

/** Models read at a time in a group: whole ones, so many that each slot is sampled as if it were alone. */
export const modelsReadAtOnce = ({ slots }: Pick<SlotGroup, 'slots'>, block: number): number =>
  slots.reduce((all, { features }) => leastCommonMultiple(all, modelsAtOnce(features, block)), 1);

/** Streams a plan's groups one after another: an update a block, and what `finish` makes of each slot. */
export const exactModes = <R = ModesOfSlot>(
  plan: ReadingPlan,
  options: ExactModesOptions<R>,
): Observable<BlockUpdate | R> =>
  defer(() => concat(...plan.groups.map((group) => groupStream(plan, group, options)))) as Observable<BlockUpdate | R>;

const groupStream = <R>(
  plan: ReadingPlan,
  group: SlotGroup,
  options: ExactModesOptions<R>,
): Observable<BlockUpdate | R | ModesOfSlot> =>
  defer(() => {
    const modes = new GroupModes(plan, group, options as ExactModesOptions<unknown>);
    return concat(modes.readAndFold(), modes.finish(), afterGroup(options, group)) as Observable<
      BlockUpdate | R | ModesOfSlot
    >;
  });

/**
 * A group of slots in the modes rows and cols. Whoever reads whole blocks of its models for another mode hands them over
 * (`fold`, and `measure` in a pass after `solve`); what was not handed over, `finish` reads itself.
 */
export class GroupModes {
  readonly #group: SlotGroup;
  readonly #options: ExactModesOptions<unknown>;
  readonly #scatter: ModeScatter;
  readonly #passes: GroupPasses;
  #spectra: readonly (readonly ModeSpectrum[])[] | null = null;
  #measured = false;

  /** @param firstBlock how the group's own blocks are counted on */
  constructor(plan: ReadingPlan, group: SlotGroup, options: ExactModesOptions<unknown>, firstBlock = 0) {
    const {
      tiles,
      modes,
      rank,
      center = true,
      largestSide,
      follower = 'incremental',
      onBadSource = 'error',
      energies = true,
      vectorsOf,
    } = options;
    const { models, block } = plan;
    this.#group = group;
    this.#options = options;
    this.#scatter = new ModeScatter(group.slots, {
      ...{ models, modes, rank, block, center, tiles, onBadSource, energies },
      ...(largestSide === undefined ? {} : { largestSide }),
      follower,
      ...(vectorsOf === undefined ? {} : { vectorsOf }),
    });
    this.#passes = new GroupPasses(plan, group, firstBlock, options);
  }

  get #wantsEnergies(): boolean {
    return this.#options.energies ?? true;
  }

  /** Whether the weights are needed once more. */
  get #measures(): boolean {
    return this.#wantsEnergies || this.#options.vectorsOf !== undefined;
  }

  /** Whole slots of consecutive models; returns those that cannot be in. */
  fold(read: ReadBlock): Promise<readonly ReadFault[]> {
    return this.#scatter.fold(read, read.base);
  }

  save(write: (bytes: Uint8Array) => void): readonly SavedScatter[] {
    return this.#scatter.save(write);
  }

  /** Goes on from what `save` wrote. */
  load(saved: readonly SavedScatter[], read: (into: Uint8Array, at: number) => void): void {
    this.#scatter.load(saved, read);
  }

  readAndFold(): Observable<BlockUpdate> {
    return this.#passes.stream(this.#measures ? 2 : 1, (read) => this.fold(read));
  }

  async solve(): Promise<void> {
    const spectra: (readonly ModeSpectrum[])[] = [];
    for (const i of this.#group.slots.keys()) spectra.push(await this.#scatter.solve(i));
    this.#spectra = spectra;
  }

  async measure(read: ReadBlock): Promise<void> {
    if (!this.#measures) return;
    this.#measured = true;
    await this.#scatter.measure(read);
  }

  /** What is left to do, then what the options' `finish` makes of each slot. */
  finish(): Observable<unknown> {
    const use = this.#options.finish ?? ((slot: ModesOfSlot) => of(slot));
    const solving = defer(() => (this.#spectra === null ? from(this.solve()) : EMPTY)).pipe(mergeMap(() => EMPTY));
    const measuring = defer(() =>
      this.#measures && !this.#measured ? this.#passes.stream(2, (read) => this.measure(read).then(() => [])) : EMPTY,
    );
    const results = this.#group.slots.map((slot, i) =>
      defer(() => {
        const known = this.#scatter.modelsOf(i);
        if (known.models.length === 0) return EMPTY;
        const energies = this.#wantsEnergies ? this.#scatter.energiesOf(i) : null;
        const mean = this.#scatter.meanOf(i);
        const core = this.#scatter.coreOf(i);
        return use({ kind: 'modes', ...known, slot, spectra: this.#spectra![i]!, energies, core, mean });
      }),
    );
    return concat(solving, measuring, ...results);
  }
}

/** The group's weights, read as often as asked. */
class GroupPasses {
  readonly #plan: ReadingPlan;
  readonly #group: SlotGroup;
  readonly #options: Pick<ExactModesOptions<unknown>, 'tiles' | 'blocks'>;
  readonly #buffers: SharedArrayBuffer[] = [];
  #index: number;
  #restingSince = performance.now();

  constructor(
    plan: ReadingPlan,
    group: SlotGroup,
    firstBlock: number,
    options: Pick<ExactModesOptions<unknown>, 'tiles' | 'blocks'>,
  ) {
    // What it reads itself it reads from the beginning.
    const { folded: _folded, ...whole } = group;
    this.#plan = { ...plan, groups: [whole], block: modelsReadAtOnce(group, plan.block) };
    this.#group = group;
    this.#index = firstBlock;
    this.#options = options;
  }

  /** @param passes how often the group's weights are read in all */
  stream(passes: number, use: (read: ReadBlock) => Promise<readonly ReadFault[]>): Observable<BlockUpdate> {
    const bytes = blockBufferBytes(this.#plan, this.#group);
    let seen = 0;
    return (this.#options.blocks ?? weightBlocks)(this.#plan).pipe(
      concatMapAhead<WeightBlock, SharedArrayBuffer, TimedRead, BlockUpdate>({
        ahead: BLOCKS_ALIVE,
        acquire: () => this.#buffers.pop() ?? new SharedArrayBuffer(bytes),
        release: (buffer) => void this.#buffers.push(buffer),
        read: async (block, buffer) => {
          const start = performance.now();
          const read = await block.read(buffer);
          const ready = performance.now();
          return { read, ready, seconds: (ready - start) / 1e3 };
        },
        use: (block, timed) => {
          seen += block.models.length;
          return from(this.#use(block.models, block.blocks * passes, seen, timed, use));
        },
      }),
    );
  }

  async #use(
    models: readonly PlannedModel[],
    blocks: number,
    seen: number,
    { read, seconds, ready }: TimedRead,
    use: (read: ReadBlock) => Promise<readonly ReadFault[]>,
  ): Promise<BlockUpdate> {
    const waitSeconds = Math.max(ready - this.#restingSince, 0) / 1e3;
    const skipped = await use(read);
    const update: BlockUpdate = {
      kind: 'block',
      group: this.#group,
      index: this.#index++,
      blocks,
      modelsSeen: seen,
      slots: [],
      skipped,
      bytes: weightBytes(this.#group.slots, models),
      readSeconds: seconds,
      waitSeconds,
      tileSeconds: this.#options.tiles.takeTimings(),
    };
    this.#restingSince = performance.now();
    return update;
  }
}

const leastCommonMultiple = (a: number, b: number): number => (a * b) / greatestCommonDivisor(a, b);

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));
