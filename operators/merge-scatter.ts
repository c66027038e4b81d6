// The scatter matrices of several streams in the modes rows and cols as those of all their models, float64: scatters about
// each stream's own mean add up, and what the means lie apart adds n_a n_b / n (M_a − M_b)ᵀ(M_a − M_b) a pair (Chan, Golub &
// LeVeque 1979). Exact to rounding; of the weights nothing is needed. Cost a weight and pair: `side` flops a mode.
import type { PlannedSlot } from '../sources/reading-plan.ts';
import type { DoubleProduct } from './linalg/dense-products.ts';
import { blocksOf, blockValues, packedLength } from './linalg/packed-blocks.ts';
import { type SavedScatter, sideOf } from './mode-scatter.ts';
import type { SideMode } from './scatter-tasks.ts';

/** What one stream has of a slot. */
export interface ScatterPart {
  readonly saved: SavedScatter;
  /** Fills bytes from a place of the part's file on. */
  readonly read: (into: Uint8Array, at: number) => void;
  /** From the part's model ids to those of all. */
  readonly idOf: (model: number) => number;
}

export interface MergedScatter {
  readonly saved: Omit<SavedScatter, 'at'>;
  /** As `ModeScatter.save` writes them: the scatter of every mode, the mean, the origin. */
  readonly arrays: readonly Uint8Array[];
}

interface Scatters {
  models: number;
  readonly packed: readonly Float64Array[];
  readonly mean: Float64Array | null;
  readonly origin: Float32Array | null;
}

/** @param parts in an order that does not depend on who asks: bits depend on it */
export const mergeScatters = (
  slot: PlannedSlot,
  modes: readonly SideMode[],
  center: boolean,
  parts: readonly ScatterPart[],
  product: DoubleProduct,
): MergedScatter => {
  let merged: Scatters | null = null;
  for (const part of parts) {
    if (part.saved.models.length === 0) continue;
    const next = readPart(slot, modes, center, part);
    if (merged === null) merged = next;
    else add(slot, modes, merged, next, product);
  }
  const { packed, mean, origin } = merged ?? readPart(slot, modes, center, parts[0]!);
  const ids = (of: (saved: SavedScatter) => Int32Array): Int32Array =>
    Int32Array.from(parts.flatMap(({ saved, idOf }) => Array.from(of(saved), idOf)));
  const values = (of: (saved: SavedScatter) => Float64Array): Float64Array =>
    Float64Array.from(parts.flatMap(({ saved }) => Array.from(of(saved))));
  return {
    saved: {
      slotId: slot.id,
      models: ids(({ models }) => models),
      left: ids(({ left }) => left),
      rawNorm2: values(({ rawNorm2 }) => rawNorm2),
      meanEntry: values(({ meanEntry }) => meanEntry),
      hasOrigin: origin !== null,
    },
    arrays: [...packed, ...(mean === null ? [] : [mean]), ...(origin === null ? [] : [origin])].map(
      ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength),
    ),
  };
};

const readPart = (
  slot: PlannedSlot,
  modes: readonly SideMode[],
  center: boolean,
  { saved, read }: ScatterPart,
): Scatters => {
  let { at } = saved;
  const fill = <A extends Float64Array | Float32Array>(values: A): A => {
    read(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
    at += values.byteLength;
    return values;
  };
  return {
    models: saved.models.length,
    packed: modes.map((mode) => fill(new Float64Array(packedLength(sideOf(mode, slot))))),
    mean: center ? fill(new Float64Array(slot.features)) : null,
    origin: saved.hasOrigin ? fill(new Float32Array(slot.features)) : null,
  };
};

const add = (
  { rows, cols, features }: PlannedSlot,
  modes: readonly SideMode[],
  into: Scatters,
  from: Scatters,
  product: DoubleProduct,
): void => {
  into.packed.forEach((packed, i) => {
    const other = from.packed[i]!;
    for (let l = 0; l < packed.length; l++) packed[l] = packed[l]! + other[l]!;
  });
  const models = into.models + from.models;
  if (into.mean !== null && from.mean !== null) {
    const c = Math.sqrt((into.models * from.models) / models);
    const share = from.models / models;
    const apart = new Float64Array(features);
    for (let l = 0; l < features; l++) {
      const difference = from.mean[l]! - into.mean[l]!;
      apart[l] = c * difference;
      into.mean[l] = into.mean[l]! + share * difference;
    }
    modes.forEach((mode, i) => {
      for (const block of blocksOf(mode === 'rows' ? cols : rows)) {
        const { rows: a, columns: b } = block;
        const [m, n] = [a.to - a.from, b.to - b.from];
        const out = blockValues(into.packed[i]!, block);
        if (mode === 'rows')
          product(
            { a: true, b: false },
            { m, n, k: rows },
            apart.subarray(a.from),
            cols,
            apart.subarray(b.from),
            cols,
            out,
            n,
          );
        else
          product(
            { a: false, b: true },
            { m, n, k: cols },
            apart.subarray(a.from * cols),
            cols,
            apart.subarray(b.from * cols),
            cols,
            out,
            n,
          );
      }
    });
  }
  into.models = models;
};
