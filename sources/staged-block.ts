// Reads a block of models into one shared buffer, laid out so that every tile's rows stand together. Each model's file is
// read front to back; tensors that are neighbours in the file come in one readv.
// Of LoRA modules the factors are staged, whole whatever the tiles (stage-factors.ts).

import { bytesPerElement } from './dtype.ts';
import { SourceMalformed, type SourceUnavailable } from './errors.ts';
import type { Dtype, TensorEntry } from './model.ts';
import { neighboursOf } from './neighbours.ts';
import type { OpenRows } from './open-block.ts';
import type { PlannedModel, PlannedSlot, SlotGroup } from './reading-plan.ts';
import type { SourceFiles } from './source-files.ts';
import { type FactorRead, factorBytes, factorRead, factorScratchBytes, settleFactors } from './stage-factors.ts';
import type { StagedFactors } from './staged-factors.ts';
import { type Tile, type TileRange, tilesOf } from './tile.ts';

/** Models read at once: enough to keep a disk's queue filled. */
export const MODELS_AT_ONCE = 8;

/**
 * Staged weights of one slot and dtype: for each staged tile in turn, `models.length` rows of its width.
 * Row i of every tile belongs to `models[i]` and to block position `positions[i]`; −1 leaves it out.
 */
export interface StagedRows {
  readonly dtype: Dtype;
  readonly models: Int32Array;
  readonly positions: Int32Array;
  readonly buffer: SharedArrayBuffer;
  /** Byte offset of the first staged tile. */
  readonly offset: number;
  /** The first staged tile's first feature: 0 unless a part of the slot is staged. */
  readonly start: number;
  /** Set where rows are to be decoded from factors, which serve all tiles: `dtype` is then that of the factors staged. */
  readonly factors?: StagedFactors;
}

/** A model whose weights of a slot could not be read. */
export interface ReadFault {
  readonly model: PlannedModel;
  readonly slot: PlannedSlot;
  readonly error: SourceMalformed | SourceUnavailable;
}

/** A slot's weights of some models: in memory, or still in their files (open-block.ts). */
export type SourceRows = StagedRows | OpenRows;

export interface SlotAtHand<R extends SourceRows = SourceRows> {
  readonly slot: PlannedSlot;
  /** The models at hand, in the order of their positions. */
  readonly models: readonly PlannedModel[];
  readonly rows: readonly R[];
}

export interface BlockAtHand<R extends SourceRows = SourceRows> {
  readonly slots: readonly SlotAtHand<R>[];
  readonly faults: readonly ReadFault[];
}

interface Segment {
  readonly slot: PlannedSlot;
  readonly tensor: TensorEntry;
  readonly buffers: readonly Uint8Array[];
}

/** A model's factors of a slot that are being read, and where their rank is to be told. */
interface FactorSegment {
  readonly slot: PlannedSlot;
  readonly read: FactorRead;
  readonly settled: (rank: number) => void;
}

const ALIGNMENT = 64;

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Bytes of staging that these models need for a group, or for some tiles of its slots; a multiple of 64. */
export const stagingBytes = (group: SlotGroup, models: readonly PlannedModel[], range?: TileRange): number =>
  layOut(group, models, 0, range).reduce((sum, { bytes }) => sum + aligned(bytes), 0);

interface StagedPart {
  readonly slot: PlannedSlot;
  readonly dtype: Dtype;
  readonly models: readonly PlannedModel[];
  readonly tiles: readonly Tile[];
  /** Where the part begins in the buffer. */
  readonly at: number;
  readonly bytes: number;
  /** Ranks are those of the tensors, until these have been read. */
  readonly factors?: StagedFactors;
}

/** One part for each slot and dtype, in the order of first appearance; one for each slot of factors. */
const layOut = (
  group: SlotGroup,
  models: readonly PlannedModel[],
  from: number,
  range?: TileRange,
): readonly StagedPart[] => {
  const parts: StagedPart[] = [];
  let end = from;
  for (const slot of group.slots) {
    const tiles = tilesOf(slot.features).slice(range?.from, range?.to);
    if (slot.isDelta === true) {
      const part = factorPart(slot, models, tiles, end);
      parts.push(part);
      end += part.bytes;
      continue;
    }
    for (const [dtype, members] of byDtype(slot, models)) {
      const bytes = members.length * featuresOf(tiles) * bytesPerElement(dtype);
      parts.push({ slot, dtype, models: members, tiles, at: end, bytes });
      end += aligned(bytes);
    }
  }
  return parts;
};

