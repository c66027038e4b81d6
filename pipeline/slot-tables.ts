// The tables that a slot's results fill, slot after slot. They are written under temporary names and appear, durable,
// when the run closes them.
import { type ModeName, modeNames } from '../configs/schema.ts';
import type { ModesOfSlot } from '../operators/exact-modes.ts';
import { type SlotEnergies, sideOf } from '../operators/mode-scatter.ts';
import type { SubspaceEstimate } from '../operators/subspace.ts';
import { unshiftedMeanNorm2 } from '../operators/subspace-state.ts';
import { cutsOf } from '../operators/update-subspace.ts';
import { openTable, type Table } from '../sinks/parquet-table.ts';
import type { TableBatch, TableName } from '../sinks/tables.ts';
import type { PlannedSlot } from '../sources/reading-plan.ts';
import { passesOver, sideModesOf, sidePasses } from './choose-engine.ts';
import { CoreResults, coreBatch } from './core-results.ts';
import type { FinalCoefficients } from './final-coefficients.ts';
import {
  boundKindOfMode,
  isFrozenMode,
  type ModeResult,
  modeResults,
  spectrumOfMode,
  summariseMode,
} from './mode-results.ts';
import { generationOfBlock, type Plan } from './plan.ts';
import type { TableRows } from './run-journal.ts';
import type { SlotHistory } from './slot-history.ts';
import {
  boundKind,
  capturedShare,
  evrAtCuts,
  fullRank,
  isFrozen,
  meanOnlyShare,
  namedEvr,
  type SlotModels,
  type SpectrumRow,
  slotModels,
  spectrumOf,
  summarise,
} from './slot-results.ts';
import type { CoreSummary, SlotSummary } from './telemetry.ts';
import { SCORE_WIDTH, type SpooledUpdate } from './update-spool.ts';

const MODE = 'models';

type Appender<N extends TableName> = Pick<Table<N>, 'append'>;

interface StreamTables {
  readonly coefficients: Appender<'coefficients'>;
  readonly scores: Appender<'scores'>;
  readonly convergence: Appender<'convergence'>;
  readonly convergenceSpectrum: Appender<'convergence_spectrum'>;
}

/** A table by what `TableRows` knows of it. */
interface AnyTable {
  append(batch: TableRows['batch'], extra?: TableRows['extra']): void;
  close(): void;
  abort(): void;
}

export interface SlotTablesOptions {
  /** All that were asked for, or what a snapshot shows. */
  readonly modes?: 'all' | 'models';
  /** Sees all rows, in order. */
  readonly record?: (rows: TableRows) => void;
  /** How many independent models some are worth, by their ids; null where nobody knows. */
  readonly effective?: (ids: ArrayLike<number>) => number | null;
}

export class SlotTables {
  readonly #plan: Plan;
  readonly #effective: NonNullable<SlotTablesOptions['effective']>;
  readonly #subspaces: Appender<'subspaces'>;
  readonly #spectrum: Appender<'spectrum'>;
  readonly #modelSlots: Appender<'model_slots'>;
  /** Tables of mode models alone; null where it was not asked for. */
  readonly #stream: StreamTables | null;
  /** Null where the modes rows and cols, or their energies, were not asked for. */
  readonly #energies: Appender<'energies'> | null;
  /** Null where not all three modes were asked for. */
  readonly #core: Appender<'core'> | null;
  readonly #coreResults = new CoreResults();
  readonly #tables = new Map<TableName, AnyTable>();
  readonly #record: (rows: TableRows) => void;
  /** Rows of the modes rows and cols that stand behind those of mode models, whatever is found first. */
  readonly #later: TableRows[] = [];
  #isLater = false;

