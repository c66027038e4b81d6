// One slot of a merge: the states of all runs into one, and what is known of each model moved along with them. So many
// states go into one step that its small matrices stay small; where there are more, steps follow each other, through files.
// The order is that of the runs, which is canonical.
import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from '../operators/devices/device.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import type { EigenSolver } from '../operators/linalg/symmetric-eigen.ts';
import { mergeSketches } from '../operators/merge-sketches.ts';
import { type MergedState, mergeStates, type StoredState } from '../operators/merge-states.ts';
import { type SubspaceSpec, stateRowsFor } from '../operators/subspace-state.ts';
import type { SavedRows } from '../operators/tile-tasks.ts';
import { type CoordinateCarry, cutsOf, type SubspaceUpdate } from '../operators/update-subspace.ts';
import type { ChosenSlot } from './choose-slots.ts';
import { finalCoefficients } from './final-coefficients.ts';
import { slotModels } from './slot-results.ts';
import type { UpdateSpool } from './update-spool.ts';

/** What is known of a state's models. */
export interface Members {
  /** In the merged run. */
  readonly ids: readonly number[];
  /** models x r, in all directions of the state, about its mean. */
  readonly coordinates: Float64Array;
  /** ‖x − m‖². */
  readonly distance2: Float64Array;
  readonly rawNorm2: Float64Array;
  readonly meanEntry: Float64Array;
}

export interface StateWithMembers {
  readonly stored: StoredState;
  readonly members: Members;
}

/** What a run's spool says of a slot's models. @param rows of the state */
export const membersOf = (
  spool: UpdateSpool,
  slotId: number,
  rows: number,
  idOf: (model: number) => number,
  product: DoubleProduct,
): Members => {
  const final = finalCoefficients(spool, slotId, new Float64Array(rows).fill(1), product);
  const updates = Array.from({ length: spool.count(slotId) }, (_, i) => spool.read(slotId, i));
  const { modelIds, coordinates, norm2, rawNorm2, meanEntry } = slotModels(final, updates);
  return { ids: Array.from(modelIds, idOf), coordinates, distance2: norm2, rawNorm2, meanEntry };
};

export interface SlotMerge {
  readonly slot: ChosenSlot;
  readonly spec: SubspaceSpec;
  /** Of one model at least each. */
  readonly parts: readonly StateWithMembers[];
  /** Where the merged rows go. */
  readonly to: SavedRows;
  /** Folder for states on the way. */
  readonly scratch: string;
  readonly device: Device;
  readonly solve: EigenSolver;
}

export interface MergedSlot {
  readonly merged: MergedState;
  readonly members: Members;
}

/** Rows multiplied in one step, about: their eigenproblem takes 0.1 s with LAPACK, 2 s without. */
const MOST_ROWS = 640;

/** States that one step takes: it depends on nothing but the rank. */
export const statesAStep = (rank: number): number =>
  Math.max(2, Math.floor(MOST_ROWS / (stateRowsFor({ rank, features: Number.POSITIVE_INFINITY }) + 3)));

/** Throws `NumericalFailure`, `SpillFailed`. */
export const mergeSlot = ({ slot, spec, parts, to, scratch, device, solve }: SlotMerge): MergedSlot => {
  const step = statesAStep(spec.rank);
  const opened: number[] = [];
  const onTheWay = (): SavedRows => {
    const path = join(scratch, `merge-${opened.length}.rows`);
    const fd = openSync(path, 'wx+');
    opened.push(fd);
    // Its space is freed when it is closed, however the merge ends.
    rmSync(path);
    return { path, fd, at: 0 };
  };
  const mergeSome = (some: readonly StateWithMembers[], rows: SavedRows): MergedSlot => {
    const states = some.map(({ stored }) => stored);
    const merged =
      spec.engine === 'randomized'
        ? mergeSketches(slot, spec, states, rows, device.multiplyDouble, solve)
        : mergeStates(slot, spec, states, rows, device, solve);
    const moved = some.map(({ members }, i) => move(members, merged.carries[i]!));
    return { merged, members: concatenate(moved) };
  };
  try {
    let left = parts;
    while (left.length > step) {
      const next: StateWithMembers[] = [];
      for (let at = 0; at < left.length; at += step) {
        const some = left.slice(at, at + step);
        if (some.length === 1) next.push(some[0]!);
        else {
          const { merged, members } = mergeSome(some, onTheWay());
          next.push({ stored: { state: merged.state, map: null, rows: merged.rows }, members });
        }
      }
      left = next;
    }
    return mergeSome(left, to);
  } finally {
    for (const fd of opened) closeSync(fd);
  }
};

/** c' = Wᵀ c + q, d' = d + g·c + h. */
const move = (members: Members, { rotation, offset, gradient, constant }: CoordinateCarry): Members => {
  const [r, l] = [gradient.length, offset.length];
  const models = members.ids.length;
  const coordinates = new Float64Array(models * l);
  const distance2 = new Float64Array(models);
  for (let i = 0; i < models; i++) {
    const c = members.coordinates.subarray(i * r, (i + 1) * r);
    const out = coordinates.subarray(i * l, (i + 1) * l);
    out.set(offset);
    let distance = members.distance2[i]! + constant;
    for (let j = 0; j < r; j++) {
      distance += gradient[j]! * c[j]!;
      for (let t = 0; t < l; t++) out[t] = out[t]! + c[j]! * rotation[j * l + t]!;
    }
    distance2[i] = Math.max(distance, 0);
  }
  return { ...members, coordinates, distance2 };
};

const concatenate = (all: readonly Members[]): Members => {
  const join = (of: (members: Members) => Float64Array): Float64Array => {
    const out = new Float64Array(all.reduce((sum, members) => sum + of(members).length, 0));
    let at = 0;
    for (const members of all) {
      out.set(of(members), at);
      at += of(members).length;
    }
    return out;
  };
  return {
    ids: all.flatMap(({ ids }) => ids),
    coordinates: join(({ coordinates }) => coordinates),
    distance2: join(({ distance2 }) => distance2),
    rawNorm2: join(({ rawNorm2 }) => rawNorm2),
    meanEntry: join(({ meanEntry }) => meanEntry),
  };
};

/** The merge as if it were one block of all models: what the spool keeps, and what `extend` and later merges build on. */
export const updateOf = ({ merged, members }: MergedSlot, spec: SubspaceSpec): SubspaceUpdate => {
  const none = new Float64Array(0);
  const rows = merged.state.eigenvalues.length;
  return {
    state: merged.state,
    mix: merged.mix,
    oldRows: 0,
    newRows: rows,
    models: members.ids.map((_, i) => ({
      // Against which subspace a model was new is another in every run.
      centred2: null,
      captured2: null,
      rawNorm2: members.rawNorm2[i]!,
      meanEntry: members.meanEntry[i]!,
      distance2: members.distance2[i]!,
    })),
    coordinates: members.coordinates,
    carry: { rotation: none, offset: new Float64Array(rows), gradient: none, constant: 0 },
    drift: cutsOf(spec.rank).map(() => null),
  };
};