/** Models by the dtype of their weights, in the order of first appearance. */
export const byDtype = (
  slot: PlannedSlot,
  models: readonly PlannedModel[],
): ReadonlyMap<Dtype, readonly PlannedModel[]> => {
  const found = new Map<Dtype, PlannedModel[]>();
  for (const model of models) {
    const dtype = slot.tensorIn(model).dtype as Dtype;
    const known = found.get(dtype);
    if (known === undefined) found.set(dtype, [model]);
    else known.push(model);
  }
  return found;
};

const factorPart = (
  slot: PlannedSlot,
  models: readonly PlannedModel[],
  tiles: readonly Tile[],
  from: number,
): StagedPart & { readonly factors: StagedFactors } => {
  const at = new Float64Array(models.length);
  const ranks = new Int32Array(models.length);
  let end = from;
  models.forEach((model, i) => {
    const lora = slot.tensorIn(model).lora!;
    at[i] = end;
    ranks[i] = lora.rank;
    end += factorBytes(lora);
  });
  const { rows, cols } = slot;
  return { slot, dtype: 'F32', models, tiles, at: from, bytes: end - from, factors: { rows, cols, ranks, at } };
};

/** Bytes that reading a block takes beside its buffer. */
export const readingBytes = (group: SlotGroup, models: readonly PlannedModel[]): number =>
  factorScratchBytes(group.slots, models, MODELS_AT_ONCE);

const featuresOf = (tiles: readonly Tile[]): number => tiles.reduce((sum, { width }) => sum + width, 0);

/**
 * Reads the group's slots of these models, or some tiles of them. Faults of single models are collected; nothing else fails.
 * @param buffer has `stagingBytes(group, models, range)` bytes from `from` on
 */
export const stageBlock = async (
  files: SourceFiles,
  group: SlotGroup,
  models: readonly PlannedModel[],
  buffer: SharedArrayBuffer,
  from = 0,
  range?: TileRange,
): Promise<BlockAtHand<StagedRows>> => {
  const parts = layOut(group, models, from, range);
  const places = parts.map((part) => new Map(part.models.map((model, row) => [model, row])));
  const faults: ReadFault[] = [];
  const queue = [...models.keys()];
  const readNext = async (): Promise<void> => {
    for (let index = queue.shift(); index !== undefined; index = queue.shift()) {
      const model = models[index]!;
      const { stored, factors } = segmentsOf(parts, places, model, buffer);
      const all = [...stored, ...factors.flatMap(factorSegments)];
      const used = new Set(all.map(({ tensor }) => model.header.files[tensor.file]!));
      for (const file of used) files.hold(file);
      try {
        const unread = await readModel(files, model, all);
        const slots = new Set(unread.map(({ slot }) => slot));
        // Both factors of a slot may be missing.
        faults.push(...unread.filter(({ slot }) => slots.delete(slot)), ...settleModel(model, factors, unread));
      } finally {
        for (const file of used) await files.release(file);
      }
    }
  };
  await Promise.all(Array.from({ length: MODELS_AT_ONCE }, readNext));
  faults.sort((a, b) => a.model.id - b.model.id || a.slot.id - b.slot.id);
  return { slots: group.slots.map((slot) => stagedSlot(slot, parts, models, faults, buffer)), faults };
};

/** What is to be read of a model. Its factors take memory of their own until they are made canonical. */
const segmentsOf = (
  parts: readonly StagedPart[],
  places: readonly ReadonlyMap<PlannedModel, number>[],
  model: PlannedModel,
  buffer: SharedArrayBuffer,
): { readonly stored: readonly Segment[]; readonly factors: readonly FactorSegment[] } => {
  const stored: Segment[] = [];
  const factors: FactorSegment[] = [];
  for (const [i, part] of parts.entries()) {
    const { slot } = part;
    const row = places[i]!.get(model);
    if (row === undefined) continue;
    if (part.factors === undefined) {
      const buffers = part.tiles.map((tile) => rowOf(part, tile, row, buffer));
      const staged = { start: part.tiles[0]!.start, width: featuresOf(part.tiles) };
      stored.push({ slot, tensor: tensorPart(slot, staged, model), buffers });
      continue;
    }
    const { at, ranks } = part.factors;
    const read = factorRead(slot.tensorIn(model).lora!, buffer, at[row]!);
    const settled = (rank: number): void => {
      ranks[row] = rank;
    };
    factors.push({ slot, read, settled });
  }
  return { stored, factors };
};

