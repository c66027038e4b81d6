// The tables that a slot's results fill, slot after slot. They are written under temporary names and appear, durable,
// when the run closes them.
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { unshiftedMeanNorm2 } from '../operators/subspace-state.ts';
import { cutsOf } from '../operators/update-subspace.ts';
import { openTable, type Table } from '../sinks/parquet-table.ts';
import type { TableBatch } from '../sinks/tables.ts';
import type { FinalCoefficients } from './final-coefficients.ts';
import type { Plan } from './plan.ts';
import type { SlotHistory } from './slot-history.ts';
import {
  capturedShare,
  evrAtCuts,
  fullRank,
  isExact,
  isFrozen,
  meanOnlyShare,
  namedEvr,
  type SlotModels,
  slotModels,
  spectrumOf,
  summarise,
} from './slot-results.ts';
import type { SlotSummary } from './telemetry.ts';
import { SCORE_WIDTH, type SpooledUpdate } from './update-spool.ts';

const MODE = 'models';

export class SlotTables {
  readonly #plan: Plan;
  readonly #subspaces: Table<'subspaces'>;
  readonly #spectrum: Table<'spectrum'>;
  readonly #coefficients: Table<'coefficients'>;
  readonly #scores: Table<'scores'>;
  readonly #convergence: Table<'convergence'>;
  readonly #convergenceSpectrum: Table<'convergence_spectrum'>;
  readonly #modelSlots: Table<'model_slots'>;

