// The words between an engine and whoever holds the tiles (this thread, or workers): plain data that can be posted.
import type { SourceRows } from '../sources/staged-block.ts';
import type { TileRange } from '../sources/tile.ts';
import type { UnreadRow } from './row-reader.ts';
import type { Generation } from './spill-files.ts';
import type { Turn } from './time-spent.ts';

/** A slot as the tiles see it. */
export interface SlotLayout {
  readonly slot: string;
  readonly features: number;
  /** Rows that tiles keep between visits, at most: 3 + state rows + block where the block stays, 3 + k of directions alone. */
  readonly maxRows: number;
  /**
   * Rows of the one matrix in which each panel takes its turn, where a block does not stay: 3 + block. Null where tiles
   * are visited in the rows they keep.
   */
  readonly passingRows: number | null;
  /** Whether the rows that pass are float32 in files: then they are read to where they are multiplied, if the device can. */
  readonly inPlace?: boolean;
  /** Of a slot that is visited in parts: tiles of a part, at most. No more threads have any. */
  readonly tilesAtOnce?: number | undefined;
  /** The two files that hold the rows of a slot too large for the memory; null where tiles keep them. */
  readonly spill: readonly [string, string] | null;
  /** Whether products must be as right as the device can make them: a sketch enlarges their rounding. */
  readonly careful?: boolean;
}

/** Where a task finds the rows of a spilled slot, and where it leaves them. */
export interface SpillStep {
  /** What the block before left: its generation and rows; null in a slot's first block. */
  readonly from: { readonly generation: Generation; readonly stateRows: number; readonly block: number } | null;
  readonly to: Generation;
}

/** What becomes of the rows of a slot's tiles from the mean's on, of which row 0 is the mean's. */
export type Mix = Replacement | Addition;

/** Rows 0 … m of the new tile = values (m x n) · rows 0 … n of the old one. */
export interface Replacement {
  readonly kind: 'replace';
  readonly values: Float64Array;
  readonly m: number;
  readonly n: number;
}

/** After some pairs of rows have changed places: rows 0 … m += values (m x (n − m)) · rows m … n, in place. */
export interface Addition {
  readonly kind: 'add';
  readonly values: Float64Array;
  readonly m: number;
  readonly n: number;
  /** Each one of the first m rows, and one of the others. None where the device cannot swap them. */
  readonly exchanges: readonly (readonly [number, number])[];
}

export interface VisitTask {
  readonly slot: number;
  /** What the block before left undone; null when that was nothing, or it is done. */
  readonly mix: Mix | null;
  /** Rows after the mean's that stand for the state, after the mix. */
  readonly stateRows: number;
  readonly block: number;
  readonly staged: readonly SourceRows[];
  /** Where the shift comes from in a slot's first visit: the mean of this block, a base, or zero; null later. */
  readonly shift:
    | { readonly from: 'mean' }
    | { readonly from: 'base'; readonly staged: SourceRows }
    | { readonly from: 'zero' }
    | null;
  /** In a first visit of the engine `randomized`: half of the state's rows are zero at first, the others signs of these keys. */
  readonly signs?: Int32Array | null;
  /** Multiply all rows with all rows, not with the block alone. */
  readonly full: boolean;
  /** The tiles that are staged; null for all. */
  readonly tiles: TileRange | null;
  readonly spill: SpillStep | null;
  /** Under which its time counts; 0 unless told. */
  readonly turn?: Turn;
}

/** Turns a slot's weights, all models at once, into directions that the tiles keep. */
export interface ProjectTask {
  readonly slot: number;
  readonly block: number;
  readonly staged: readonly SourceRows[];
  readonly shift: NonNullable<VisitTask['shift']>;
  /** Makes the mean (row 0) and the k unit directions out of [0; X]: (1 + k) x (1 + b). */
  readonly mix: Replacement;
  readonly tiles: TileRange | null;
  /** Leave the rows in the slot's spill files. */
  readonly spilled: boolean;
}

export interface Projection {
  /** Each direction's entry of largest magnitude. */
  readonly peaks: Float64Array;
  /** As in a visit. */
  readonly unread: readonly UnreadRow[];
}

export interface VisitResult {
  /** (3 + r + b) x columns, summed over the slot's tiles in order. */
  readonly gram: Float64Array;
  readonly columns: number;
  /** Σ of the shift's entries. */
  readonly shiftSum: number;
  /** The first row of each model that could not be read from its file: then the rest stands for nothing. */
  readonly unread: readonly UnreadRow[];
}

/** A value that cannot be folded. */
export interface BadValue {
  readonly model: number;
  /** Flat index into the slot's weights. */
  readonly index: number;
  readonly value: number;
}

/** Why a model cannot be folded. */
export type BadRow = BadValue | UnreadRow;

export interface FinishTask {
  readonly slot: number;
  /** What the block before left undone, to be done first; null to look at the rows as they are. */
  readonly settle: Mix | null;
  /** Makes the mean (row 0) and the k unit directions out of the rows held. */
  readonly mix: Replacement;
  readonly spill: SpillStep | null;
  /** Only look: the rows stay what they are. */
  readonly keep: boolean;
}

export interface ScanTask {
  readonly slot: number;
  readonly staged: readonly SourceRows[];
  readonly tiles: TileRange | null;
}

export interface FetchTask {
  readonly slot: number;
  /** Tiles [from, to). */
  readonly from: number;
  readonly to: number;
  /** +1 or −1 for each direction. */
  readonly signs: Float64Array;
  /** Where a spilled slot's rows were left. */
  readonly generation: Generation | null;
  /** Receives, tile after tile, 1 + k rows of the tile's width: the absolute mean, then the directions. */
  readonly out: SharedArrayBuffer;
}

/** Rows of a slot in a checkpoint's file: [−shift; mean; r state rows], float32, tile after tile, each row-major. */
export interface SavedRows {
  readonly path: string;
  /** Open in this process, whichever thread uses it. */
  readonly fd: number;
  /** Byte at which the slot begins. */
  readonly at: number;
}

export interface SaveTask {
  readonly slot: number;
  /** What the block before left undone: done first. A spilled slot's rows stay as they were. */
  readonly mix: Mix | null;
  /** After the mix. */
  readonly stateRows: number;
  readonly spill: SpillStep | null;
  readonly to: SavedRows;
}

/** Takes a slot's rows from a checkpoint, in place of its first blocks. */
export interface LoadTask {
  readonly slot: number;
  readonly stateRows: number;
  /** Where the rows of a spilled slot are left. */
  readonly generation: Generation | null;
  readonly from: SavedRows;
}
