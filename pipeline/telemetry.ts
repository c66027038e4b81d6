// The telemetry lane: what the pipeline tells people while it works. Push, lossy for the viewer, never waits.
// Sinks (terminal, events.ndjson, --json) subscribe, and `watch` reads events.ndjson; nothing of a result depends on them.
import type { ModeName } from '../configs/schema.ts';

/** The explained variance ratios at the cuts 1, 4, 16 and k; null where the slot has no such component. */
export interface EvrAtCuts {
  readonly evr_1: number | null;
  readonly evr_4: number | null;
  readonly evr_16: number | null;
  readonly evr_k: number | null;
}

/** How far a run is, after a block. Groups and blocks count from 0. */
export interface RunProgress {
  readonly group: number;
  readonly groups: number;
  readonly block: number;
  readonly blocks: number;
  /** Models folded so far in this group, and in all. */
  readonly modelsSeen: number;
  readonly models: number;
  /** Weight bytes streamed so far, over all groups. */
  readonly bytesRead: number;
  readonly bytesToRead: number;
  /** Seconds since the first read. */
  readonly seconds: number;
}

export interface SlotProgress extends EvrAtCuts {
  readonly slot: string;
  /** Directions found so far, at most k. */
  readonly rank: number;
  /** Largest principal angle (degrees) of the first four directions against the block before; null in the first block. */
  readonly drift: number | null;
  /** Of the block's models, each as it was before it was folded. Null in the first block. */
  readonly captured: number | null;
  readonly mean_only: number | null;
  /** Components that explain 90%; null when more than are kept. */
  readonly components_90: number | null;
  /** The first eigenvalues over the total, at most 16, to four digits. */
  readonly scree: readonly number[];
}

export interface SlotSummary extends EvrAtCuts {
  readonly slot: string;
  readonly mode: ModeName;
  readonly rows: number;
  readonly cols: number;
  readonly models: number;
  readonly rank: number;
  /** k over the most directions there can be (N - 1 or D, in mode models): what a spectrum without structure would show at k. */
  readonly flat_evr: number | null;
  /** Components that explain 90%; null when more than were kept. */
  readonly components_90: number | null;
  readonly captured: number | null;
  readonly mean_only: number | null;
  /** The first eigenvalues over the total, at most 16, for the scree bar. */
  readonly scree: readonly number[];
  readonly exactness: 'exact' | 'bounded' | 'estimated';
  /** Mode models, where all three modes were asked for. */
  readonly core?: CoreSummary;
}

/** The smallest ranks listed in core.parquet that keep 90% of the scatter, by the number of entries in the core. */
export interface CoreSummary {
  /** Of the modes models, rows and cols; null where none of those listed do. */
  readonly ranks: readonly [models: number, rows: number, cols: number] | null;
  /** Whether the core tensor tells; else ranks for which the three spectra promise it. */
  readonly isMeasured: boolean;
}

export interface Warning {
  readonly code: string;
  readonly slot: string | null;
  readonly model: string | null;
  readonly value: number | null;
  /** What is to be said, without the slot and the value: what holds of many slots reads the same in each. */
  readonly text: string;
}

/** Warnings that say the same of several slots or models. */
export interface WarningGroup {
  readonly code: string;
  readonly text: string;
  readonly of: 'slot' | 'model' | null;
  readonly count: number;
  /** The first few of those slots or models. */
  readonly names: readonly string[];
}

export type TelemetryEvent =
  | {
      readonly type: 'plan';
      readonly models: number;
      readonly slots: number;
      readonly leftOut: number;
      readonly skipped: number;
      readonly groups: number;
      readonly bytesToRead: number;
      readonly device: string;
      readonly threads: number;
      readonly memory: number;
    }
  | { readonly type: 'group'; readonly group: number; readonly groups: number; readonly slots: number }
  | ({ readonly type: 'block'; readonly slots: readonly SlotProgress[] } & RunProgress)
  | { readonly type: 'skip'; readonly model: string; readonly slot: string | null; readonly reason: string }
  | { readonly type: 'warning'; readonly warning: Warning }
  /** The tables so far, in a folder of the run's. */
  | { readonly type: 'snapshot'; readonly folder: string; readonly modelsSeen: number }
  /** A run goes on from a checkpoint. */
  | {
      readonly type: 'resumed';
      readonly checkpoint: number;
      readonly groups: number;
      /** Groups done, and of the next one its blocks and models. */
      readonly group: number;
      readonly block: number;
      readonly modelsSeen: number;
      readonly bytesRead: number;
      readonly seconds: number;
      /** Blocks that had been folded after it, and are again. */
      readonly lost: number;
      /** Checkpoints that could not be used, and why. */
      readonly damages: readonly string[];
    }
  | { readonly type: 'checkpoint'; readonly checkpoint: number; readonly seconds: number }
  /** A signal asked the run to stop; it can go on from here. */
  | {
      readonly type: 'stopped';
      readonly signal: string;
      readonly bytesRead: number;
      readonly bytesToRead: number;
      readonly seconds: number;
    }
  /** Something beside the run that people should know of; not in the log, since no result and nobody later needs it. */
  | { readonly type: 'notice'; readonly text: string }
  | { readonly type: 'write'; readonly file: string; readonly bytes: number }
  | {
      readonly type: 'done';
      readonly out: string;
      readonly models: number;
      readonly slots: readonly SlotSummary[];
      readonly warnings: readonly WarningGroup[];
      readonly bytesRead: number;
      /** Seconds: first read to last mix; first read to the last durable table. */
      readonly fit_s: number;
      readonly tables_s: number;
      /** Floating point operations of the products. */
      readonly flops: number;
      readonly device: string;
    }
  | { readonly type: 'failed'; readonly error: string; readonly message: string };

/** An event as it stands in events.ndjson: its number, and when. */
export type LoggedEvent = TelemetryEvent & { readonly seq: number; readonly time: string };

/** Takes events; must return at once. */
export type Telemetry = (event: TelemetryEvent) => void;