  constructor(folder: string, plan: Plan) {
    this.#plan = plan;
    this.#subspaces = openTable(folder, 'subspaces');
    this.#spectrum = openTable(folder, 'spectrum');
    const most = Math.min(
      plan.config.rank,
      plan.models.length,
      Math.max(...plan.slots.map(({ features }) => features)),
    );
    this.#coefficients = openTable(folder, 'coefficients', {
      extraFloat32: Array.from({ length: most }, (_, j) => `c_${j}`),
    });
    this.#scores = openTable(folder, 'scores');
    this.#convergence = openTable(folder, 'convergence');
    this.#convergenceSpectrum = openTable(folder, 'convergence_spectrum');
    this.#modelSlots = openTable(folder, 'model_slots');
  }

  get #all() {
    return [
      this.#subspaces,
      this.#spectrum,
      this.#coefficients,
      this.#scores,
      this.#convergence,
      this.#convergenceSpectrum,
      this.#modelSlots,
    ];
  }

  /** @param skipped models that are not in this slot, with the reason */
  append(
    subspace: SubspaceEstimate,
    { updates, final }: SlotHistory,
    skipped: ReadonlyMap<number, string>,
  ): { readonly summary: SlotSummary; readonly models: SlotModels } {
    const summary = summarise(subspace, updates);
    this.#appendSpectrum(subspace, summary);
    this.#appendModels(subspace, final, updates);
    for (const update of updates) this.#appendBlock(subspace, update);
    this.#appendModelSlots(subspace, updates, skipped);
    return { summary, models: slotModels(final, updates) };
  }

  close(): void {
    for (const table of this.#all) table.close();
  }

  abort(): void {
    for (const table of this.#all) table.abort();
  }

  #appendSpectrum(subspace: SubspaceEstimate, summary: SlotSummary): void {
    const { slot, state, spec, rank } = subspace;
    const most = fullRank(subspace);
    const meanNorm2 = spec.shiftIsOrigin ? state.meanNorm2 : unshiftedMeanNorm2(state);
    this.#subspaces.append({
      slot_id: slot.id,
      mode: MODE,
      engine: subspace.engine,
      n_models: state.models,
      n_samples: state.models,
      features: slot.features,
      rank,
      state_rows: state.eigenvalues.length,
      total: state.total,
      total_uncentred: state.totalUncentred,
      mean_norm2: spec.center ? Math.max(meanNorm2, 0) : null,
      lost: state.lost,
      flat_evr: most > 0 ? rank / most : null,
      captured: summary.captured,
      mean_only: summary.mean_only,
      n_effective: null,
      components_90: summary.components_90,
      exactness: summary.exactness,
      passes: subspace.engine === 'exact' && this.#plan.config.basis ? 2 : 1,
      seed: null,
    });
    const kind = isExact(subspace) ? 'exact' : 'truncation';
    spectrumOf(subspace).forEach((row, component) => {
      this.#spectrum.append({
        slot_id: slot.id,
        mode: MODE,
        component,
        eigenvalue: row.eigenvalue,
        singular_value: Math.sqrt(row.eigenvalue),
        evr: row.evr,
        cumulative_evr: row.cumulative,
        bound_low: row.low,
        bound_high: row.high,
        bound_kind: kind,
      });
    });
  }

  #appendModels(
    { slot, spec, rank }: SubspaceEstimate,
    final: FinalCoefficients,
    updates: readonly SpooledUpdate[],
  ): void {
    const { modelIds, norm2, coordinates, captured2 } = final;
    const columns = Array.from({ length: rank }, (_, j) =>
      Float32Array.from(modelIds, (_id, i) => coordinates[i * rank + j]!),
    );
    this.#coefficients.append(
      {
        slot_id: slot.id,
        model_id: modelIds,
        norm2,
        residual2: norm2.map((total, i) => Math.max(total - captured2[i]!, 0)),
      },
      columns,
    );
    const score = (
      phase: string,
      block: number,
      model_id: number,
      centred: number,
      captured: number,
      raw: number,
    ): TableBatch<'scores'> => ({
      slot_id: slot.id,
      mode: MODE,
      model_id,
      phase,
      block,
      centred2: Number.isNaN(centred) ? null : centred,
      captured2: Number.isNaN(captured) ? null : captured,
      mean_only: spec.center && raw > 0 && !Number.isNaN(centred) ? 1 - centred / raw : null,
    });
    for (const { block, modelIds: ids, scores } of updates) {
      ids.forEach((model, i) => {
        const [centred, captured, raw] = scores.subarray(i * SCORE_WIDTH) as unknown as number[];
        this.#scores.append(score('prequential', block, model, centred!, captured!, raw!));
      });
    }
    let at = 0;
    for (const { block, modelIds: ids, scores } of updates) {
      ids.forEach((model, i) => {
        this.#scores.append(score('final', block, model, norm2[at]!, captured2[at]!, scores[i * SCORE_WIDTH + 2]!));
        at++;
      });
    }
  }

  #appendBlock(subspace: SubspaceEstimate, update: SpooledUpdate): void {
    const { slot, spec } = subspace;
    const drift = (cut: number, what: number): number | null => {
      const value = update.drift[cut * 3 + what]!;
      return Number.isNaN(value) || isFrozen(subspace) || cutsOf(spec.rank)[cut]! > spec.rank ? null : value;
    };
    const reported = update.eigenvalues.subarray(0, spec.rank);
    this.#convergence.append({
      slot_id: slot.id,
      mode: MODE,
      generation: 0,
      block: update.block,
      models_seen: update.modelsSeen,
      total: update.total,
      lost: update.lost,
      captured: isFrozen(subspace) ? null : capturedShare([update]),
      mean_only: spec.center ? meanOnlyShare(update) : null,
      ...namedEvr(isFrozen(subspace) ? [] : evrAtCuts(reported, update.total, spec.rank)),
      angle_max_1: drift(0, 0),
      angle_max_4: drift(1, 0),
      angle_max_16: drift(2, 0),
      angle_max_k: drift(3, 0),
      angle_mean_1: drift(0, 1),
      angle_mean_4: drift(1, 1),
      angle_mean_16: drift(2, 1),
      angle_mean_k: drift(3, 1),
      overlap_1: drift(0, 2),
      overlap_4: drift(1, 2),
      overlap_16: drift(2, 2),
      overlap_k: drift(3, 2),
    });
    this.#convergenceSpectrum.append({
      slot_id: slot.id,
      mode: MODE,
      models_seen: update.modelsSeen,
      component: Int32Array.from(reported, (_, component) => component),
      eigenvalue: reported,
    });
  }

  #appendModelSlots(
    { slot }: SubspaceEstimate,
    updates: readonly SpooledUpdate[],
    skipped: ReadonlyMap<number, string>,
  ): void {
    const seen = new Map<number, readonly [number, number]>();
    for (const { modelIds, scores } of updates) {
      modelIds.forEach(
        (model, i) => void seen.set(model, [scores[i * SCORE_WIDTH + 2]!, scores[i * SCORE_WIDTH + 3]!]),
      );
    }
    for (const model of this.#plan.models) {
      const known = seen.get(model.id);
      this.#modelSlots.append({
        slot_id: slot.id,
        model_id: model.id,
        status: known === undefined ? 'skipped' : 'used',
        reason: known === undefined ? (skipped.get(model.id) ?? null) : null,
        dtype: slot.tensorIn(model).dtype,
        lora_rank: null,
        lora_scale: null,
        raw_norm2: known?.[0] ?? null,
        mean_entry: known?.[1] ?? null,
      });
    }
  }
}
