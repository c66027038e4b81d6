// A merge's work: slot after slot the states of all runs become one, and tables, files and the state of a run of their own
// are made of it. No weights are read. Memory: one slot's small matrices and what is known of its models.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { Device } from '../operators/devices/device.ts';
import type { FoundDevice } from '../operators/devices/device-spec.ts';
import type { ModesOfSlot } from '../operators/exact-modes.ts';
import type { SavedGroup } from '../operators/incremental-engine.ts';
import { inlineTiles } from '../operators/inline-tiles.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import { type MergedScatter, mergeScatters } from '../operators/merge-scatter.ts';
import { directionsIn } from '../operators/merge-sketches.ts';
import { ModeScatter, type SavedScatter } from '../operators/mode-scatter.ts';
import { readValues } from '../operators/spill-files.ts';
import type { SavedSlot } from '../operators/state-table.ts';
import type { Subspace } from '../operators/subspace.ts';
import {
  emptySubspace,
  heldRows,
  reportedRank,
  type StreamingEngine,
  type SubspaceSpec,
} from '../operators/subspace-state.ts';
import type { Tiles } from '../operators/tile-pool.ts';
import type { SavedRows } from '../operators/tile-tasks.ts';
import { savedRows } from '../operators/update-subspace.ts';
import { readFully } from '../sinks/append-log.ts';
import type { OpenFile } from '../sinks/checkpoint-store.ts';
import { readingDisk } from '../sinks/disk.ts';
import type { EventLog } from '../sinks/events.ts';
import type { SlotGroup } from '../sources/reading-plan.ts';
import { tilesOf } from '../sources/tile.ts';
import { BasisWindows, writeBasis, writeModeBases } from './basis-writer.ts';
import { contentsOf } from './begin.ts';
import {
  Checkpoints,
  checkpointFolder,
  type Position,
  readSides,
  readStates,
  type SavedSlots,
  SPOOL,
} from './checkpoints.ts';
import { sideModesOf } from './choose-engine.ts';
import type { ChosenSlot } from './choose-slots.ts';
import { withCores } from './core-results.ts';
import { Interrupted } from './errors.ts';
import type { RunControl } from './execution.ts';
import { slotFindings } from './find-warnings.ts';
import type { Lease } from './lease.ts';
import type { MergedPart, MergePlan } from './merge-plan.ts';
import { type MergedSlot, membersOf, mergeSlot, updateOf } from './merge-slot.ts';
import type { ModelInPlan } from './plan.ts';
import { describeDevice } from './render-plan.ts';
import { removeSpill, writeModels, writeRunJson, writeSlots } from './run-folder.ts';
import { duplicatesOf, sameModelFindings } from './same-models.ts';
import { spooledHistory } from './slot-history.ts';
import { SlotTables } from './slot-tables.ts';
import type { SlotSummary, Telemetry, TelemetryEvent } from './telemetry.ts';
import { UpdateSpool } from './update-spool.ts';
import { WarningLog } from './warning-log.ts';

export interface MergeExecutionOptions {
  /** Where the run is made. */
  readonly folder: string;
  readonly parts: readonly MergedPart[];
  readonly merge: MergePlan;
  readonly found: FoundDevice;
  /** The same, opened on this thread. */
  readonly device: Device;
  readonly lease: Lease;
  readonly telemetry: Telemetry;
  readonly events: EventLog;
  readonly control: RunControl;
  /** What was allowed to differ (`--allow-inexact`). */
  readonly inexact: readonly string[];
}

/** A run's state, open for reading. */
interface OpenPart {
  readonly part: MergedPart;
  readonly spool: UpdateSpool;
  readonly fds: Map<string, number>;
}

export class MergeExecution {
  readonly #options: MergeExecutionOptions;
  readonly #parts: OpenPart[] = [];
  readonly #tiles: Tiles;
  readonly #checkpoints: Checkpoints;
  readonly #tables: SlotTables;
  readonly #warnings: WarningLog;
  readonly #summaries: SlotSummary[] = [];
  readonly #windows = new BasisWindows();
  readonly #modelOf: (id: number) => ModelInPlan;
  readonly #started = performance.now();
  #bytesRead = 0;

