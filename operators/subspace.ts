// A slot's finished subspace: the numbers, and its rows for as long as they are on the device.
import type { PlannedSlot } from '../sources/reading-plan.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { jsDoubleProduct } from './linalg/dense-products.ts';
import type { Sketch } from './nystrom.ts';
import { type StoredRows, settleRows } from './stored-rows.ts';
import { reportedRank, type StreamingEngine, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
import type { Tiles } from './tile-pool.ts';
import type { Replacement, SpillStep } from './tile-tasks.ts';

/** How subspaces are found. */
export type EngineName = StreamingEngine | 'exact';

/** What is known of a slot's subspace after some block. */
export interface SubspaceEstimate {
  readonly engine: EngineName;
  readonly slot: PlannedSlot;
  readonly spec: SubspaceSpec;
  readonly state: SubspaceState;
  /** Directions reported: min(rank, what the state kept). */
  readonly rank: number;
  /** +1 or −1 for each direction: makes its largest entry positive. Coordinates take the same sign. */
  readonly signs: Float64Array;
}

export interface Subspace extends SubspaceEstimate {
  readonly kind: 'subspace';
  readonly tiles: readonly Tile[];
  /**
   * Reads tiles [from, to) into `out`: tile after tile, 1 + rank rows of its width, the absolute mean (base and shift
   * added back) and the unit directions. Valid until the stream goes on to the next group.
   */
  readonly readTiles: (from: number, to: number, out: SharedArrayBuffer) => Promise<void>;
  /** Memory to read tiles into, for as long as they can be read; fresh memory would cost as much as the reading. */
  readonly scratch: SharedArrayBuffer | null;
}

/** What an engine keeps of a slot. */
interface SlotInEngine {
  readonly slot: PlannedSlot;
  readonly spec: SubspaceSpec;
  readonly state: SubspaceState;
  readonly stored: StoredRows;
  readonly spill: SpillStep | null;
}

/** The subspace so far; the stream goes on as if nobody had looked. */
export const estimateSubspace = (tiles: Tiles, index: number, engine: SlotInEngine): Promise<SubspaceEstimate> =>
  settleSigns(tiles, index, engine, true);

/** Makes the last mixing, which gives unit directions instead of scaled rows, and settles the signs. */
export const finishSubspace = async (
  tiles: Tiles,
  index: number,
  engine: SlotInEngine,
  scratch: SharedArrayBuffer | null,
): Promise<Subspace> => {
  const estimate = await settleSigns(tiles, index, engine, false);
  const { slot, signs } = estimate;
  const generation = engine.spill?.to ?? null;
  return {
    ...estimate,
    kind: 'subspace',
    tiles: tilesOf(slot.features),
    readTiles: (from, to, out) => tiles.fetch({ slot: index, from, to, signs, out, generation }),
    scratch,
  };
};

const settleSigns = async (
  tiles: Tiles,
  index: number,
  { slot, spec, state, stored, spill }: SlotInEngine,
  keep: boolean,
): Promise<SubspaceEstimate> => {
  const rank = reportedRank(spec, state);
  // For good, rows are settled first, as a checkpoint has them: the directions are the same bits with one or without.
  const settle = keep ? null : (stored.due?.mix ?? null);
  const mix = unitDirections(state, rank, keep ? stored : settleRows(stored));
  const peaks = await tiles.finish({ slot: index, settle, mix, spill, keep });
  return {
    engine: spec.engine ?? 'incremental',
    slot,
    spec,
    state,
    rank,
    signs: peaks.map((peak) => (peak < 0 ? -1 : 1)),
  };
};

/** The mean and the first k state rows, scaled to unit length, out of the rows that the tiles hold. */
const unitDirections = (
  { eigenvalues, models, sketch }: SubspaceState,
  rank: number,
  { map, due }: StoredRows,
): Replacement => {
  if (sketch !== undefined) return sketchedDirections(sketch, models, rank, due);
  const n = due?.whole.n ?? 1 + eigenvalues.length;
  const whole = due?.whole.values ?? map;
  const values = new Float64Array((1 + rank) * n);
  for (let row = 0; row <= rank; row++) {
    const scale = row === 0 ? 1 : 1 / Math.sqrt(eigenvalues[row - 1]!);
    if (whole === null) values[row * n + row] = scale;
    else for (let i = 0; i < n; i++) values[row * n + i] = scale * whole[row * n + i]!;
  }
  return { kind: 'replace', values, m: 1 + rank, n };
};

/** The same out of [s; Y; Ψ]: s = Σ x, or zero where nothing is centred. */
const sketchedDirections = (sketch: Sketch, models: number, rank: number, due: StoredRows['due']): Replacement => {
  const held = sketch.sumDots.length;
  const rows = 2 * held - 1;
  const directions = new Float64Array((1 + rank) * rows);
  directions[0] = 1 / models;
  for (let j = 0; j < rank; j++) directions.set(sketch.directions.subarray(j * held, (j + 1) * held), (1 + j) * rows);
  if (due === null) return { kind: 'replace', values: directions, m: 1 + rank, n: rows };
  const { values: whole, n } = due.whole;
  const values = new Float64Array((1 + rank) * n);
  jsDoubleProduct({ a: false, b: false }, { m: 1 + rank, n, k: rows }, directions, rows, whole, n, values, n);
  return { kind: 'replace', values, m: 1 + rank, n };
};
