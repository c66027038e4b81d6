// What the server answers and the page reads.
import type { RunState, RunView, SlotView } from './run-view.ts';

export interface RunStatus {
  readonly state: RunState;
  /** What there is to say about it, for a person. */
  readonly text: string;
  /** Who writes it, where that is known. */
  readonly owner: string | null;
  /** Resident bytes of the process that writes it, where it runs on this machine. */
  readonly memory: number | null;
}

/** What was asked of the run. */
export interface RunSettings {
  readonly config: Readonly<Record<string, unknown>>;
  readonly device: Readonly<Record<string, unknown>>;
  readonly runId: string | null;
}

/** What `/api/run` says. */
export interface RunAnswer {
  /** Of the last event that is in it. */
  readonly id: string;
  readonly name: string;
  readonly run: string;
  readonly now: string;
  readonly status: RunStatus;
  readonly settings: RunSettings | null;
  readonly view: RunView;
}

/** By columns; null is what is not known. */
export type Curves = Readonly<Record<string, readonly (number | null)[]>>;

export interface SpectrumPoint {
  readonly eigenvalue: number;
  readonly evr: number | null;
  readonly cumulative: number | null;
  /** Bounds as shares of the total; null where the total is none. */
  readonly low: number | null;
  readonly high: number | null;
}

export interface ModelPoint {
  readonly name: string;
  readonly coordinates: readonly number[];
  readonly norm2: number | null;
  readonly residual2: number | null;
  readonly captured: number | null;
}

export interface SlotDetail {
  readonly slot: SlotView;
  /** What the numbers are from: the finished tables, a snapshot, or the events alone. */
  readonly from: 'tables' | 'snapshot' | 'events';
  /** Models folded where `from` was made. */
  readonly asOf: number;
  readonly curves: Curves;
  readonly spectrum: readonly SpectrumPoint[];
  readonly boundKind: string | null;
  readonly models: readonly ModelPoint[];
  /** Models that were left out of the picture because there are so many. */
  readonly modelsLeftOut: number;
  readonly total: number | null;
  readonly warnings: readonly string[];
}
