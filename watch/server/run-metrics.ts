// What `/metrics` says: the state of a run in Prometheus' text format, made by Effect of gauges in a registry of their own, anew
// for every request. Counts are gauges too: a resumed run goes back to its checkpoint. Costs some 20 ms for 150 slots.
import { Context, Metric } from 'effect';
import { PrometheusMetrics } from 'effect/observability';
import { slotTag } from '../../sinks/slot-tag.ts';
import type { RunAnswer } from '../view/answers.ts';
import type { Rates } from '../view/rate-meter.ts';
import { type RunState, statusOf } from '../view/run-view.ts';

export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** Slots beyond these are left out, and counted. */
const MOST_SLOTS = 2_000;

const STATES: readonly RunState[] = ['waiting', 'empty', 'running', 'finished', 'failed', 'interrupted'];

export function renderMetrics({ name, now, status, view }: RunAnswer, rates: Rates | null): string {
  const registry = Context.make(Metric.MetricRegistry, new Map());
  const gauge = (
    id: string,
    description: string,
    value: number | null | undefined,
    labels: Readonly<Record<string, string>> = {},
  ): void => {
    if (value === null || value === undefined || !Number.isFinite(value)) return;
    const attributes = { run: slotTag(name), ...labels };
    Metric.gauge(`weightspan_${id}`, { description, attributes }).updateUnsafe(value, registry);
  };
  const { plan, progress, checkpoint } = view;
  for (const state of STATES)
    gauge('state', '1 for the state that the run is in.', state === status.state ? 1 : 0, {
      state: state === 'empty' ? 'starting' : state,
    });
  gauge('models', 'Models to fold.', progress?.models ?? plan?.models);
  gauge('models_folded', 'Models folded in the running group of slots.', progress?.modelsSeen);
  gauge('read_bytes', 'Bytes of weights read.', progress?.bytesRead);
  gauge('to_read_bytes', 'Bytes of weights to read in all.', progress?.bytesToRead ?? plan?.bytesToRead);
  gauge('elapsed_seconds', 'Seconds of work since the first read.', progress?.seconds);
  gauge('groups', 'Groups of slots, one streamed after the other.', progress?.groups ?? plan?.groups);
  gauge('group', 'The running group, from 1.', progress === null ? null : progress.group + 1);
  gauge('blocks', 'Blocks of models in the running group.', progress?.blocks);
  gauge('blocks_folded', 'Blocks folded in the running group.', progress === null ? null : progress.block + 1);
  if (status.state === 'running' && rates !== null && progress !== null) {
    gauge('read_bytes_per_second', 'Rate of reading over the last half minute.', rates.bytes);
    gauge('models_per_second', 'Rate of folding over the last half minute.', rates.models);
    const left = (progress.bytesToRead - progress.bytesRead) / rates.bytes;
    gauge('eta_seconds', 'Seconds until all weights are read, at that rate.', left);
  }
  gauge('resident_memory_bytes', 'Resident memory of the process that writes the run.', status.memory);
  gauge('memory_budget_bytes', 'What --memory allows for weights and states.', plan?.memory);
  if (checkpoint !== null && status.state !== 'finished')
    gauge(
      'checkpoint_age_seconds',
      'Seconds since the newest checkpoint.',
      Math.max(0, Date.parse(now) - Date.parse(checkpoint.time)) / 1e3,
    );
  gauge(
    'warnings',
    'Warnings, of slots and models together.',
    view.warnings.reduce((sum, { count }) => sum + count, 0),
  );
  gauge('skipped', 'Models, or models in a slot, that were left out.', view.skipped);

  const statuses = view.slots.map(statusOf);
  for (const one of ['not started', 'moving', 'settled'] as const)
    gauge('slots', 'Slots, of all modes, by how they stand.', statuses.filter((status) => status === one).length, {
      status: one,
    });
  gauge('slots_left_out', 'Slots of which nothing is said below.', Math.max(0, view.slots.length - MOST_SLOTS));
  for (const [i, slot] of view.slots.slice(0, MOST_SLOTS).entries()) {
    if (slot.models === 0) continue;
    const labels = { slot: slotTag(slot.name), mode: slot.mode };
    for (const cut of ['1', '4', '16', 'k'] as const)
      gauge('slot_evr', 'Share of the variance that the first directions explain.', slot[`evr_${cut}`], {
        ...labels,
        cut,
      });
    gauge('slot_flat_evr', 'What k directions would explain without any structure.', slot.flat, labels);
    gauge(
      'slot_drift_degrees',
      'Largest principal angle of the first 4 directions against the block before.',
      slot.drift,
      labels,
    );
    gauge('slot_captured', 'Share of new models that lay in the subspace before them.', slot.captured, labels);
    gauge('slot_mean_only', 'Share that the mean alone accounts for.', slot.mean_only, labels);
    gauge('slot_components_90', 'Directions that reach 90% of the variance.', slot.components_90, labels);
    gauge('slot_models', 'Models folded into the slot.', slot.models, labels);
    gauge('slot_settled', '1 for a slot that has settled.', statuses[i] === 'settled' ? 1 : 0, labels);
  }
  return PrometheusMetrics.formatUnsafe(registry);
}
