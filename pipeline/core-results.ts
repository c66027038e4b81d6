// The rows of core.parquet: what the leading directions of the three modes keep together of a slot's scatter, as the core
// tensor tells, and between which bounds the three spectra alone put it. The definitions are those of docs/run-folder.md.
// Source: the truncated HOSVD loses at most what its modes lose together, De Lathauwer, De Moor & Vandewalle 2000, prop. 10.
import { type CoreEnergy, coreGrid, type MultilinearRanks } from '../operators/core-tensor.ts';
import type { TableBatch } from '../sinks/tables.ts';
import type { TableRows } from './run-journal.ts';
import type { CoreSummary, SlotSummary } from './telemetry.ts';

/** The first k directions of a mode. */
export interface CoreMode {
  readonly rank: number;
  /** Exact scatter. */
  readonly total: number;
  /** Of at least `rank` eigenvalues. */
  readonly bounds: readonly { readonly low: number; readonly high: number }[];
}

export type CoreModes = Readonly<Record<keyof MultilinearRanks, CoreMode>>;

/** The bounds that three spectra imply on the energy at some ranks. */
export const coreBounds = (
  modes: CoreModes,
  ranks: MultilinearRanks,
): { readonly low: number; readonly high: number } => {
  const { total } = modes.models;
  let low = total;
  let high = total;
  for (const mode of ['models', 'rows', 'cols'] as const) {
    const kept = modes[mode].bounds.slice(0, ranks[mode]);
    low -= Math.max(total - kept.reduce((sum, bound) => sum + bound.low, 0), 0);
    high = Math.min(
      high,
      kept.reduce((sum, bound) => sum + bound.high, 0),
    );
  }
  return { low: Math.max(low, 0), high };
};

/** @param core null where there is no core tensor; @param frozen whether ratios mean nothing */
export const coreBatch = (
  slot_id: number,
  modes: CoreModes,
  core: readonly CoreEnergy[] | null,
  frozen: boolean,
): TableBatch<'core'> => {
  const { total } = modes.models;
  const grid = coreGrid({ models: modes.models.rank, rows: modes.rows.rank, cols: modes.cols.rank });
  const bounds = grid.map((ranks) => coreBounds(modes, ranks));
  const energies = grid.map((_, i) => core?.[i]?.energy ?? null);
  return {
    slot_id,
    rank_models: grid.map(({ models }) => models),
    rank_rows: grid.map(({ rows }) => rows),
    rank_cols: grid.map(({ cols }) => cols),
    energy: energies,
    share: energies.map((energy) => (frozen || energy === null ? null : energy / total)),
    bound_low: bounds.map(({ low }) => low),
    bound_high: bounds.map(({ high }) => high),
    share_low: bounds.map(({ low }) => (frozen ? null : low / total)),
    share_high: bounds.map(({ high }) => (frozen ? null : high / total)),
  };
};

/** Gathers from rows on their way into the tables what the core tensor is judged by, and what is to be said of it. */
export class CoreResults {
  readonly #models = new Map<number, { rank: number; total: number; bounds: { low: number; high: number }[] }>();
  readonly #smallest = new Map<number, CoreSummary>();

  see({ table, batch }: TableRows): void {
    if (table === 'subspaces' && batch.mode === 'models') {
      const { slot_id, rank, total } = batch as unknown as { slot_id: number; rank: number; total: number };
      this.#models.set(slot_id, { rank, total, bounds: [] });
    } else if (table === 'spectrum' && batch.mode === 'models') {
      const row = batch as unknown as { slot_id: number; bound_low: number; bound_high: number };
      this.#models.get(row.slot_id)?.bounds.push({ low: row.bound_low, high: row.bound_high });
    } else if (table === 'core') {
      const { slot_id } = batch as unknown as { slot_id: number };
      this.#smallest.set(slot_id, smallestRanks(batch as unknown as ReturnType<typeof coreBatch>));
    }
  }

  /** Mode models of a slot, whose rows were seen; undefined where it has none. */
  modelsOf(slotId: number): CoreMode | undefined {
    return this.#models.get(slotId);
  }

  summaryOf(slotId: number): CoreSummary | undefined {
    return this.#smallest.get(slotId);
  }
}

/** Of the listed ranks that keep 90% for certain those with the fewest entries in the core. */
const smallestRanks = (batch: ReturnType<typeof coreBatch>): CoreSummary => {
  const { rank_models, rank_rows, rank_cols, share, share_low } = batch as unknown as Record<string, ArrayLike<number>>;
  const isMeasured = (share![0] ?? null) !== null;
  const kept = isMeasured ? share! : share_low!;
  let ranks: CoreSummary['ranks'] = null;
  let least = Infinity;
  for (let i = 0; i < rank_models!.length; i++) {
    const some = [rank_models![i]!, rank_rows![i]!, rank_cols![i]!] as const;
    const entries = some[0] * some[1] * some[2];
    if (!(kept[i]! >= 0.9) || entries >= least) continue;
    [ranks, least] = [some, entries];
  }
  return { ranks, isMeasured };
};

/** Summaries of mode models with what is known of the slot's core tensor. */
export const withCores = (
  summaries: readonly SlotSummary[],
  slots: readonly { readonly id: number; readonly name: string }[],
  tables: { coreOf(slotId: number): CoreSummary | undefined },
): readonly SlotSummary[] => {
  const idOf = new Map(slots.map(({ id, name }) => [name, id]));
  return summaries.map((summary) => {
    const core = summary.mode === 'models' ? tables.coreOf(idOf.get(summary.slot) ?? -1) : undefined;
    return core === undefined ? summary : { ...summary, core };
  });
};
