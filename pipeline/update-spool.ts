// What each block taught about each slot, kept on disk while the run goes on, and as long as its state is kept: a
// fixed-order run of float64 values a record.
// Coordinates of old models are not turned with every block (that would cost N k² a block): each block leaves its
// coordinates and its small map here, and the maps are composed backwards once. So memory does not grow with the models;
// disk does, by about 8 (b ℓ + ℓ²) bytes a block and slot.
import type { SlotUpdate } from '../operators/incremental-pca.ts';
import { cutsOf, type ModelUpdate, type SubspaceUpdate } from '../operators/update-subspace.ts';
import { AppendLog, type LogCut } from '../sinks/append-log.ts';
import { type Disk, nodeDisk } from '../sinks/disk.ts';

/** One block of one slot, as it was written. */
export interface SpooledUpdate {
  readonly block: number;
  readonly modelIds: Float64Array;
  readonly modelsSeen: number;
  readonly oldRows: number;
  readonly newRows: number;
  readonly total: number;
  readonly lost: number;
  readonly eigenvalues: Float64Array;
  /** At the cuts: largest angle, mean angle, overlap; NaN where there is none. */
  readonly drift: Float64Array;
  /** Five values a model: centred2, captured2 (NaN in the first block), rawNorm2, meanEntry, distance2. */
  readonly scores: Float64Array;
  readonly coordinates: Float64Array;
  readonly rotation: Float64Array;
  readonly offset: Float64Array;
  readonly gradient: Float64Array;
  readonly constant: number;
}

export const SCORE_WIDTH = 5;
/** Floats of the record in all, the slot's id, and eight numbers. */
const HEADER = 10;

/** Drift as a record has it. */
export const driftValues = (drift: SubspaceUpdate['drift'], rank: number): Float64Array =>
  Float64Array.from(
    cutsOf(rank).flatMap((_, i) => {
      const at = drift[i];
      return at ? [at.max, at.mean, at.overlap] : [Number.NaN, Number.NaN, Number.NaN];
    }),
  );

/** Scores as a record has them. */
export const scoreValues = (models: readonly ModelUpdate[]): Float64Array =>
  Float64Array.from(
    models.flatMap((m) => [m.centred2 ?? Number.NaN, m.captured2 ?? Number.NaN, m.rawNorm2, m.meanEntry, m.distance2]),
  );

export class UpdateSpool {
  readonly log: AppendLog;
  /** For each slot id the place and length of its records, in block order. */
  readonly #records = new Map<number, { readonly block: number; readonly at: number; readonly floats: number }[]>();

  private constructor(log: AppendLog) {
    this.log = log;
  }

  /** Throws `SinkFailed`. */
  static create(path: string): UpdateSpool {
    return new UpdateSpool(AppendLog.create(path));
  }

  /** A spool as it was at a checkpoint. Throws `SinkFailed`, `DamagedFile`. */
  static reopen(path: string, cut: LogCut, disk: Disk = nodeDisk): UpdateSpool {
    const spool = new UpdateSpool(AppendLog.reopen(path, cut, () => {}, disk));
    const header = new Float64Array(3);
    for (let at = 0; at < cut.size; at += header[0]! * 8) {
      spool.log.read(new Uint8Array(header.buffer), at);
      spool.#know(header[1]!, header[2]!, at, header[0]!);
    }
    return spool;
  }

  append(block: number, rank: number, { slot, models, update }: SlotUpdate): void {
    const { state, oldRows, newRows, carry } = update;
    const numbers = [block, models.length, state.models, oldRows, newRows, state.total, state.lost, carry.constant];
    const parts: ArrayLike<number>[] = [
      models.map((model) => model.id),
      state.eigenvalues,
      driftValues(update.drift, rank),
      scoreValues(update.models),
      update.coordinates,
      carry.rotation,
      carry.offset,
      carry.gradient,
    ];
    const floats = parts.reduce((sum, part) => sum + part.length, HEADER);
    const record = new Float64Array(floats);
    record.set([floats, slot.id, ...numbers]);
    let at = HEADER;
    for (const part of parts) {
      record.set(part, at);
      at += part.length;
    }
    this.#know(slot.id, block, this.log.size, floats);
    this.log.append(new Uint8Array(record.buffer));
  }

  /** The number of a slot's records. */
  count(slotId: number): number {
    return this.#records.get(slotId)?.length ?? 0;
  }

  read(slotId: number, index: number): SpooledUpdate {
    const { at, floats } = this.#records.get(slotId)![index]!;
    const values = new Float64Array(floats);
    this.log.read(new Uint8Array(values.buffer), at);
    const [, , block, b, modelsSeen, oldRows, newRows, total, lost, constant] = values as unknown as number[];
    let from = HEADER;
    const take = (length: number): Float64Array => {
      from += length;
      return values.subarray(from - length, from);
    };
    return {
      block: block!,
      modelsSeen: modelsSeen!,
      oldRows: oldRows!,
      newRows: newRows!,
      total: total!,
      lost: lost!,
      constant: constant!,
      modelIds: take(b!),
      eigenvalues: take(newRows!),
      drift: take(cutsOf(1).length * 3),
      scores: take(b! * SCORE_WIDTH),
      coordinates: take(b! * newRows!),
      rotation: take(oldRows! * newRows!),
      offset: take(newRows!),
      gradient: take(oldRows!),
    };
  }

  /** Where blocks are counted from the beginning again, an extension reads all models anew: what was there is forgotten. */
  #know(slotId: number, block: number, at: number, floats: number): void {
    const known = this.#records.get(slotId) ?? [];
    const goesOn = known.length === 0 || block > known.at(-1)!.block;
    this.#records.set(slotId, goesOn ? known : []);
    this.#records.get(slotId)!.push({ block, at, floats });
  }
}
