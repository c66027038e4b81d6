// What a pool of tiles and its worker threads say to each other.
import type { Dealt } from './deal-tiles.ts';
import type { DeviceSpec } from './devices/device-spec.ts';
import type { TensorConnection } from './devices/tensor-messages.ts';
import type { ScatterTask } from './scatter-tasks.ts';
import type {
  FetchTask,
  FinishTask,
  LoadTask,
  ProjectTask,
  SaveTask,
  ScanTask,
  SlotLayout,
  VisitTask,
} from './tile-tasks.ts';
import type { TimeSpent } from './time-spent.ts';

/** What every worker is told at birth. */
export interface TileWorkerData {
  readonly device: DeviceSpec;
  /** Where its time is counted. */
  readonly spent: TimeSpent;
  /** To the thread that holds the GPU, where the device is one. */
  readonly connection: TensorConnection | null;
}

/** What a worker says once its device is open, or will never be. */
export const OPENED = 'opened';

/** Adds some cells of tiles' Grams to their sums, in the order of tiles. */
export interface AddTask {
  /** (tiles + 1) x cells float64: the sums come last. */
  readonly grams: SharedArrayBuffer;
  readonly tiles: number;
  readonly cells: number;
  readonly from: number;
  readonly to: number;
}

/** How many tiles of a task have been taken, one int32, where several threads have the same tiles; null where each has its own. */
export type TileQueue = SharedArrayBuffer | null;

/** Work on a slot's tiles. */
export type SlotRequest =
  /** With memory for the Grams of the task's tiles, where they are too many to be sent. */
  | { readonly kind: 'visit'; readonly task: VisitTask; readonly grams: SharedArrayBuffer | null }
  | { readonly kind: 'scan'; readonly task: ScanTask }
  | { readonly kind: 'finish'; readonly task: FinishTask }
  | { readonly kind: 'project'; readonly task: ProjectTask }
  | { readonly kind: 'fetch'; readonly task: FetchTask }
  | { readonly kind: 'save'; readonly task: SaveTask }
  | { readonly kind: 'load'; readonly task: LoadTask };

export type TileRequest =
  | ({ readonly kind: 'open'; readonly slots: readonly SlotLayout[] } & Dealt)
  | (SlotRequest & { readonly queue: TileQueue })
  | { readonly kind: 'add'; readonly task: AddTask }
  | { readonly kind: 'scatter'; readonly task: ScatterTask }
  /** The eigenpairs of an n x n matrix, and the first so many vectors. */
  | { readonly kind: 'solve'; readonly matrix: Float64Array; readonly n: number; readonly vectors: number }
  | { readonly kind: 'ready' }
  /** Gives all tiles up, and what they are on. */
  | { readonly kind: 'close' };
