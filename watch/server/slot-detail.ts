// Everything a slot's page shows beyond the overview: from the tables of a finished run, else from the newest snapshot that
// has the slot, else from the events so far.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Curves, ModelPoint, SlotDetail, SpectrumPoint } from '../view/answers.ts';
import type { SlotView } from '../view/run-view.ts';
import { type Row, RunTables } from './run-tables.ts';

const MOST_MODELS = 20_000;
const MOST_COMPONENTS = 64;

const number = (value: unknown): number | null => (typeof value === 'number' && Number.isFinite(value) ? value : null);

/** Null where the tables have nothing of the slot in that mode. */
export async function detailFromTables(
  tables: RunTables,
  slot: SlotView,
  from: 'tables' | 'snapshot',
): Promise<SlotDetail | null> {
  const slots = await tables.rows('slots', ['slot_id', 'name', 'status']);
  const ids = slots.filter(({ name, status }) => name === slot.name && status !== 'left-out');
  for (const { slot_id } of ids) {
    const id = Number(slot_id);
    const of = async (table: Parameters<RunTables['rowsOfSlot']>[0]): Promise<readonly Row[]> =>
      (await tables.rowsOfSlot(table, id)).filter((row) => row.mode === undefined || row.mode === slot.mode);
    const [subspace] = await of('subspaces');
    if (subspace === undefined) continue;
    const total = number(subspace.total);
    const spectrum = await of('spectrum');
    const isModels = slot.mode === 'models';
    const models = isModels ? await modelsOf(tables, await of('coefficients'), await of('scores')) : [];
    const warnings = (await of('warnings')).map(({ code, text }) => `${code}: ${text}`);
    return {
      slot,
      from,
      asOf: number(subspace.n_models) ?? 0,
      curves: curvesOf(await of('convergence')),
      spectrum: spectrum.map((row) => spectrumPoint(row, total)),
      boundKind: typeof spectrum[0]?.bound_kind === 'string' ? spectrum[0].bound_kind : null,
      models: models.slice(0, MOST_MODELS),
      modelsLeftOut: Math.max(0, models.length - MOST_MODELS),
      total,
      warnings,
    };
  }
  return null;
}

const spectrumPoint = (row: Row, total: number | null): SpectrumPoint => {
  const evr = number(row.evr);
  const relative = (value: unknown): number | null => {
    const bound = number(value);
    return bound === null || evr === null || total === null || total <= 0 ? null : bound / total;
  };
  return {
    eigenvalue: number(row.eigenvalue) ?? 0,
    evr,
    cumulative: number(row.cumulative_evr),
    low: relative(row.bound_low),
    high: relative(row.bound_high),
  };
};

const curvesOf = (rows: readonly Row[]): Curves => {
  const sorted = rows.toSorted((a, b) => Number(a.models_seen) - Number(b.models_seen));
  const column = (name: string) => sorted.map((row) => number(row[name]));
  const names = ['models_seen', 'captured', 'mean_only'];
  for (const cut of ['1', '4', '16', 'k']) names.push(`evr_${cut}`, `angle_max_${cut}`);
  return { ...Object.fromEntries(names.map((name) => [name, column(name)])), drift: column('angle_max_4') };
};

const modelsOf = async (
  tables: RunTables,
  coefficients: readonly Row[],
  scores: readonly Row[],
): Promise<readonly ModelPoint[]> => {
  const names = new Map((await tables.rows('models', ['model_id', 'name'])).map((row) => [row.model_id, row.name]));
  const captured = new Map<unknown, number>();
  for (const { phase, model_id, centred2, captured2 } of scores) {
    if (phase === 'prequential' && Number(centred2) > 0) captured.set(model_id, Number(captured2) / Number(centred2));
  }
  return coefficients.map((row) => ({
    name: String(names.get(row.model_id!) ?? row.model_id),
    coordinates: coordinatesOf(row),
    norm2: number(row.norm2),
    residual2: number(row.residual2),
    captured: captured.get(row.model_id) ?? null,
  }));
};

const coordinatesOf = (row: Row): number[] => {
  const coordinates: number[] = [];
  for (let j = 0; j < MOST_COMPONENTS; j++) {
    const value = number(row[`c_${j}`]);
    if (value === null) break;
    coordinates.push(value);
  }
  return coordinates;
};

/** A run that is not finished: what the events said, and a snapshot's spectrum and models where there is one. */
export async function detailFromEvents(run: string, slot: SlotView, curves: Curves): Promise<SlotDetail> {
  const snapshot = slot.mode === 'models' ? await newestSnapshot(run, slot) : null;
  if (snapshot !== null) return { ...snapshot, curves };
  let sum = 0;
  return {
    slot,
    from: 'events',
    asOf: slot.models,
    curves,
    spectrum: slot.scree.map((evr) => {
      sum += evr;
      return { eigenvalue: evr, evr, cumulative: sum, low: null, high: null };
    }),
    boundKind: null,
    models: [],
    modelsLeftOut: 0,
    total: null,
    warnings: [],
  };
}

/** Slots of a group share their snapshots; earlier groups are found further back. */
const SNAPSHOTS_LOOKED_AT = 32;

const newestSnapshot = async (run: string, slot: SlotView): Promise<SlotDetail | null> => {
  let names: readonly string[];
  try {
    names = readdirSync(join(run, 'snapshots')).filter((name) => /^\d+$/.test(name));
  } catch {
    return null;
  }
  for (const name of names.toSorted().reverse().slice(0, SNAPSHOTS_LOOKED_AT)) {
    try {
      const folder = join(run, 'snapshots', name);
      const { group } = JSON.parse(readFileSync(join(folder, 'snapshot.json'), 'utf8')) as { group: unknown };
      if (typeof group !== 'number') continue;
      const detail = await detailFromTables(new RunTables(folder), slot, 'snapshot');
      if (detail !== null) return detail;
    } catch {
      // Replaced or removed while it was read.
    }
  }
  return null;
};