const factorSegments = ({ slot, read: { lora, a, b } }: FactorSegment): readonly Segment[] => [
  { slot, tensor: lora.a, buffers: [a] },
  { slot, tensor: lora.b, buffers: [b] },
];

/** Makes the factors canonical that could be read; returns those that cannot be folded. */
const settleModel = (
  model: PlannedModel,
  factors: readonly FactorSegment[],
  unread: readonly ReadFault[],
): readonly ReadFault[] => {
  const missing = new Set(unread.map(({ slot }) => slot));
  const faults: ReadFault[] = [];
  for (const { slot, read, settled } of factors) {
    if (missing.has(slot)) continue;
    try {
      settled(settleFactors(read, model.header.files[read.lora.a.file]!.path));
    } catch (error) {
      if (!(error instanceof SourceMalformed)) throw error;
      faults.push({ model, slot, error });
    }
  }
  return faults;
};

const rowOf = (part: StagedPart, tile: Tile, row: number, buffer: SharedArrayBuffer): Uint8Array => {
  const size = bytesPerElement(part.dtype);
  const tileStart = part.at + (tile.start - part.tiles[0]!.start) * part.models.length * size;
  return new Uint8Array(buffer, tileStart + row * tile.width * size, tile.width * size);
};

/** Where a model's weights [start, start + width) of a slot stand in its file. */
export const tensorPart = (
  slot: PlannedSlot,
  { start, width }: { readonly start: number; readonly width: number },
  model: PlannedModel,
): TensorEntry => {
  const tensor = slot.tensorIn(model);
  const size = bytesPerElement(tensor.dtype as Dtype);
  return { ...tensor, offset: tensor.offset + start * size, byteLength: width * size };
};

const stagedSlot = (
  slot: PlannedSlot,
  parts: readonly StagedPart[],
  models: readonly PlannedModel[],
  faults: readonly ReadFault[],
  buffer: SharedArrayBuffer,
): SlotAtHand<StagedRows> => {
  const { kept, placesOf } = placesIn(slot, models, faults);
  return {
    slot,
    models: kept,
    rows: parts
      .filter((part) => part.slot === slot)
      .map((part) => ({
        dtype: part.dtype,
        ...placesOf(part.models),
        buffer,
        offset: part.at,
        start: part.tiles[0]!.start,
        ...(part.factors === undefined ? {} : { factors: part.factors }),
      })),
  };
};

/** Which models of a block a slot can have, and the places that gives them. */
export const placesIn = (
  slot: PlannedSlot,
  models: readonly PlannedModel[],
  faults: readonly ReadFault[],
): {
  readonly kept: readonly PlannedModel[];
  readonly placesOf: (members: readonly PlannedModel[]) => Pick<StagedRows, 'models' | 'positions'>;
} => {
  const faulty = new Set(faults.filter((fault) => fault.slot === slot).map((fault) => fault.model));
  const kept = models.filter((model) => !faulty.has(model));
  const position = new Map(kept.map((model, i) => [model, i]));
  const placesOf = (members: readonly PlannedModel[]): Pick<StagedRows, 'models' | 'positions'> => ({
    models: Int32Array.from(members, (model) => model.id),
    positions: Int32Array.from(members, (model) => position.get(model) ?? -1),
  });
  return { kept, placesOf };
};

const readModel = async (
  files: SourceFiles,
  model: PlannedModel,
  segments: readonly Segment[],
): Promise<readonly ReadFault[]> => {
  const faults: ReadFault[] = [];
  for (const run of neighboursOf(segments)) {
    const file = model.header.files[run[0]!.tensor.file]!;
    const buffers: Uint8Array[] = [];
    const start = run[0]!.tensor.offset;
    let end = start;
    for (const { tensor, buffers: parts } of run) {
      if (tensor.offset > end) buffers.push(new Uint8Array(tensor.offset - end));
      buffers.push(...parts);
      end = tensor.offset + tensor.byteLength;
    }
    try {
      await files.read(file, start, buffers);
    } catch (error) {
      // A file that changed since the plan would mix two versions of a model: that always stops the run.
      if (error instanceof SourceMalformed && error.rule === 'changed') throw error;
      for (const { slot } of run) faults.push({ model, slot, error: error as SourceMalformed | SourceUnavailable });
    }
  }
  return faults;
};
