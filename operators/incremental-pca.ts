// The engine `incremental` as an RxJS operator: folds blocks of models into one running PCA a slot.
// Every weight is touched three times a block (widened, multiplied into a small Gram, mixed into the next state); all else
// is float64 algebra on a few dozen rows (update-subspace.ts). Cost a weight and model: about 2 (r + b) flops for the Gram
// and 2 r (r + b) / b for the mixing, r the state rows. Memory: (3 + 2k + b) floats a weight of the group.
// Source: Ross et al. 2008, sec. 2.1.1; Levy & Lindenbaum 2000.
import { concat, defer, from, mergeMap, type Observable, type ObservableInput, type OperatorFunction, of } from 'rxjs';
import { badWeightDetail } from '../sources/bad-weight.ts';
import { displayName } from '../sources/display-name.ts';
import { SourceMalformed } from '../sources/errors.ts';
import { type PlannedModel, type PlannedSlot, type SlotGroup, weightBytes } from '../sources/reading-plan.ts';
import type { ReadFault, StagedBlock, StagedSlot } from '../sources/staged-block.ts';
import { blockBufferBytes, type ReadBlock, type WeightBlock } from '../sources/weight-blocks.ts';
import { concatMapAhead } from './concat-map-ahead.ts';
import { adviseHugePages } from './devices/huge-pages.ts';
import { finishSubspace, type Subspace } from './subspace.ts';
import { emptySubspace, maxStateRows, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';
import type { Mix, TileTimings, VisitResult, VisitTask } from './tile-tasks.ts';
import { rowsBeforeBlock, type SubspaceUpdate, updateSubspace } from './update-subspace.ts';

/** Blocks between two measurements of the state's own inner products, which otherwise follow from algebra. */
const REMEASURE_EVERY = 16;
/** Blocks alive at once: one in use, one being read. */
const BLOCKS_ALIVE = 2;

export interface IncrementalPcaOptions<R> {
  /** Directions reported, k; the state keeps up to 2k. */
  readonly rank: number;
  readonly tiles: Tiles;
  /** Subtract the mean over models (PCA). Default true. */
  readonly center?: boolean;
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
  /** Seconds from asking for the block's weights to having them; overlaps the work on the block before. */
  readonly readSeconds: number;
  /** Seconds of work on tiles since the update before, summed over threads. */
  readonly tileSeconds: TileTimings;
}

/** Folds blocks of weights; emits an update a block, and what `finish` makes of each slot at a group's end. */
export const incrementalPca =
  <R = Subspace>(options: IncrementalPcaOptions<R>): OperatorFunction<WeightBlock, BlockUpdate | R> =>
  (source) =>
    defer(() => {
      const engine = new IncrementalEngine(options as IncrementalPcaOptions<unknown>);
      const buffers: SharedArrayBuffer[] = [];
      return source.pipe(
        concatMapAhead<WeightBlock, SharedArrayBuffer, TimedRead, BlockUpdate | R>({
          ahead: BLOCKS_ALIVE,
          acquire: (block) => {
            const bytes = blockBufferBytes(block.plan, block.group);
            const free = buffers.pop();
            return free !== undefined && free.byteLength >= bytes
              ? free
              : adviseHugePages(new SharedArrayBuffer(bytes));
          },
          read: async (block, buffer) => {
            const start = performance.now();
            engine.openEarly(block);
            return { read: await block.read(buffer), buffer, seconds: (performance.now() - start) / 1e3 };
          },
          use: (block, timed) =>
            from(engine.fold(block, timed)).pipe(
              mergeMap((update) =>
                block.index < block.blocks - 1
                  ? of(update)
                  : concat(of(update), engine.finish(timed.buffer) as Observable<R>),
              ),
            ),
          release: (buffer) => void buffers.push(buffer),
        }),
      );
    });

interface TimedRead {
  readonly read: ReadBlock;
  readonly buffer: SharedArrayBuffer;
  readonly seconds: number;
}

interface SlotEngine {
  readonly slot: PlannedSlot;
  readonly spec: SubspaceSpec;
  state: SubspaceState;
  /** The mixing that the last block left for the next visit. */
  pending: Mix | null;
  /** Whether the tiles' shift stands. */
  settled: boolean;
}

class IncrementalEngine {
  readonly #options: IncrementalPcaOptions<unknown>;
  #slots: SlotEngine[] = [];
  /** The opening of the stream's first group, which need not wait for its first block. */
  #opening: Promise<void> | null = null;
  #begun = false;

  constructor(options: IncrementalPcaOptions<unknown>) {
    this.#options = options;
  }

  /** Makes room for the first group while its first block is read. Later groups wait until the one before is finished. */
  openEarly(block: WeightBlock): void {
    if (this.#begun) return;
    this.#begun = true;
    this.#opening = this.#open(block);
    this.#opening.catch(() => {});
  }

  async fold(block: WeightBlock, { read, seconds }: TimedRead): Promise<BlockUpdate> {
    if (block.index === 0) await (this.#opening ?? this.#open(block));
    this.#opening = null;
    if (read.faults.length > 0 && this.#options.onBadSource !== 'skip') throw read.faults[0]!.error;
    const folded = await Promise.all(
      read.slots.map((staged, i) => this.#foldSlot(this.#slots[i]!, i, block, staged, read.base)),
    );
    return {
      kind: 'block',
      group: block.group,
      index: block.index,
      blocks: block.blocks,
      modelsSeen: Math.min((block.index + 1) * block.plan.block, block.plan.models.length),
      slots: folded.flatMap(({ update }) => (update === null ? [] : [update])),
      skipped: [...read.faults, ...folded.flatMap(({ faults }) => faults)],
      bytes: block.models.reduce((sum, model) => sum + weightBytes(block.group.slots, model), 0),
      readSeconds: seconds,
      tileSeconds: await this.#options.tiles.takeTimings(),
    };
  }

  /**
   * Hands each slot's subspace to `finish`, one after the other.
   * @param scratch the last block's buffer, whose weights nobody needs any more
   */
  finish(scratch: SharedArrayBuffer): Observable<unknown> {
    const use = this.#options.finish ?? ((subspace: Subspace) => of(subspace));
    const finished = this.#slots.flatMap((slot, i) =>
      slot.state.models === 0
        ? []
        : [
            defer(() => finishSubspace(this.#options.tiles, i, slot, scratch)).pipe(
              mergeMap((subspace) => use(subspace)),
            ),
          ],
    );
    return concat(...finished);
  }

  async #open({ plan, group }: WeightBlock): Promise<void> {
    const center = this.#options.center ?? true;
    const shiftIsOrigin = plan.base !== null || !center;
    this.#slots = group.slots.map((slot) => ({
      slot,
      spec: { features: slot.features, rank: this.#options.rank, center, shiftIsOrigin },
      state: emptySubspace,
      pending: null,
      settled: false,
    }));
    const block = Math.min(plan.block, plan.models.length);
    await this.#options.tiles.open(
      this.#slots.map(({ slot, spec }) => ({
        slot: slot.name,
        features: slot.features,
        maxRows: rowsBeforeBlock(maxStateRows(spec, plan.models.length)) + block,
      })),
    );
  }

  async #foldSlot(
    engine: SlotEngine,
    index: number,
    block: WeightBlock,
    staged: StagedSlot,
    base: StagedBlock | null,
  ): Promise<{ update: SlotUpdate | null; faults: readonly ReadFault[] }> {
    if (staged.models.length === 0) return { update: null, faults: [] };
    let kept = staged;
    let visit = await this.#visit(engine, index, block, kept, base);
    let faults: readonly ReadFault[] = [];
    if (!hasFiniteNorms(visit, engine, kept.models.length)) {
      faults = await this.#findFaults(engine, index, kept);
      if (this.#options.onBadSource !== 'skip') throw faults[0]!.error;
      kept = leaveOut(kept, new Set(faults.map(({ model }) => model)));
      if (kept.models.length === 0) return { update: null, faults };
      visit = await this.#visit(engine, index, block, kept, base);
    }
    engine.settled = true;
    const gram = { values: visit.gram, columns: visit.columns, block: kept.models.length, shiftSum: visit.shiftSum };
    const update = updateSubspace(engine.spec, engine.state, gram, this.#options.tiles.solve);
    engine.state = update.state;
    engine.pending = { values: update.mix, m: 1 + update.newRows, n: 1 + update.oldRows + kept.models.length };
    return { update: { slot: engine.slot, models: kept.models, update }, faults };
  }

  async #visit(
    engine: SlotEngine,
    index: number,
    block: WeightBlock,
    staged: StagedSlot,
    base: StagedBlock | null,
  ): Promise<VisitResult> {
    const task: VisitTask = {
      slot: index,
      mix: engine.pending,
      stateRows: engine.state.eigenvalues.length,
      block: staged.models.length,
      staged: staged.rows,
      shift: engine.settled ? null : this.#shiftFrom(index, base),
      full: !engine.settled || block.index % REMEASURE_EVERY === 0,
    };
    const result = await this.#options.tiles.visit(task);
    engine.pending = null;
    return result;
  }

  #shiftFrom(index: number, base: StagedBlock | null): VisitTask['shift'] {
    if (base !== null) return { from: 'base', staged: base.slots[index]!.rows[0]! };
    return { from: this.#options.center === false ? 'zero' : 'mean' };
  }

  async #findFaults(engine: SlotEngine, index: number, staged: StagedSlot): Promise<readonly ReadFault[]> {
    const bad = await this.#options.tiles.scan(index, staged.rows);
    const faults = bad.map(({ model: id, index: at, value }): ReadFault => {
      const model = staged.models.find((candidate) => candidate.id === id)!;
      const tensor = engine.slot.tensorIn(model);
      const detail = badWeightDetail(at, value);
      const path = model.header.files[tensor.file]!.path;
      return {
        model,
        slot: engine.slot,
        error: new SourceMalformed({ path, tensor: displayName(tensor.name), rule: 'not-finite', detail }),
      };
    });
    if (faults.length > 0) return faults;
    throw new Error(`slot ${engine.slot.name}: the Gram matrix is not finite although every weight is`);
  }
}

/** Every model's ‖x‖² is finite exactly when its weights are, and the state's when it was. */
const hasFiniteNorms = ({ gram, columns }: VisitResult, engine: SlotEngine, block: number): boolean => {
  const before = rowsBeforeBlock(engine.state.eigenvalues.length);
  const offset = columns - block;
  for (let i = 0; i < block; i++) if (!Number.isFinite(gram[(before + i) * columns + offset + i]!)) return false;
  return true;
};

const leaveOut = (staged: StagedSlot, left: ReadonlySet<PlannedModel>): StagedSlot => {
  const models = staged.models.filter((model) => !left.has(model));
  const position = new Map(models.map((model, i) => [model.id, i]));
  const rows = staged.rows.map((part) => ({
    ...part,
    positions: part.models.map((id) => position.get(id) ?? -1),
  }));
  return { slot: staged.slot, models, rows };
};
