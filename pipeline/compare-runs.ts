// `weightspan compare`: slot by slot, how the subspaces of two runs lie to each other. Basis files are streamed a row group
// at a time and only their inner products kept, float64. Cost a weight: (k_a + k_b)² flops; memory two row groups.
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type ModeName, modeNames } from '../configs/schema.ts';
import { findProcessor } from '../operators/devices/device-spec.ts';
import {
  type BasisProducts,
  basisSkew,
  type ChanceOverlap,
  chanceOverlap,
  compareBases,
  type SubspaceComparison,
} from '../operators/linalg/compare-bases.ts';
import type { DoubleProduct } from '../operators/linalg/dense-products.ts';
import { DamagedFile, SinkFailed } from '../sinks/errors.ts';
import { type MatrixReader, openMatrixReader } from '../sinks/matrix-reader.ts';
import { openTable } from '../sinks/parquet-table.ts';
import type { ReadRow } from '../sinks/read-table.ts';
import { displayName } from '../sources/display-name.ts';
import { slotFile } from './basis-writer.ts';
import { RunsDiffer, RunUnusable } from './errors.ts';
import { type FinishedRun, readFinishedRun, usedSlots } from './finished-run.ts';

export interface ComparedSlot extends SubspaceComparison {
  readonly slot: string;
  readonly rows: number;
  readonly cols: number;
  readonly features: number;
  readonly slotIds: readonly [number, number];
  readonly ranks: readonly [number, number];
  readonly chance: ChanceOverlap;
}

/** A slot that cannot be compared. */
export interface UnmatchedSlot {
  readonly slot: string;
  readonly reason: string;
}

export interface Comparison {
  readonly mode: ModeName;
  readonly runs: readonly { readonly run: string; readonly runId: string }[];
  readonly slots: readonly ComparedSlot[];
  readonly unmatched: readonly UnmatchedSlot[];
}

/**
 * @param mode null: the first that both runs have
 * Rejects with `RunUnusable`, `RunsDiffer`, `DamagedFile`.
 */
export const compareRuns = async (a: string, b: string, mode: ModeName | null): Promise<Comparison> => {
  const runs = [await readFinishedRun(a), await readFinishedRun(b)] as const;
  const chosen = commonMode(runs, mode);
  const [inA, inB] = runs.map(usedSlots) as [Slots, Slots];
  const { solve, multiplyDouble } = await findProcessor('auto');
  const slots: ComparedSlot[] = [];
  const unmatched: UnmatchedSlot[] = [];
  for (const [slot, rowA] of inA) {
    const rowB = inB.get(slot);
    const shapes = [rowA, rowB].map((row) => (row === undefined ? '' : `${row.rows} x ${row.cols}`));
    if (rowB === undefined) unmatched.push({ slot, reason: `only in ${a}` });
    else if (shapes[0] !== shapes[1]) unmatched.push({ slot, reason: `${shapes[0]} in ${a}, ${shapes[1]} in ${b}` });
    else {
      const features = featuresOf(rowA, chosen);
      const found = await productsOf(runs, [rowA, rowB], { slot, mode: chosen, features }, multiplyDouble);
      if (typeof found === 'string') unmatched.push({ slot, reason: found });
      else {
        const ranks = [Math.sqrt(found.aa.length), Math.sqrt(found.bb.length)] as const;
        slots.push({
          slot,
          rows: rowA.rows!,
          cols: rowA.cols!,
          features,
          slotIds: [rowA.slot_id!, rowB.slot_id!],
          ranks,
          ...compareBases(found, solve),
          chance: chanceOverlap(...ranks, features),
        });
      }
    }
  }
  for (const slot of inB.keys()) if (!inA.has(slot)) unmatched.push({ slot, reason: `only in ${b}` });
  if (slots.length === 0) {
    const shown = unmatched.slice(0, 5).map(({ slot, reason }) => `${displayName(slot)}: ${reason}`);
    throw new RunsDiffer({ problems: ['no slot of the two runs can be compared (by name and shape)', ...shown] });
  }
  return {
    mode: chosen,
    runs: runs.map(({ run, description }) => ({ run, runId: description.run_id })),
    slots,
    unmatched,
  };
};

type Slots = ReturnType<typeof usedSlots>;

const featuresOf = ({ rows, cols }: ReadRow<'slots'>, mode: ModeName): number =>
  mode === 'models' ? rows! * cols! : mode === 'rows' ? cols! : rows!;

/** Throws `RunsDiffer`. */
const commonMode = (runs: readonly FinishedRun[], wanted: ModeName | null): ModeName => {
  const problems = runs.flatMap(({ run, description: { config } }) => [
    ...(config.basis && existsSync(join(run, 'basis'))
      ? []
      : [`${run}: it has no basis (--no-basis); run it again without that option, which reads the models again`]),
    ...(wanted !== null && !config.mode.includes(wanted)
      ? [`${run}: it has no mode ${wanted}, only ${config.mode.join(', ')}; run it again with --mode ${wanted}`]
      : []),
  ]);
  const common = modeNames.find((mode) => runs.every(({ description }) => description.config.mode.includes(mode)));
  if (wanted === null && common === undefined)
    problems.push(`no mode is in both: ${runs.map(({ run, description }) => `${run} has ${description.config.mode}`)}`);
  if (problems.length > 0) throw new RunsDiffer({ problems });
  return wanted ?? common!;
};

/** Features multiplied at a time. */
const WINDOW = 2 ** 14;