  /** Throws `SinkFailed`, `DamagedFile`. */
  constructor(options: MergeExecutionOptions) {
    this.#options = options;
    const { folder, parts, merge, found, device, lease, inexact } = options;
    const { plan, begin } = merge;
    const byId = new Map(plan.models.map((model) => [model.id, model]));
    this.#modelOf = (id) => byId.get(id)!;
    this.#tiles = inlineTiles(device, found.solve);
    this.#tables = new SlotTables(folder, plan);
    this.#warnings = new WarningLog(folder, (event) => this.#tell(event));
    this.#checkpoints = Checkpoints.create({
      run: folder,
      lease,
      begin,
      every: null,
      expectedBytes: 0,
      roots: [],
      inexact,
      outputs: () => Promise.resolve(),
      written: (checkpoint, seconds) => this.#tell({ type: 'checkpoint', checkpoint, seconds }),
    });
    for (const part of parts) {
      const cut = part.logs.find(({ name }) => name === SPOOL)!;
      const spool = UpdateSpool.reopen(join(part.run, SPOOL), cut, readingDisk);
      this.#parts.push({ part, spool, fds: new Map() });
    }
  }

  #tell(event: TelemetryEvent): void {
    this.#options.telemetry(event);
    this.#options.events.write(event);
  }

  async run(): Promise<TelemetryEvent> {
    const { plan } = this.#options.merge;
    const { config, models, slots, groups, leftOut, skipped, device } = plan;
    this.#tell({
      type: 'plan',
      models: models.length,
      slots: slots.length,
      leftOut: leftOut.length,
      skipped: skipped.length,
      groups: groups.length,
      bytesToRead: plan.bytesToRead,
      device: describeDevice(plan),
      threads: 1,
      memory: config.memory,
    });
    const nothing = { slot: null, slotId: null, model: null, modelId: null, value: null };
    for (const text of device.warnings) this.#warnings.add({ ...nothing, code: 'device', text });
    for (const group of groups) await this.#mergeGroup(group);
    return this.#finish();
  }

  async #mergeGroup(group: SlotGroup): Promise<void> {
    const { plan } = this.#options.merge;
    const sides: SavedScatter[] = [];
    const arrays: Uint8Array[] = [];
    const beside = {
      save: (write: (bytes: Uint8Array) => void): readonly SavedScatter[] => {
        for (const bytes of arrays.splice(0)) write(bytes);
        return sides;
      },
    };
    const at = {
      first: group.slots[0]!.id,
      slots: group.slots.length,
      models: plan.models.length,
      // As many as if the models had been read: an extension counts on.
      blocks: Math.ceil(plan.models.length / plan.block),
    };
    const save = async (file: OpenFile): Promise<SavedGroup> => {
      const slots: SavedSlot[] = [];
      const pieces: [number, number][] = [];
      const whole = createHash('sha256');
      let size = 0;
      for (const { id } of group.slots) {
        this.#stopWhereAsked();
        const slot = plan.slots[id]!;
        const spec = this.#specOf(slot);
        const found = this.#mergeSlot(slot, spec, { ...file, at: size });
        if (found === null) {
          slots.push({ slotId: id, state: emptySubspace, map: null, norms2: null, rowsAt: size });
        } else {
          const { merged } = found;
          slots.push({ slotId: id, state: merged.state, map: null, norms2: null, rowsAt: size });
          for (const digest of merged.digests) whole.update(digest);
          const each = savedRows(heldRows(spec, merged.state)) * 4;
          for (const { width } of tilesOf(slot.features)) pieces.push([1, each * width]);
          size += merged.size;
          await this.#finishSlot(slot, spec, found);
        }
        if (group.beside !== true) continue;
        const scatter = this.#mergeSides(slot);
        const length = arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
        sides.push({ ...scatter.saved, at: length });
        arrays.push(...scatter.arrays);
        await this.#finishSides(slot, scatter);
      }
      return { slots, size, pieces, sha256: whole.digest('hex') };
    };
    this.#checkpoints.keep(await this.#checkpoints.save(at, save, group.beside === true ? beside : null));
  }

  #stopWhereAsked(): void {
    const signal = this.#options.control.stopRequested();
    if (signal !== null)
      throw new Interrupted({ signal, canResume: false, detail: 'stopped while merging; nothing is left of it' });
  }

  #specOf({ features }: ChosenSlot): SubspaceSpec {
    const { config, base, engine } = this.#options.merge.plan;
    return {
      features,
      rank: config.rank,
      center: config.center,
      shiftIsOrigin: base !== null || !config.center,
      engine: engine as StreamingEngine,
    };
  }

  /** Null where no run has a model in the slot. */
  #mergeSlot(slot: ChosenSlot, spec: SubspaceSpec, to: SavedRows): MergedSlot | null {
    const { folder, merge, device, found } = this.#options;
    const parts = this.#parts.flatMap((open, i) => {
      const slotId = merge.slotIds[i]![slot.id]!;
      const saved = savedWith(open.part, slotId);
      const known = statesIn(open.part, saved).get(slotId)!;
      if (known.state.models === 0) return [];
      const { state, map, rowsAt } = known;
      const rows = {
        path: join(checkpointFolder(open.part.run), saved.rows),
        fd: this.#open(open, saved.rows),
        at: rowsAt,
      };
      this.#bytesRead += savedRows(heldRows(spec, state)) * slot.features * 4;
      const members = membersOf(open.spool, slotId, state.eigenvalues.length, merge.idOf[i]!, device.multiplyDouble);
      return [{ stored: { state, map, rows }, members }];
    });
    if (parts.length === 0) return null;
    const scratch = join(folder, 'spill');
    return mergeSlot({ slot, spec, parts, to, scratch, device, solve: found.solve });
  }

  #open({ part, fds }: OpenPart, name: string): number {
    const known = fds.get(name);
    if (known !== undefined) return known;
    const fd = readingDisk.open(join(checkpointFolder(part.run), name));
    fds.set(name, fd);
    return fd;
  }

  /** A slot's files and rows. */
  async #finishSlot(slot: ChosenSlot, spec: SubspaceSpec, found: MergedSlot): Promise<void> {
    const { folder, merge } = this.#options;
    const { plan, skippedOf } = merge;
    const { spool, journal } = this.#checkpoints;
    const models = found.members.ids.map((id) => this.#modelOf(id));
    const block = Math.ceil(plan.models.length / plan.block) - 1;
    spool.append(block, spec.rank, { slot, models, update: updateOf(found, spec) });
    const subspace = subspaceOf(slot, spec, found, this.#options.device.multiplyDouble);
    const skipped = skippedOf(slot.id);
    for (const [model, reason] of skipped) journal.write({ kind: 'skip', slot: slot.id, model, reason });
    const { summary, models: known } = this.#tables.append(
      subspace,
      spooledHistory(spool, subspace, this.#options.device.multiplyDouble),
      skipped,
    );
    this.#summaries.push(summary);
    for (const finding of slotFindings(subspace, known, this.#modelOf)) this.#warnings.add(finding);
    if (!plan.config.basis) return;
    const { bytes, durable } = await writeBasis(folder, subspace, this.#windows);
    await durable;
    for (const [file, written] of bytes) this.#tell({ type: 'write', file, bytes: written });
  }

  #mergeSides(slot: ChosenSlot): MergedScatter {
    const { merge, device } = this.#options;
    const { config } = merge.plan;
    const parts = this.#parts.map((open, i) => {
      const slotId = merge.slotIds[i]![slot.id]!;
      const from = savedWith(open.part, slotId);
      const saved = readSides(open.part.run, from)!.find((one) => one.slotId === slotId)!;
      const fd = this.#open(open, from.scatter!);
      const read = (into: Uint8Array, at: number): void => {
        readFully(readingDisk, fd, into, at, join(checkpointFolder(open.part.run), from.scatter!));
        this.#bytesRead += into.length;
      };
      return { saved, read, idOf: merge.idOf[i]! };
    });
    return mergeScatters(slot, sideModesOf(config), config.center, parts, device.multiplyDouble);
  }

  async #finishSides(slot: ChosenSlot, { saved, arrays }: MergedScatter): Promise<void> {
    const { folder, merge } = this.#options;
    const { config, models, block } = merge.plan;
    const { rank, center, onBadSource, basis } = config;
    const modes = sideModesOf(config);
    const scatter = new ModeScatter([slot], { models, modes, rank, block, center, tiles: this.#tiles, onBadSource });
    let next = 0;
    scatter.load([{ ...saved, at: 0 }], (into) => into.set(arrays[next++]!));
    const spectra = await scatter.solve(0);
    const known = scatter.modelsOf(0);
    if (known.models.length === 0) return;
    const measured = { energies: null, core: null };
    const found: ModesOfSlot = { kind: 'modes', ...known, slot, spectra, ...measured, mean: scatter.meanOf(0) };
    this.#summaries.push(...this.#tables.appendModes(found, merge.skippedOf(slot.id)));
    if (!basis) return;
    for (const [file, bytes] of writeModeBases(folder, found, false)) this.#tell({ type: 'write', file, bytes });
  }

  async #finish(): Promise<TelemetryEvent> {
    const { folder, merge, inexact, events } = this.#options;
    const { plan, begin } = merge;
    const merged = (performance.now() - this.#started) / 1e3;
    const contents = contentsOf(begin);
    const duplicates = duplicatesOf(plan.models, contents);
    for (const found of sameModelFindings(duplicates, [], new Map(), this.#modelOf)) this.#warnings.add(found);
    this.#tables.close();
    writeSlots(folder, plan);
    writeModels(folder, plan, contents, duplicates, () => null);
    this.#warnings.close();
    removeSpill(folder);
    writeRunJson(folder, plan, inexact);
    const seconds = (performance.now() - this.#started) / 1e3;
    const { length } = plan.slots;
    const position: Position = {
      done: { models: length, sides: sideModesOf(plan.config).length > 0 ? length : 0 },
      groups: plan.groups.length,
      sums: null,
      sumsDone: false,
      bytesRead: this.#bytesRead,
      bytesToRead: this.#bytesRead,
      seconds,
      events: events.position,
    };
    this.#checkpoints.commitFinished(position);
    await this.#checkpoints.settled();
    const done: TelemetryEvent = {
      type: 'done',
      out: plan.config.out!,
      models: plan.models.length,
      slots: withCores(this.#summaries, plan.slots, this.#tables),
      warnings: this.#warnings.groups,
      bytesRead: this.#bytesRead,
      fit_s: merged,
      tables_s: seconds,
      flops: 0,
      device: describeDevice(plan),
    };
    events.write(done);
    return done;
  }

  async close(): Promise<void> {
    await this.#checkpoints.settled().catch(() => {});
    this.#tables.abort();
    this.#warnings.abort();
    this.#checkpoints.close();
    for (const { spool, fds } of this.#parts) {
      spool.log.close();
      for (const fd of fds.values()) readingDisk.close(fd);
    }
    await this.#tiles.close();
  }
}

const savedWith = ({ content: { kept } }: MergedPart, slotId: number): SavedSlots =>
  kept.find(({ first, slots }) => first <= slotId && slotId < first + slots)!;

/** The last file of states that was read, a run each: slots follow each other. */
const lastStates = new WeakMap<
  MergedPart,
  { readonly saved: SavedSlots; readonly states: ReadonlyMap<number, SavedSlot> }
>();

const statesIn = (part: MergedPart, saved: SavedSlots): ReadonlyMap<number, SavedSlot> => {
  const known = lastStates.get(part);
  if (known?.saved === saved) return known.states;
  const states = new Map(readStates(part.run, saved).map((slot) => [slot.slotId, slot]));
  lastStates.set(part, { saved, states });
  return states;
};

/** A merged slot as the tables and the basis writer see it. */
const subspaceOf = (slot: ChosenSlot, spec: SubspaceSpec, { merged }: MergedSlot, product: DoubleProduct): Subspace => {
  const { state, rows, peaks } = merged;
  const rank = reportedRank(spec, state);
  const signs = peaks.slice(0, rank).map((peak) => (peak < 0 ? -1 : 1));
  const tiles = tilesOf(slot.features);
  const saved = savedRows(heldRows(spec, state));
  const readSketch = async (from: number, to: number, out: SharedArrayBuffer): Promise<void> => {
    let at = 0;
    for (const tile of tiles.slice(from, to)) {
      const { start, width } = tile;
      const shift = new Float32Array(width);
      readValues(rows.path, rows.fd, rows.at + start * saved * 4, shift);
      const made = directionsIn(spec, state, merged, tile, product);
      for (let i = 0; i < width; i++) made[i] = made[i]! - shift[i]!;
      for (let i = width; i < made.length; i++) made[i] = signs[Math.floor(i / width) - 1]! * made[i]!;
      new Float32Array(out, at * 4, made.length).set(made);
      at += made.length;
    }
  };
  const readStates = async (from: number, to: number, out: SharedArrayBuffer): Promise<void> => {
    let at = 0;
    for (const { start, width } of tiles.slice(from, to)) {
      const values = new Float32Array((2 + rank) * width);
      readValues(rows.path, rows.fd, rows.at + start * saved * 4, values);
      const mean = new Float32Array(out, at * 4, width);
      for (let i = 0; i < width; i++) mean[i] = values[width + i]! - values[i]!;
      at += width;
      for (let j = 0; j < rank; j++, at += width) {
        const direction = new Float32Array(out, at * 4, width);
        const scale = signs[j]! / Math.sqrt(state.eigenvalues[j]!);
        const row = (2 + j) * width;
        for (let i = 0; i < width; i++) direction[i] = scale * values[row + i]!;
      }
    }
  };
  const scratch = new SharedArrayBuffer(0);
  const engine = spec.engine ?? 'incremental';
  const readTiles = engine === 'randomized' ? readSketch : readStates;
  return { kind: 'subspace', engine, slot, spec, state, rank, signs, tiles, readTiles, scratch };
};
