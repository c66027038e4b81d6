// A run of three slots as the telemetry lane tells it, with numbers that can be followed by eye.
import type { SlotProgress, SlotSummary, TelemetryEvent } from '../../pipeline/telemetry.ts';

const unscored = { captured: null, mean_only: null, components_90: null, scree: [] };

export const slots: readonly SlotProgress[] = [
  {
    slot: 'encoder.layer.0.weight',
    rank: 8,
    evr_1: 0.4,
    evr_4: 0.6,
    evr_16: 0.8,
    evr_k: 0.9,
    drift: 3.25,
    ...unscored,
  },
  {
    slot: 'encoder.layer.1.weight',
    rank: 8,
    evr_1: 0.2,
    evr_4: 0.3,
    evr_16: 0.4,
    evr_k: 0.5,
    drift: 12.5,
    ...unscored,
  },
  { slot: 'classifier.weight', rank: 8, evr_1: 0.1, evr_4: 0.15, evr_16: null, evr_k: 0.2, drift: null, ...unscored },
];

export const plan: Extract<TelemetryEvent, { type: 'plan' }> = {
  type: 'plan',
  models: 1024,
  slots: 3,
  leftOut: 1,
  skipped: 0,
  groups: 2,
  bytesToRead: 8e9,
  device: 'blas: OpenBLAS 0.3.21',
  threads: 2,
  memory: 4e9,
};

export function block(change: Partial<Extract<TelemetryEvent, { type: 'block' }>> = {}): TelemetryEvent {
  return {
    type: 'block',
    group: 0,
    groups: 2,
    block: 15,
    blocks: 32,
    modelsSeen: 512,
    models: 1024,
    bytesRead: 2e9,
    bytesToRead: 8e9,
    seconds: 4,
    slots,
    ...change,
  };
}

export function summaryOf(slot: string, change: Partial<SlotSummary> = {}): SlotSummary {
  return {
    slot,
    mode: 'models',
    rows: 64,
    cols: 64,
    models: 128,
    rank: 32,
    evr_1: 0.412,
    evr_4: 0.613,
    evr_16: 0.801,
    evr_k: 0.913,
    flat_evr: 0.252,
    components_90: 24,
    captured: 0.88,
    mean_only: 0.1,
    scree: [8, 4, 2, 1, 0],
    exactness: 'exact',
    ...change,
  };
}

export function done(change: Partial<Extract<TelemetryEvent, { type: 'done' }>> = {}) {
  return {
    type: 'done' as const,
    out: 'runs/vit',
    models: 128,
    slots: [
      summaryOf('encoder.layer.0.weight'),
      summaryOf('head', { rows: 1, cols: 10, evr_k: 0.26, components_90: null, captured: null }),
    ],
    warnings: [],
    bytesRead: 4e9,
    fit_s: 4,
    tables_s: 4.5,
    flops: 1e12,
    device: 'blas: OpenBLAS 0.3.21',
    ...change,
  };
}
