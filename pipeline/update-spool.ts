// What each block taught about each slot, kept on disk until the group ends: a fixed-order run of float64 values a record.
// Coordinates of old models are not turned with every block (that would cost N k² a block): each block leaves its
// coordinates and its small map here, and the maps are composed backwards once. So memory does not grow with the models;
// disk does, by about 8 (b ℓ + ℓ²) bytes a block and slot.
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import type { SlotUpdate } from '../operators/incremental-pca.ts';
import { cutsOf, type ModelUpdate, type SubspaceUpdate } from '../operators/update-subspace.ts';
import { sinkFailure } from '../sinks/durable-file.ts';

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
const HEADER = 8;

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
  readonly #path: string;
  readonly #fd: number;
  #end = 0;
  /** For each slot id the place and length of its records, in block order. */
  readonly #records = new Map<number, { readonly at: number; readonly floats: number }[]>();

  constructor(path: string) {
    this.#path = path;
    try {
      this.#fd = openSync(path, 'wx+');
    } catch (cause) {
      throw sinkFailure(path, 'creating it', cause);
    }
  }

  append(block: number, rank: number, { slot, models, update }: SlotUpdate): void {
    const { state, oldRows, newRows, carry } = update;
    const header = [block, models.length, state.models, oldRows, newRows, state.total, state.lost, carry.constant];
    const parts: ArrayLike<number>[] = [
      header,
      models.map((model) => model.id),
      state.eigenvalues,
      driftValues(update.drift, rank),
      scoreValues(update.models),
      update.coordinates,
      carry.rotation,
      carry.offset,
      carry.gradient,
    ];
    const floats = parts.reduce((sum, part) => sum + part.length, 0);
    const record = new Float64Array(floats);
    let at = 0;
    for (const part of parts) {
      record.set(part, at);
      at += part.length;
    }
    this.#write(new Uint8Array(record.buffer));
    const known = this.#records.get(slot.id) ?? [];
    known.push({ at: this.#end, floats });
    this.#records.set(slot.id, known);
    this.#end += floats * 8;
  }

  /** The number of a slot's records. */
  count(slotId: number): number {
    return this.#records.get(slotId)?.length ?? 0;
  }

  read(slotId: number, index: number): SpooledUpdate {
    const { at, floats } = this.#records.get(slotId)![index]!;
    const values = new Float64Array(floats);
    const bytes = new Uint8Array(values.buffer);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(this.#fd, bytes, done, bytes.length - done, at + done);
      if (count === 0)
        throw sinkFailure(this.#path, 'reading it back', new Error('it is shorter than what was written'));
      done += count;
    }
    const [block, b, modelsSeen, oldRows, newRows, total, lost, constant] = values as unknown as number[];
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

  close(): void {
    closeSync(this.#fd);
    rmSync(this.#path, { force: true });
  }

  #write(bytes: Uint8Array): void {
    try {
      for (let done = 0; done < bytes.length; )
        done += writeSync(this.#fd, bytes, done, bytes.length - done, this.#end + done);
    } catch (cause) {
      throw sinkFailure(this.#path, `writing ${bytes.length} bytes of the coefficient spool`, cause);
    }
  }
}