  constructor(
    folder: string,
    plan: Plan,
    { modes = 'all', record = () => {}, effective = () => null }: SlotTablesOptions = {},
  ) {
    this.#plan = plan;
    this.#record = record;
    this.#effective = effective;
    const open = <N extends TableName>(name: N, extraFloat32: readonly string[] = []): Appender<N> => {
      this.#tables.set(name, openTable(folder, name, { extraFloat32 }) as unknown as AnyTable);
      return { append: (batch, extra) => this.#put({ table: name, batch, ...(extra === undefined ? {} : { extra }) }) };
    };
    this.#subspaces = open('subspaces');
    this.#spectrum = open('spectrum');
    this.#modelSlots = open('model_slots');
    const { mode, rank } = plan.config;
    const widest = (of: (slot: PlannedSlot) => number): number =>
      plan.slots.reduce((most, slot) => Math.max(most, Math.min(rank, of(slot))), 0);
    const columns = (name: string, count: number): string[] => Array.from({ length: count }, (_, j) => `${name}_${j}`);
    const most = widest(({ features }) => Math.min(features, plan.models.length));
    this.#stream = mode.includes('models')
      ? {
          coefficients: open('coefficients', columns('c', most)),
          scores: open('scores'),
          convergence: open('convergence'),
          convergenceSpectrum: open('convergence_spectrum'),
        }
      : null;
    const sides = modes === 'all' && plan.config.energies ? sideModesOf(plan.config) : [];
    const longest = widest((slot) => Math.max(0, ...sides.map((name) => sideOf(name, slot))));
    this.#energies = sides.length === 0 ? null : open('energies', columns('e', longest));
    this.#core = modes === 'all' && mode.length === modeNames.length ? open('core') : null;
  }

  /** Appends rows that a run before this one recorded. */
  replay(rows: TableRows): void {
    if (rows.later === true) this.#later.push(rows);
    else this.#append(rows);
  }

  #put(rows: TableRows): void {
    const placed: TableRows = this.#isLater ? { ...rows, later: true } : rows;
    this.#record(placed);
    this.replay(placed);
  }

