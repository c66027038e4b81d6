// What a merged run is: the models of all runs, numbered anew in canonical order, its slots, and where each slot's states
// stand. Made of what the runs wrote down; no model is looked for.
import { resolve } from 'node:path';
import type { RunConfig } from '../configs/run-config.ts';
import type { FoundDevice } from '../operators/devices/device-spec.ts';
import { packedLength } from '../operators/linalg/packed-blocks.ts';
import { sideOf } from '../operators/mode-scatter.ts';
import { maxStateRows, type StreamingEngine } from '../operators/subspace-state.ts';
import { savedRows } from '../operators/update-subspace.ts';
import type { StoredLog } from '../sinks/checkpoint-store.ts';
import { type ReadRow, readTable } from '../sinks/read-table.ts';
import { bytesPerElement, isReadableDtype } from '../sources/dtype.ts';
import type { ModelLocation } from '../sources/model.ts';
import type { PlannedModel } from '../sources/reading-plan.ts';
import { type Begin, rooted, version } from './begin.ts';
import type { RunToMerge } from './check-mergeable.ts';
import { sideModesOf } from './choose-engine.ts';
import type { ChosenSlot, LeftOutSlot } from './choose-slots.ts';
import { type FinishedRun, usedSlots } from './finished-run.ts';
import type { ModelInPlan, Plan, SkippedModel } from './plan.ts';

/** A run to be merged with all that it wrote down. */
export interface MergedPart extends RunToMerge, FinishedRun {
  readonly logs: readonly StoredLog[];
  /** sha256 of its newest manifest. */
  readonly digest: string;
  /** Of what it kept, in bytes. */
  readonly kept: number;
}

export interface MergePlan {
  readonly plan: Plan;
  readonly begin: Begin;
  /** For each run the new ids of its models. */
  readonly idOf: readonly ((model: number) => number)[];
  /** For each run the ids of its slots, in the order of the plan's. */
  readonly slotIds: readonly (readonly number[])[];
  /** Models that are not in a slot, with the reason. */
  readonly skippedOf: (slotId: number) => ReadonlyMap<number, string>;
}

/** Bytes of state put into one file, about: what `extend` later reads together. */
const GROUP_BYTES = 2 ** 29;

/**
 * @param parts in canonical order
 * @param options what of the configuration this command says
 * Rejects with `DamagedFile`.
 */
export const makeMergePlan = async (
  parts: readonly MergedPart[],
  options: Pick<RunConfig, 'out'>,
  device: FoundDevice,
): Promise<MergePlan> => {
  const begins = placed(parts);
  const [first] = begins as [Begin];
  let next = 0;
  const idOf = begins.map(({ listed, skipped }) => {
    const ids = [...new Set([...listed, ...skipped].map(({ id }) => id))].sort((a, b) => a - b);
    const renumbered = new Map(ids.map((id) => [id, next++]));
    return (id: number): number => renumbered.get(id)!;
  });
  const baseId = next;
  const tables = await Promise.all(
    parts.map(async ({ run }) => ({
      models: await readTable(run, 'models'),
      modelSlots: await readTable(run, 'model_slots', ['slot_id', 'model_id', 'status', 'reason', 'dtype']),
    })),
  );
  const bytesOf = new Map(
    tables.flatMap(({ models }, i) =>
      models.map(({ model_id, bytes }) => [idOrBase(begins[i]!, idOf[i]!, baseId)(model_id!), bytes ?? 0] as const),
    ),
  );
  const modelOf = (id: number, location: ModelLocation, fingerprint: string): ModelInPlan => ({
    id,
    name: location.name,
    location,
    fingerprint,
    bytes: bytesOf.get(id) ?? 0,
    pages: '',
    header: { files: [], headerDigests: [], tensors: new Map() },
  });
  const models = begins.flatMap(({ listed, used }, i) => {
    const locations = new Map(listed.map(({ id, location }) => [id, location]));
    return used.map(({ id, fingerprint }) => modelOf(idOf[i]!(id), locations.get(id)!, fingerprint));
  });
  const base = first.base === null ? null : modelOf(baseId, first.base.location, first.base.fingerprint);
  const skipped: readonly SkippedModel[] = begins.flatMap((begin, i) =>
    begin.skipped.map((model) => ({ ...model, id: idOf[i]!(model.id) })),
  );
  const used = parts.map(usedSlots);
  const slotIds = used.map((slots) => first.slots.map(({ name }) => slots.get(name)!.slot_id!));
  const cells = tables.map(({ modelSlots }, i) => cellsOf(modelSlots, idOf[i]!));
  const slots = first.slots.map(({ name, rows, cols }, id): ChosenSlot => {
    const dtypes = new Map<number, string>();
    for (const [i, cell] of cells.entries())
      for (const [model, dtype] of cell.dtypes.get(slotIds[i]![id]!) ?? []) dtypes.set(model, dtype);
    return {
      id,
      name,
      rows,
      cols,
      features: rows * cols,
      shape: JSON.parse(used[0]!.get(name)!.original_shape!) as readonly number[],
      dtypes: [...new Set(used.flatMap((all) => all.get(name)!.dtypes!.split(',')))],
      tensorIn: ({ id: model }: PlannedModel) => {
        const dtype = dtypes.get(model)!;
        const byteLength = isReadableDtype(dtype) ? rows * cols * bytesPerElement(dtype) : 0;
        return { name, dtype, shape: [rows, cols], file: 0, offset: 0, byteLength };
      },
    };
  });
  const config = { ...first.config, ...options, sources: parts.flatMap(({ begin }) => begin.config.sources) };
  const { rank, center, basis } = config;
  // Whoever keeps no state was refused.
  const engine = config.engine as StreamingEngine;
  const sides = sideModesOf(config);
  const bytes = (slot: ChosenSlot): number => {
    const rows = maxStateRows({ features: slot.features, rank, center, shiftIsOrigin: true, engine }, models.length);
    const scatter = sides.reduce((sum, mode) => sum + packedLength(sideOf(mode, slot)) * 8, 0);
    return slot.features * (4 * savedRows(rows) + (sides.length > 0 ? 12 : 0)) + scatter;
  };
  const groups = groupsOf(slots, bytes).map((some, index) => ({
    index,
    slots: some,
    ...(sides.length > 0 ? { beside: true as const } : {}),
  }));
  const written = slots.reduce((sum, { features }) => sum + (basis ? features * 4 * (rank + 1) : 0), 0);
  const plan: Plan = {
    config,
    generations: [models.length],
    origin: parts.map(({ description, begin, digest }) => ({
      run_id: description.run_id,
      models: begin.used.length,
      manifest: digest,
      lineage: description.lineage,
    })),
    listed: begins.flatMap(({ listed }, i) => listed.map(({ id, location }) => ({ id: idOf[i]!(id), location }))),
    engine,
    engineReason: null,
    basis: config.basis !== false,
    models,
    base,
    skipped,
    slots,
    leftOut: leftOutOf(parts),
    sums: [],
    groups,
    sideGroups: [],
    groupMemory: [],
    solvers: 1,
    block: config.block,
    device,
    bytesToRead: parts.reduce((sum, { kept }) => sum + kept, 0),
    bytesToWrite: written + slots.reduce((sum, slot) => sum + bytes(slot), 0),
    groupSpill: [],
    flops: 0,
    groupFlops: [],
  };
  const begin: Begin = {
    ...first,
    version,
    config: { ...config, engine },
    device: device.info,
    listed: plan.listed,
    used: begins.flatMap((one, i) => one.used.map((model) => ({ ...model, id: idOf[i]!(model.id) }))),
    base: first.base === null ? null : { ...first.base, id: baseId },
    skipped,
    generations: plan.generations,
    origin: plan.origin,
  };
  const skippedOf = (slotId: number): ReadonlyMap<number, string> =>
    new Map(cells.flatMap((cell, i) => [...(cell.skipped.get(slotIds[i]![slotId]!) ?? [])]));
  return { plan, begin, idOf, slotIds, skippedOf };
};

