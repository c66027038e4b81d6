// What a streaming engine keeps of each slot of a group, and what a block does to it: the tiles are visited, the small
// matrices updated, and the mixing they ask for is left for the next visit, which may begin before the block is told.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { concat, defer, EMPTY, mergeMap, type Observable, of } from 'rxjs';
import { sinkFailure } from '../sinks/durable-file.ts';
import { type PlannedModel, type PlannedSlot, type SlotGroup, weightBytes } from '../sources/reading-plan.ts';
import type { ReadFault, SlotAtHand } from '../sources/staged-block.ts';
import { tilesOf } from '../sources/tile.ts';
import {
  checkBlock,
  closeBlock,
  isSecondPass,
  type ReadBlock,
  type SourceBlock,
  type WeightBlock,
} from '../sources/weight-blocks.ts';
import { allDone } from './all-done.ts';
import type { TimedRead } from './block-buffers.ts';
import type { GroupModes } from './exact-modes.ts';
import { faultsOfVisit, leaveOut, withoutRepeats } from './find-faults.ts';
import type { BlockUpdate, IncrementalPcaOptions, SlotUpdate } from './incremental-pca.ts';
import { signKeys } from './sign-rows.ts';
import { closeSketch, turnSketch, updateSketch, updateSketchAgain } from './sketch.ts';
import { createSpillFiles, forgetSpillFiles, type Generation, SpillFailed } from './spill-files.ts';
import type { SavedSlot } from './state-table.ts';
import {
  gramOfState,
  newRows,
  renewsAfter,
  rowsAdded,
  rowsAfter,
  rowsReplaced,
  type StoredRows,
  settleRows,
} from './stored-rows.ts';
import { estimateSubspace, finishSubspace, type Subspace, type SubspaceEstimate } from './subspace.ts';
import { emptySubspace, heldRows, maxStateRows, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
import type { SpillStep, VisitResult, VisitTask } from './tile-tasks.ts';
import type { Turn } from './time-spent.ts';
import { blockNorms2, rowsBeforeBlock, savedRows, updateSubspace } from './update-subspace.ts';

interface SlotEngine {
  readonly slot: PlannedSlot;
  readonly spec: SubspaceSpec;
  state: SubspaceState;
  stored: StoredRows;
  /** Whether the tiles' shift stands. */
  settled: boolean;
  /** Models that are not in it. */
  readonly left: Set<PlannedModel>;
  spill: Spill | null;
  /** The visit of the next block, where it has begun. */
  ahead: BegunVisit | null;
}

interface BegunVisit {
  readonly task: VisitTask;
  readonly visit: Promise<VisitResult>;
}

/** Where a spilled slot's rows are, and where the next block leaves them. */
interface Spill {
  from: SpillStep['from'];
  to: Generation;
}

/** A group between two blocks, as it was written. */
export interface SavedGroup {
  readonly slots: readonly SavedSlot[];
  /** Of the rows' file: bytes, the lengths of its pieces (a tile each) in runs, and the sha256 over those of its pieces. */
  readonly size: number;
  readonly pieces: readonly (readonly [number, number])[];
  readonly sha256: string;
}

/** A group as it was written, to go on from; its file may hold more slots than the group has. */
export interface RestoredGroup {
  readonly slots: readonly SavedSlot[];
  readonly path: string;
  readonly fd: number;
  /** Called when its rows have been read. */
  readonly close: () => void;
}

/** What the parts of a block that came so far have added up to. */
interface PartialBlock {
  visit: VisitResult | undefined;
  readonly faults: Map<PlannedModel, ReadFault>;
  seconds: number;
}

const turnOf = ({ index }: Pick<WeightBlock, 'index'>): Turn => (index % 2 === 0 ? 1 : 2);

export class IncrementalEngine {
  readonly #options: IncrementalPcaOptions<unknown>;
  #slots: SlotEngine[] = [];
  /** The opening of the stream's first group, which need not wait for its first block. */
  #opening: Promise<void> | null = null;
  #begun = false;
  /** Since when the engine could have taken another block, and what it has waited for one since the last update. */
  #restingSince = performance.now();
  #waitedMs = 0;
  #beside: GroupModes | null = null;
  /** Bases that were read for this block alone. */
  readonly #basesAgain: SourceBlock[] = [];
  #partial: PartialBlock = { visit: undefined, faults: new Map(), seconds: 0 };
  /** Blocks that were read and not folded yet. */
  readonly #foreseen = new Map<TimedRead, WeightBlock>();

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

  /** A block is done with, and what came of it has gone downstream: from here on the engine waits for weights. */
  rest(): void {
    this.#restingSince = performance.now();
  }

  /** A block was read that will be folded later: slots that are done with the one before need not wait for the others. */
  foresee(block: WeightBlock, timed: TimedRead): void {
    this.#foreseen.set(timed, block);
  }

  /** A block that is given back will not be folded. */
  forget(timed: TimedRead): void {
    this.#foreseen.delete(timed);
  }

  /** Null until the last part of a block that comes in parts. */
  fold(block: WeightBlock, timed: TimedRead): Promise<BlockUpdate | null> {
    this.#foreseen.delete(timed);
    const folding = this.#foldAndCheck(block, timed);
    timed.using = Promise.allSettled([timed.using, folding]);
    return folding;
  }

  async #foldAndCheck(block: WeightBlock, timed: TimedRead): Promise<BlockUpdate | null> {
    try {
      return await this.#fold(block, timed);
    } catch (error) {
      // Nobody is at work any more when a failure is told.
      await Promise.allSettled(this.#slots.map(({ ahead }) => ahead?.visit));
      throw error;
    } finally {
      // Also after a failure, of which a file that was written to may be the cause.
      try {
        checkBlock(timed.read);
        for (const { files } of this.#basesAgain) files?.check();
      } finally {
        for (const base of this.#basesAgain.splice(0)) base.files?.close();
      }
    }
  }

  async #fold(block: WeightBlock, { read: found, buffer, ready, seconds }: TimedRead): Promise<BlockUpdate | null> {
    this.#waitedMs += Math.max(ready - this.#restingSince, 0);
    if (block.first && block.part === 0) {
      await (this.#opening ?? this.#open(block));
      this.#opening = null;
      this.#beside = this.#options.beside?.(block.group) ?? null;
    }
    if (block.models.length === 0) return null;
    if (block.part === 0 && isSecondPass(block) && block.index === block.blocks / 2) await this.#turn();
    const read = isSecondPass(block) ? this.#asBefore(found) : found;
    if (read.faults.length > 0 && !this.#mayLeave(block)) throw read.faults[0]!.error;
    if (block.parts !== null) return this.#foldPart(block, read, buffer, seconds);
    for (const { slot, model } of read.faults) this.#slots.find((engine) => engine.slot === slot)!.left.add(model);
    const base = await this.#baseOf(block, read, buffer, 0);
    const folded = await allDone(
      read.slots.map((staged, i) => this.#foldSlot(this.#slots[i]!, i, block, staged, base)),
    );
    const updates = folded.flatMap(({ update }) => (update === null ? [] : [update]));
    // It finds the same faults, and perhaps weights too large that a Gram can still take.
    const others = isSecondPass(block) ? [] : ((await this.#beside?.fold(found)) ?? []);
    if (isSecondPass(block)) await this.#beside?.measure(found);
    const faults = [...read.faults, ...folded.flatMap((slot) => slot.faults)];
    return this.#updateOf(block, updates, withoutRepeats([...faults, ...others]), seconds);
  }

  async #updateOf(
    block: WeightBlock,
    slots: readonly SlotUpdate[],
    skipped: readonly ReadFault[],
    seconds: number,
  ): Promise<BlockUpdate> {
    const waitSeconds = this.#waitedMs / 1e3;
    this.#waitedMs = 0;
    return {
      kind: 'block',
      group: block.group,
      index: block.index,
      blocks: block.blocks,
      modelsSeen: block.modelsSeen,
      slots: isSecondPass(block) ? this.#close(block) : slots,
      skipped,
      bytes: weightBytes(block.group.slots, block.models),
      readSeconds: seconds,
      waitSeconds,
      tileSeconds: this.#options.tiles.takeTimings(turnOf(block)),
    };
  }

  /**
   * Folds one part of a block of a slot that is too large for the memory. What the parts contribute is added up, and the
   * last one makes the update. Where a part shows a model that cannot be folded, the others are only searched for more,
   * and the block is done again without them: what the block before wrote is still there.
   */
  async #foldPart(
    block: WeightBlock,
    read: ReadBlock,
    buffer: SharedArrayBuffer | null,
    seconds: number,
  ): Promise<BlockUpdate | null> {
    const engine = this.#slots[0]!;
    if (block.part === 0) this.#partial = { visit: undefined, faults: new Map(), seconds: 0 };
    const partial = this.#partial;
    const addFaults = (faults: readonly ReadFault[]): void => {
      for (const fault of faults) if (!partial.faults.has(fault.model)) partial.faults.set(fault.model, fault);
    };
    partial.seconds += seconds;
    addFaults(read.faults);
    const onto = partial.faults.size === 0 ? partial.visit : undefined;
    const base = await this.#baseOf(block, read, buffer, block.part);
    const seen = await this.#visitPart(engine, block, block.part, read.slots[0]!, base, onto);
    partial.visit = seen.visit;
    addFaults(seen.faults);
    if (block.part < block.parts!.length - 1) return null;
    const faults = [...partial.faults.values()];
    for (const { model } of faults) engine.left.add(model);
    const kept = block.models.filter((model) => !engine.left.has(model));
    if (kept.length === 0) return this.#updateOf(block, [], faults, partial.seconds);
    if (faults.length > 0)
      partial.visit = await this.#visitAgain(engine, block, new Set(partial.faults.keys()), buffer);
    const stateRows = heldRows(engine.spec, engine.state);
    const update = this.#update(engine, block, kept, partial.visit!);
    const spill = engine.spill!;
    spill.from = { generation: spill.to, stateRows, block: kept.length };
    spill.to = spill.to === 0 ? 1 : 0;
    return this.#updateOf(block, update === null ? [] : [update], faults, partial.seconds);
  }

  async #visitPart(
    engine: SlotEngine,
    block: WeightBlock,
    part: number,
    staged: SlotAtHand,
    base: SourceBlock | null,
    onto: VisitResult | undefined,
  ): Promise<{ visit: VisitResult | undefined; faults: readonly ReadFault[] }> {
    if (staged.models.length === 0) return { visit: onto, faults: [] };
    const task = { ...this.#taskOf(engine, 0, block, staged, base), tiles: block.parts![part]! };
    const visit = await this.#options.tiles.visit(task, onto);
    const faults = await faultsOfVisit(this.#options.tiles, staged, block.plan.base, task, visit);
    if (faults.length > 0 && !this.#mayLeave(block)) throw faults[0]!.error;
    return { visit, faults };
  }

  /** Reads and visits all parts of a block once more, without some of its models. */
  async #visitAgain(
    engine: SlotEngine,
    block: WeightBlock,
    left: ReadonlySet<PlannedModel>,
    buffer: SharedArrayBuffer | null,
  ): Promise<VisitResult> {
    let visit: VisitResult | undefined;
    for (let part = 0; part < block.parts!.length; part++) {
      const read = await block.read(buffer, part);
      try {
        const base = await this.#baseOf(block, read, buffer, part);
        const more = read.faults.find(({ model }) => !left.has(model));
        if (more !== undefined) throw more.error;
        const seen = await this.#visitPart(engine, block, part, leaveOut(read.slots[0]!, left), base, visit);
        if (seen.faults.length > 0) throw seen.faults[0]!.error;
        checkBlock(read);
        visit = seen.visit;
      } finally {
        closeBlock(read);
      }
    }
    return visit!;
  }

  /**
   * Hands each slot's subspace to `finish`, one after the other.
   * @param scratch the last block's buffer, whose weights nobody needs any more; null where it had none
   */
  finish(scratch: SharedArrayBuffer | null): Observable<unknown> {
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
    const beside = this.#beside;
    this.#beside = null;
    return concat(...finished, beside === null ? EMPTY : beside.finish());
  }

  /** Every slot's subspace so far. */
  async estimates(): Promise<readonly SubspaceEstimate[]> {
    const started = [...this.#slots.entries()].filter(([, { state }]) => state.models > 0);
    return Promise.all(started.map(([i, slot]) => estimateSubspace(this.#options.tiles, i, slot)));
  }

  /** What the group's blocks are also handed to. */
  get beside(): GroupModes | null {
    return this.#beside;
  }

  /** Resolves when no thread is at work on the block after the last: a save that begins then has nothing to wait for. */
  async rested(): Promise<void> {
    // A visit that failed halfway has mixed some rows and not others.
    for (const { ahead } of this.#slots) await ahead?.visit;
  }

  /** Writes the group's rows, done with what was due, and tells the rest. */
  async save(file: { readonly path: string; readonly fd: number }): Promise<SavedGroup> {
    await this.rested();
    const slots: SavedSlot[] = [];
    const pieces: [number, number][] = [];
    const whole = createHash('sha256');
    let size = 0;
    for (const [i, engine] of this.#slots.entries()) {
      const { slot, state, stored, spill } = engine;
      slots.push({ slotId: slot.id, state, map: stored.map, norms2: stored.norms2, rowsAt: size });
      if (state.models === 0) continue;
      const stateRows = heldRows(engine.spec, state);
      const task = { slot: i, mix: stored.due?.mix ?? null, stateRows, spill, to: { ...file, at: size } };
      for (const digest of await this.#options.tiles.save(task)) whole.update(digest);
      // A spilled slot's rows stay as they were, and so does what is due.
      if (spill === null) engine.stored = settleRows(stored);
      const tiles = tilesOf(slot.features);
      const last = tiles.at(-1)!.width;
      const bytes = (width: number): number => savedRows(stateRows) * width * 4;
      if (last === tiles[0]!.width) pieces.push([tiles.length, bytes(last)]);
      else pieces.push([tiles.length - 1, bytes(tiles[0]!.width)], [1, bytes(last)]);
      size += bytes(slot.features);
    }
    return { slots, size, pieces, sha256: whole.digest('hex') };
  }

  async #open({ plan, group }: WeightBlock): Promise<void> {
    const { rank, center = true, engine = 'incremental' } = this.#options;
    const spill = group.tilesAtOnce === undefined ? null : this.#spillPaths(group);
    this.#slots = group.slots.map((slot) => ({
      slot,
      spec: {
        features: slot.features,
        rank,
        center,
        shiftIsOrigin: plan.base !== null || !center || slot.isDelta === true,
        engine,
      },
      state: emptySubspace,
      stored: newRows,
      settled: false,
      left: new Set(),
      spill: spill === null ? null : { from: null, to: 0 },
      ahead: null,
    }));
    const block = Math.min(plan.block, plan.models.length);
    const saved = this.#options.restore?.(group) ?? null;
    try {
      if (spill !== null) createSpillFiles(spill);
      await this.#options.tiles.open(
        this.#slots.map(({ slot, spec }) => ({
          slot: slot.name,
          features: slot.features,
          maxRows: rowsBeforeBlock(maxStateRows(spec, plan.models.length)) + block,
          passingRows: null,
          careful: spec.engine === 'randomized',
          spill,
          tilesAtOnce: group.tilesAtOnce,
        })),
      );
    } catch (cause) {
      throw cause instanceof SpillFailed ? sinkFailure(cause.path, 'spilling tiles', cause) : cause;
    } finally {
      // The threads have them open: nothing is left behind, however the run ends.
      if (spill !== null) forgetSpillFiles(spill);
    }
    if (saved === null) return;
    try {
      await Promise.all(this.#slots.map((engine, i) => this.#load(engine, i, saved)));
    } finally {
      saved.close();
    }
  }

  async #load(engine: SlotEngine, index: number, { slots, path, fd }: RestoredGroup): Promise<void> {
    const known = slots.find(({ slotId }) => slotId === engine.slot.id)!;
    if (known.state.models === 0) return;
    const { state, map, norms2, rowsAt } = known;
    const stateRows = heldRows(engine.spec, state);
    const generation = engine.spill === null ? null : 0;
    await this.#options.tiles.load({ slot: index, stateRows, generation, from: { path, fd, at: rowsAt } });
    engine.state = state;
    engine.stored = { map, norms2, due: null };
    engine.settled = true;
    if (engine.spill !== null) engine.spill = { from: { generation: 0, stateRows, block: 0 }, to: 1 };
  }

  #spillPaths({ index, slots }: SlotGroup): readonly [string, string] {
    const { scratch } = this.#options;
    if (scratch === undefined) throw new Error(`slot ${slots[0]!.name} needs a scratch folder, and none was given`);
    const path = (generation: Generation): string =>
      join(scratch, `group-${String(index).padStart(4, '0')}.${generation}.spill`);
    return [path(0), path(1)];
  }

  async #foldSlot(
    engine: SlotEngine,
    index: number,
    block: WeightBlock,
    staged: SlotAtHand,
    base: SourceBlock | null,
  ): Promise<{ update: SlotUpdate | null; faults: readonly ReadFault[] }> {
    const faults: ReadFault[] = [];
    let kept = staged;
    while (kept.models.length > 0) {
      const { task, visit: visiting } = engine.ahead ?? this.#visit(engine, index, block, kept, base);
      engine.ahead = null;
      const visit = await visiting;
      const found = await faultsOfVisit(this.#options.tiles, kept, block.plan.base, task, visit);
      if (found.length === 0) {
        const update = this.#update(engine, block, kept.models, visit);
        this.#visitAhead(engine, index, block);
        return { update, faults };
      }
      if (!this.#mayLeave(block)) throw found[0]!.error;
      for (const { model } of found) engine.left.add(model);
      faults.push(...found);
      kept = leaveOut(kept, engine.left);
    }
    return { update: null, faults };
  }

  #visit(
    engine: SlotEngine,
    index: number,
    block: WeightBlock,
    staged: SlotAtHand,
    base: SourceBlock | null,
  ): BegunVisit {
    const task = this.#taskOf(engine, index, block, staged, base);
    const visit = this.#options.tiles.visit(task);
    // What a slot's tiles are asked for is done in turn: whatever comes next finds the rows mixed.
    engine.stored = settleRows(engine.stored);
    return { task, visit };
  }

  /**
   * Begins the visit of the next block, if it is there, before other slots are done with this one and before what was found
   * is told. The bits are those of a visit that begins later.
   */
  #visitAhead(engine: SlotEngine, index: number, block: WeightBlock): void {
    const next = [...this.#foreseen].find(([, { group, index }]) => group === block.group && index === block.index + 1);
    if (next === undefined || !this.#mayVisitAhead(engine, block, next)) return;
    const [timed, following] = next;
    const staged = timed.read.slots[index]!;
    if (staged.models.length === 0) return;
    engine.ahead = this.#visit(engine, index, following, staged, null);
    timed.using = Promise.allSettled([timed.using, engine.ahead.visit]);
  }

  #mayVisitAhead({ settled }: SlotEngine, block: WeightBlock, [{ read }, next]: [TimedRead, WeightBlock]): boolean {
    const { snapshot, mayVisitAhead = () => true } = this.#options;
    // Estimates look at rows before they are mixed.
    const looks = snapshot !== undefined && next.index % snapshot.every === 0;
    const isPlain = block.parts === null && this.#beside === null && !isSecondPass(next);
    return settled && isPlain && !looks && read.faults.length === 0 && mayVisitAhead();
  }

  #update(
    engine: SlotEngine,
    block: WeightBlock,
    models: readonly PlannedModel[],
    visit: VisitResult,
  ): SlotUpdate | null {
    engine.settled = true;
    const { spec, state, stored } = engine;
    const { columns, shiftSum } = visit;
    const { solve, multiplyDouble } = this.#options.tiles;
    const held = heldRows(spec, state);
    const values = gramOfState(visit.gram, columns, held, stored, multiplyDouble);
    const gram = { values, columns, block: models.length, shiftSum };
    if (isSecondPass(block)) {
      const { state: grown, mix } = updateSketchAgain(spec, state, gram, solve);
      engine.stored = rowsAdded(mix, 1 + held, models.length);
      engine.state = grown;
      return null;
    }
    const isSketch = spec.engine === 'randomized';
    const update = isSketch
      ? updateSketch(spec, state, gram, solve)
      : updateSubspace(spec, state, gram, solve, multiplyDouble);
    engine.stored = isSketch
      ? rowsAdded(update.mix, 1 + held, models.length)
      : rowsAfter(
          spec,
          stored,
          state,
          update,
          blockNorms2(gram),
          { renew: renewsAfter(block.index), swaps: this.#options.tiles.swapsRows },
          multiplyDouble,
        );
    engine.state = update.state;
    return { slot: engine.slot, models, update };
  }

  /** Whether a model found bad now is left out. A second pass has what the first one had, or their sums do not fit. */
  #mayLeave(block: WeightBlock): boolean {
    return this.#options.onBadSource === 'skip' && !isSecondPass(block);
  }

  /** A block without the models that the first pass left out, of which nothing need be told again. */
  #asBefore(read: ReadBlock): ReadBlock {
    const leftOf = new Map(this.#slots.map(({ slot, left }) => [slot, left]));
    return {
      ...read,
      slots: read.slots.map((staged) => leaveOut(staged, leftOf.get(staged.slot)!)),
      faults: read.faults.filter(({ slot, model }) => !leftOf.get(slot)!.has(model)),
    };
  }

  /** Between the passes: what the first one found takes the signs' place. */
  async #turn(): Promise<void> {
    for (const engine of this.#slots) {
      if (engine.state.models === 0) continue;
      const { state, mix } = turnSketch(engine.spec, engine.state);
      engine.stored = rowsReplaced(engine.stored, mix, 1 + heldRows(engine.spec, state));
      engine.state = state;
    }
    await this.#beside?.solve();
  }

  /** What a second pass found, at its end; before that it has nothing to tell. */
  #close({ index, blocks }: WeightBlock): readonly SlotUpdate[] {
    if (index < blocks - 1) return [];
    return this.#slots
      .filter(({ state }) => state.models > 0)
      .map((engine) => {
        const update = closeSketch(engine.spec, engine.state, this.#options.tiles.solve);
        engine.state = update.state;
        return { slot: engine.slot, models: [], update };
      });
  }

  #taskOf(
    engine: SlotEngine,
    index: number,
    block: WeightBlock,
    staged: SlotAtHand,
    base: SourceBlock | null,
  ): VisitTask {
    const { spec, state, stored, settled, slot } = engine;
    const isSketch = spec.engine === 'randomized';
    const stateRows = heldRows(spec, state);
    return {
      slot: index,
      mix: stored.due?.mix ?? null,
      stateRows,
      block: staged.models.length,
      staged: staged.rows,
      shift: settled ? null : this.#shiftFrom(index, slot, base),
      signs: isSketch && !settled ? signKeys(this.#options.seed ?? 0, slot.name, stateRows / 2) : null,
      full: !settled || (!isSketch && renewsAfter(block.index - 1)),
      tiles: null,
      spill: engine.spill,
      turn: turnOf(block),
    };
  }

  /** The base, for shifts that do not stand yet: where all of a slot's first block was left out, it is read once more. */
  async #baseOf(
    block: WeightBlock,
    read: ReadBlock,
    buffer: SharedArrayBuffer | null,
    part: number,
  ): Promise<SourceBlock | null> {
    if (read.base !== null || this.#slots.every(({ settled }) => settled)) return read.base;
    const base = await block.readBase(buffer, part);
    if (base !== null) this.#basesAgain.push(base);
    return base;
  }

  #shiftFrom(index: number, { isDelta }: PlannedSlot, base: SourceBlock | null): VisitTask['shift'] {
    if (base !== null) return { from: 'base', staged: base.slots[index]!.rows[0]! };
    return { from: this.#options.center === false || isDelta === true ? 'zero' : 'mean' };
  }
}