  #append(rows: TableRows): void {
    this.#coreResults.see(rows);
    this.#tables.get(rows.table)!.append(rows.batch, rows.extra);
  }

  /** @param skipped models that are not in this slot, with the reason */
  append(
    subspace: SubspaceEstimate,
    history: SlotHistory,
    skipped: ReadonlyMap<number, string>,
  ): { readonly summary: SlotSummary; readonly models: SlotModels } {
    const summary = this.appendSum(subspace, history);
    const models = slotModels(history.final, history.updates);
    this.#appendModelSlots(subspace.slot, models, skipped);
    return { summary, models };
  }

  /**
   * A slot's modes rows and cols.
   * @param skipped models that are not in this slot, with the reason
   */
  appendModes(found: ModesOfSlot, skipped: ReadonlyMap<number, string>): readonly SlotSummary[] {
    const results = modeResults(found, this.#plan.config);
    this.#isLater = true;
    const effective = this.#effective(found.models.map(({ id }) => id));
    for (const result of results) this.#appendMode(result, effective);
    this.#isLater = false;
    if (found.energies !== null) this.#appendEnergies(found, found.energies);
    this.#appendCore(found, results);
    if (this.#stream === null) {
      const modelIds = Int32Array.from(found.models, ({ id }) => id);
      this.#appendModelSlots(found.slot, { ...found, modelIds }, skipped);
    }
    return results.map(summariseMode);
  }

  #appendMode(result: ModeResult, effective: number | null): void {
    const { slot, spectrum, models, center, totalUncentred } = result;
    const { mode, side, samples, rank, total, engine } = spectrum;
    const summary = summariseMode(result);
    this.#subspaces.append({
      slot_id: slot.id,
      mode,
      engine,
      n_models: models,
      n_samples: samples,
      features: side,
      rank,
      state_rows: null,
      total,
      total_uncentred: totalUncentred,
      mean_norm2: center ? Math.max(totalUncentred - total, 0) / models : null,
      lost: 0,
      flat_evr: summary.flat_evr,
      captured: null,
      mean_only: summary.mean_only,
      n_effective: effective,
      components_90: summary.components_90,
      exactness: summary.exactness,
      passes: sidePasses(this.#plan.config),
      seed: null,
    });
    this.#appendSpectrumRows(slot, mode, spectrumOfMode(result), boundKindOfMode(spectrum));
  }

  #appendCore({ slot, core }: ModesOfSlot, results: readonly ModeResult[]): void {
    const models = this.#coreResults.modelsOf(slot.id);
    const [rows, cols] = (['rows', 'cols'] as const).map((mode) => {
      const result = results.find(({ spectrum }) => spectrum.mode === mode);
      if (result === undefined) return undefined;
      const { rank, total } = result.spectrum;
      return { rank, total, bounds: spectrumOfMode(result) };
    });
    if (this.#core === null || models === undefined || rows === undefined || cols === undefined) return;
    if (Math.min(models.rank, rows.rank, cols.rank) === 0) return;
    this.#core.append(coreBatch(slot.id, { models, rows, cols }, core, results.some(isFrozenMode)));
  }

  /** What the summary says of a slot's core tensor; undefined where it has none. */
  coreOf(slotId: number): CoreSummary | undefined {
    return this.#coreResults.summaryOf(slotId);
  }

  #appendEnergies({ slot, models, spectra }: ModesOfSlot, { norm2, modes }: SlotEnergies): void {
    const model_id = Int32Array.from(models, ({ id }) => id);
    for (const { mode, energies } of modes) {
      const { rank } = spectra.find((spectrum) => spectrum.mode === mode)!;
      const columns = Array.from({ length: rank }, (_, j) =>
        Float32Array.from(models, (_model, i) => energies[i * rank + j]!),
      );
      this.#energies!.append({ slot_id: slot.id, mode, model_id, norm2 }, columns);
    }
  }

  /** All that is not about the slot's own tensors: several slots as one have no more. */
  appendSum(estimate: SubspaceEstimate, { updates, final }: SlotHistory): SlotSummary {
    const summary = summarise(estimate, updates);
    this.#appendSpectrum(estimate, summary, this.#effective(final.modelIds));
    this.#appendModels(this.#stream!, estimate, final, updates);
    for (const update of updates) this.#appendBlock(this.#stream!, estimate, update);
    return summary;
  }

  close(): void {
    for (const rows of this.#later) this.#append(rows);
    for (const table of this.#tables.values()) table.close();
  }

  abort(): void {
    for (const table of this.#tables.values()) table.abort();
  }

  #appendSpectrum(subspace: SubspaceEstimate, summary: SlotSummary, effective: number | null): void {
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
      n_effective: effective,
      components_90: summary.components_90,
      exactness: summary.exactness,
      passes: passesOver(subspace.engine, this.#plan.basis, this.#plan.config),
      seed: subspace.engine === 'randomized' ? this.#plan.config.seed : null,
    });
    this.#appendSpectrumRows(slot, MODE, spectrumOf(subspace), boundKind(subspace));
  }

  #appendSpectrumRows(slot: PlannedSlot, mode: ModeName, rows: readonly SpectrumRow[], kind: string): void {
    rows.forEach((row, component) => {
      this.#spectrum.append({
        slot_id: slot.id,
        mode,
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
    tables: StreamTables,
    { slot, spec, rank }: SubspaceEstimate,
    final: FinalCoefficients,
    updates: readonly SpooledUpdate[],
  ): void {
    const { modelIds, norm2, coordinates, captured2 } = final;
    const columns = Array.from({ length: rank }, (_, j) =>
      Float32Array.from(modelIds, (_id, i) => coordinates[i * rank + j]!),
    );
    tables.coefficients.append(
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
        tables.scores.append(score('prequential', block, model, centred!, captured!, raw!));
      });
    }
    let at = 0;
    for (const { block, modelIds: ids, scores } of updates) {
      ids.forEach((model, i) => {
        tables.scores.append(score('final', block, model, norm2[at]!, captured2[at]!, scores[i * SCORE_WIDTH + 2]!));
        at++;
      });
    }
  }

  #appendBlock(tables: StreamTables, subspace: SubspaceEstimate, update: SpooledUpdate): void {
    const { slot, spec } = subspace;
    const drift = (cut: number, what: number): number | null => {
      const value = update.drift[cut * 3 + what]!;
      return Number.isNaN(value) || isFrozen(subspace) || cutsOf(spec.rank)[cut]! > spec.rank ? null : value;
    };
    const reported = update.eigenvalues.subarray(0, spec.rank);
    tables.convergence.append({
      slot_id: slot.id,
      mode: MODE,
      generation: generationOfBlock(this.#plan, update.block),
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
    tables.convergenceSpectrum.append({
      slot_id: slot.id,
      mode: MODE,
      models_seen: update.modelsSeen,
      component: Int32Array.from(reported, (_, component) => component),
      eigenvalue: reported,
    });
  }

  /** @param models those that are in */
  #appendModelSlots(
    slot: PlannedSlot,
    { modelIds, rawNorm2, meanEntry }: Pick<SlotModels, 'modelIds' | 'rawNorm2' | 'meanEntry'>,
    skipped: ReadonlyMap<number, string>,
  ): void {
    const place = new Map(Array.from(modelIds, (id, i) => [id, i]));
    for (const model of this.#plan.models) {
      const at = place.get(model.id);
      const { dtype, lora } = slot.tensorIn(model);
      this.#modelSlots.append({
        slot_id: slot.id,
        model_id: model.id,
        status: at === undefined ? 'skipped' : 'used',
        reason: at === undefined ? (skipped.get(model.id) ?? null) : null,
        dtype,
        lora_rank: lora?.rank ?? null,
        lora_scale: lora?.scale ?? null,
        raw_norm2: at === undefined ? null : rawNorm2[at]!,
        mean_entry: at === undefined ? null : meanEntry[at]!,
      });
    }
  }
}