/** Where the runs were begun in different folders, relative paths are made absolute. */
const placed = (parts: readonly MergedPart[]): readonly Begin[] => {
  const begins = parts.map(({ begin, content }) => (content.roots.length === 0 ? begin : rooted(begin, content.roots)));
  if (new Set(begins.map(({ cwd }) => cwd)).size === 1) return begins;
  const absolute = (cwd: string, location: ModelLocation): ModelLocation => ({
    ...location,
    path: resolve(cwd, location.path),
    entry: resolve(cwd, location.entry),
    ...(location.repository === undefined ? {} : { repository: resolve(cwd, location.repository) }),
  });
  return begins.map((begin) => ({
    ...begin,
    listed: begin.listed.map(({ id, location }) => ({ id, location: absolute(begin.cwd, location) })),
    base: begin.base === null ? null : { ...begin.base, location: absolute(begin.cwd, begin.base.location) },
  }));
};

const idOrBase =
  ({ base }: Begin, idOf: (id: number) => number, baseId: number) =>
  (id: number): number =>
    id === base?.id ? baseId : idOf(id);

/** By slot: each model's dtype, and those that are not in it. */
const cellsOf = (
  rows: readonly Pick<ReadRow<'model_slots'>, 'slot_id' | 'model_id' | 'status' | 'reason' | 'dtype'>[],
  idOf: (id: number) => number,
) => {
  const dtypes = new Map<number, Map<number, string>>();
  const skipped = new Map<number, Map<number, string>>();
  const put = (into: Map<number, Map<number, string>>, slot: number, model: number, text: string): void => {
    const known = into.get(slot) ?? new Map<number, string>();
    known.set(idOf(model), text);
    into.set(slot, known);
  };
  for (const { slot_id, model_id, status, reason, dtype } of rows) {
    put(dtypes, slot_id!, model_id!, dtype ?? '');
    if (status !== 'used') put(skipped, slot_id!, model_id!, reason ?? 'left out');
  }
  return { dtypes, skipped };
};

/** Left out of all runs, or of those that had them. */
const leftOutOf = (parts: readonly MergedPart[]): readonly LeftOutSlot[] => {
  const found = new Map<string, LeftOutSlot>();
  for (const { slots } of parts) {
    for (const row of slots.filter(({ status }) => status === 'left-out')) {
      const dtypes = row.dtypes === null || row.dtypes === '' ? [] : row.dtypes.split(',');
      const known = found.get(row.name!);
      found.set(row.name!, {
        name: row.name!,
        shape: known?.shape ?? (JSON.parse(row.original_shape!) as readonly number[]),
        dtypes: [...new Set([...(known?.dtypes ?? []), ...dtypes])],
        models: (known?.models ?? 0) + (row.models ?? 0),
        reason: known?.reason ?? row.reason!,
      });
    }
  }
  return [...found.values()];
};

const groupsOf = (slots: readonly ChosenSlot[], bytes: (slot: ChosenSlot) => number): readonly ChosenSlot[][] => {
  const groups: ChosenSlot[][] = [];
  let held = Number.POSITIVE_INFINITY;
  for (const slot of slots) {
    if (held + bytes(slot) > GROUP_BYTES) {
      groups.push([]);
      held = 0;
    }
    groups.at(-1)!.push(slot);
    held += bytes(slot);
  }
  return groups;
};