/** The inner products of a slot's two bases, or why there are none. */
const productsOf = async (
  runs: readonly [FinishedRun, FinishedRun],
  rows: readonly [ReadRow<'slots'>, ReadRow<'slots'>],
  { slot, mode, features }: { readonly slot: string; readonly mode: ModeName; readonly features: number },
  multiply: DoubleProduct,
): Promise<BasisProducts | string> => {
  const paths = runs.map(({ run }, i) => join(run, 'basis', `${slotFile(rows[i]!.slot_id!)}.${mode}.parquet`));
  // A slot of rank 0 has no file.
  const without = paths.findIndex((path) => !existsSync(path));
  if (without >= 0) return `no direction in ${runs[without]!.run}`;
  const readers: MatrixReader[] = [];
  try {
    for (const [i, path] of paths.entries()) {
      const reader = await openMatrixReader(path);
      readers.push(reader);
      if (reader.rows !== features || reader.metadata.slot !== slot)
        throw new DamagedFile(
          path,
          `expected ${features} rows of slot ${displayName(slot)}, found ${reader.rows} of ${displayName(reader.metadata.slot ?? '')}`,
        );
      if (reader.columns.length === 0) return `no direction in ${runs[i]!.run}`;
    }
    const products = await innerProducts(readers as [MatrixReader, MatrixReader], multiply);
    for (const [i, gram] of [products.aa, products.bb].entries()) {
      const { skew, isBasis } = basisSkew(gram);
      if (!isBasis)
        throw new RunUnusable({
          run: runs[i]!.run,
          detail: `${basename(paths[i]!)}: its directions are not orthonormal (off by ${skew}); the file was changed`,
        });
    }
    return products;
  } finally {
    for (const reader of readers) await reader.close();
  }
};

/** Sums over row groups in order, whatever their lengths in either file. */
const innerProducts = async (
  readers: readonly [MatrixReader, MatrixReader],
  multiply: DoubleProduct,
): Promise<BasisProducts> => {
  const [ka, kb] = readers.map(({ columns }) => columns.length) as [number, number];
  const aa = new Float64Array(ka * ka);
  const bb = new Float64Array(kb * kb);
  const ab = new Float64Array(ka * kb);
  const held = readers.map(() => ({ group: -1, from: 0, to: 0, values: [] as readonly Float32Array[] }));
  const [a, b] = [new Float64Array(ka * WINDOW), new Float64Array(kb * WINDOW)];
  const turn = { a: false, b: true };
  for (let at = 0; at < readers[0].rows; ) {
    for (const [i, reader] of readers.entries()) {
      while (held[i]!.to <= at) {
        const group = held[i]!.group + 1;
        held[i] = { group, ...reader.rowGroups[group]!, values: await reader.read(group) };
      }
    }
    const end = Math.min(at + WINDOW, ...held.map(({ to }) => to));
    const width = end - at;
    for (const [i, wide] of [a, b].entries()) {
      const { from, values } = held[i]!;
      values.forEach((column, j) => void wide.set(column.subarray(at - from, end - from), j * WINDOW));
    }
    multiply(turn, { m: ka, n: ka, k: width }, a, WINDOW, a, WINDOW, aa, ka);
    multiply(turn, { m: kb, n: kb, k: width }, b, WINDOW, b, WINDOW, bb, kb);
    multiply(turn, { m: ka, n: kb, k: width }, a, WINDOW, b, WINDOW, ab, kb);
    at = end;
  }
  return { aa, bb, ab };
};

export const degrees = (radians: number): number => (radians * 180) / Math.PI;

export const largestAngle = ({ angles }: SubspaceComparison): number => angles.at(-1)!;

export const meanAngle = ({ angles }: SubspaceComparison): number => angles.reduce((a, b) => a + b, 0) / angles.length;

/** Writes a row a slot, those that cannot be compared last, to a new file. Throws `SinkFailed`. */
export const writeComparison = (path: string, { mode, runs, slots, unmatched }: Comparison): void => {
  if (existsSync(path))
    throw new SinkFailed({
      path,
      reason: 'occupied',
      detail: 'expected the name of a new file, found one that is there',
    });
  const most = slots.reduce((all, { angles }) => Math.max(all, angles.length), 0);
  const table = openTable(dirname(path), 'comparison', {
    file: basename(path),
    extraFloat32: Array.from({ length: most }, (_, j) => `angle_${j}`),
    metadata: { run_a: runs[0]!.runId, run_b: runs[1]!.runId },
  });
  try {
    for (const compared of slots) {
      const { slot, rows, cols, features, slotIds, ranks, overlap, chance, grassmann, chordal } = compared;
      table.append(
        {
          slot,
          mode,
          status: 'compared',
          reason: null,
          rows,
          cols,
          features,
          slot_id_a: slotIds[0],
          slot_id_b: slotIds[1],
          rank_a: ranks[0],
          rank_b: ranks[1],
          angle_max: degrees(largestAngle(compared)),
          angle_mean: degrees(meanAngle(compared)),
          overlap,
          chance: chance.mean,
          chance_deviation: chance.deviation,
          chance_low: chance.low,
          chance_high: chance.high,
          grassmann,
          chordal,
        },
        Array.from(compared.angles, (angle) => [degrees(angle)]),
      );
    }
    const nothing = { rows: null, cols: null, features: null, slot_id_a: null, slot_id_b: null, rank_a: null };
    const unknown = { rank_b: null, angle_max: null, angle_mean: null, overlap: null, chance: null };
    const distances = { chance_deviation: null, chance_low: null, chance_high: null, grassmann: null, chordal: null };
    for (const { slot, reason } of unmatched)
      table.append({ slot, mode, status: 'unmatched', reason, ...nothing, ...unknown, ...distances });
    table.close();
  } catch (error) {
    table.abort();
    throw error;
  }
};
