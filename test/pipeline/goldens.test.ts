// The main job on really trained models, from the command line to the tables, against two independent references made
// with NumPy in float64 (test/reference): exact spectra, the same streaming update on whole matrices, and the SVD of every
// prefix of the stream.
// Tolerances: 1e-5 of the largest eigenvalue where nothing is truncated; 1e-4 against the same update (a few blocks of
// float32 Grams and rotations, about 1e-6 in practice); angles 0.1 degrees, the floor of the cosine form being 0.02.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetReadObjects } from 'hyparquet';
import { afterAll, describe, expect, it } from 'vitest';
import { cardEnvironment } from '../card.ts';
import { devicesAndCard } from '../operators/devices.ts';

type Row = Record<string, number | bigint | string | null>;

const folder = mkdtempSync(join(tmpdir(), 'weightspan-goldens-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const readTable = async (run: string, name: string): Promise<Row[]> => {
  const bytes = readFileSync(join(run, `${name}.parquet`));
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
  return (await parquetReadObjects({ file })) as Row[];
};

const golden = (name: string) => JSON.parse(readFileSync(`examples/zoo/golden/${name}.json`, 'utf8'));

const run = (
  device: string,
  kind: string,
  rank: number,
  block: number,
  engine = 'incremental',
  mode = 'models',
): string => {
  const out = join(folder, `${device}-${kind}-${rank}-${engine}-${mode}`);
  const options = [
    '--mode',
    mode,
    '--engine',
    engine,
    '--rank',
    rank,
    '--block',
    block,
    '--device',
    device,
    '--threads',
    2,
    '--quiet',
    '--out',
    out,
  ];
  execFileSync('node', ['dist/pipeline/cli.js', 'run', `examples/zoo/${kind}`, ...options.map(String)], {
    env: { ...process.env, ...(device === 'cuda' ? cardEnvironment : {}) },
  });
  return out;
};

interface Reference {
  readonly total: number;
  readonly lost: number;
  readonly eigenvalues: readonly number[];
  readonly blocks: readonly Record<string, number | null>[];
  readonly scores: readonly { centred2: number | null; captured2: number | null; raw_norm2: number }[];
  readonly norm2: readonly number[];
  readonly coefficients?: readonly (readonly number[])[];
}

describe.each(devicesAndCard)('on $name', ({ name: device }) => {
  it.each([
    ['full', 'incremental', 1e-5],
    ['scratch', 'incremental', 1e-5],
    ['lora', 'incremental', 1e-5],
    ['full', 'exact', device === 'tfjs' ? 5e-6 : 1e-6],
    ['scratch', 'exact', device === 'tfjs' ? 5e-6 : 1e-6],
    ['lora', 'exact', device === 'tfjs' ? 5e-6 : 1e-6],
  ] as const)('%s at full rank, engine %s, equals the exact spectra', async (kind, engine, tolerance) => {
    const out = run(device, kind, 64, 16, engine);
    const reference = golden(kind).slots;
    const slots = (await readTable(out, 'slots')).filter((slot) => slot.status === 'used');
    expect(slots.map(({ name }) => name).sort()).toEqual(Object.keys(reference).sort());
    const spectrum = await readTable(out, 'spectrum');
    const subspaces = await readTable(out, 'subspaces');
    for (const { slot_id, name } of slots) {
      const exact = reference[String(name)];
      const rows = spectrum.filter((row) => row.slot_id === slot_id);
      expect(rows.length).toBeGreaterThan(8);
      for (const row of rows) {
        const truth = exact.eig.models[Number(row.component)];
        expect(Math.abs(Number(row.eigenvalue) - truth) / exact.eig.models[0]).toBeLessThan(tolerance);
        expect(Number(row.bound_low)).toBeLessThanOrEqual(truth);
        expect(Number(row.bound_high)).toBeGreaterThanOrEqual(truth);
      }
      const subspace = subspaces.find((row) => row.slot_id === slot_id)!;
      expect(Math.abs(Number(subspace.total) / exact.total - 1)).toBeLessThan(1e-5);
      expect(Math.abs(Number(subspace.total_uncentred) / exact.uncentred_total - 1)).toBeLessThan(1e-5);
    }
  });

  it.each(['full', 'scratch', 'lora'])('%s in the modes rows and cols equals the exact spectra', async (kind) => {
    // The promise of the engine exact: 1e-6 of the largest on blas, 5e-6 on tfjs.
    const tolerance = device === 'tfjs' ? 5e-6 : 1e-6;
    const out = run(device, kind, 16, 6, 'incremental', 'rows,cols');
    const reference = golden(kind).slots;
    const [slots, spectrum, subspaces, energies, models, modelSlots] = await Promise.all(
      ['slots', 'spectrum', 'subspaces', 'energies', 'models', 'model_slots'].map((name) => readTable(out, name)),
    );
    for (const { slot_id, name, rows, cols } of slots!.filter((slot) => slot.status === 'used')) {
      const exact = reference[String(name)];
      for (const mode of ['rows', 'cols'] as const) {
        const of = (table: Row[] | undefined): Row[] =>
          table!.filter((row) => row.slot_id === slot_id && row.mode === mode);
        const [side, each] = mode === 'rows' ? [Number(cols), Number(rows)] : [Number(rows), Number(cols)];
        const found = of(spectrum);
        expect(found).toHaveLength(Math.min(side, (models!.length - 1) * each));
        for (const [j, truth] of (exact.eig[mode] as number[]).entries()) {
          if (j >= found.length) break;
          expect(Math.abs(Number(found[j]!.eigenvalue) - truth) / exact.eig[mode][0]).toBeLessThan(tolerance);
          expect(Number(found[j]!.bound_low)).toBeLessThanOrEqual(truth);
          expect(Number(found[j]!.bound_high)).toBeGreaterThanOrEqual(truth);
        }
        const [subspace] = of(subspaces);
        expect(Math.abs(Number(subspace!.total) / exact.total - 1)).toBeLessThan(tolerance);
        expect(Math.abs(Number(subspace!.total_uncentred) / exact.uncentred_total - 1)).toBeLessThan(tolerance);
        expect([Number(subspace!.n_samples), Number(subspace!.features)]).toEqual([models!.length * each, side]);
        const measured = of(energies);
        expect(measured).toHaveLength(models!.length);
        // What the models have together along a direction is its eigenvalue, and in all the total.
        for (let j = 0; j < Number(subspace!.rank); j++) {
          const sum = measured.reduce((all, row) => all + Number(row[`e_${j}`]), 0);
          expect(Math.abs(sum - Number(found[j]!.eigenvalue)) / exact.eig[mode][0]).toBeLessThan(5e-6);
        }
        const all = measured.reduce((sum, row) => sum + Number(row.norm2), 0);
        expect(Math.abs(all / exact.total - 1)).toBeLessThan(tolerance);
      }
    }
    expect(modelSlots!.every((row) => row.status === 'used' && Number(row.raw_norm2) > 0)).toBe(true);
    expect(modelSlots).toHaveLength(models!.length * Object.keys(reference).length);
  });

  it.each([
    ['full', 16, 8, 'incremental', 'incremental-full'],
    ['scratch', 16, 8, 'incremental', 'incremental-scratch'],
    ['scratch', 4, 8, 'incremental', 'incremental-scratch-rank4'],
    ['lora', 16, 8, 'incremental', 'incremental-lora'],
    ['full', 4, 4, 'exact', 'prefixes-full'],
    ['scratch', 4, 4, 'exact', 'prefixes-scratch'],
    ['lora', 4, 4, 'exact', 'prefixes-lora'],
  ] as const)('%s at rank %i, block %i, engine %s, equals %s in float64', async (kind, rank, block, engine, name) => {
    const out = run(device, kind, rank, block, engine);
    const reference = golden(name).slots as Record<string, Reference>;
    const [slots, spectrum, subspaces, convergence, scores, coefficients] = await Promise.all(
      ['slots', 'spectrum', 'subspaces', 'convergence', 'scores', 'coefficients'].map((name) => readTable(out, name)),
    );
    for (const [name, expected] of Object.entries(reference)) {
      const id = slots!.find((slot) => slot.name === name)!.slot_id;
      const of = (table: Row[] | undefined): Row[] => table!.filter((row) => row.slot_id === id);
      const largest = expected.eigenvalues[0]!;
      const near = (found: unknown, wanted: number | null | undefined, scale: number, tolerance = 1e-4): void => {
        if (wanted === null || wanted === undefined) expect(found).toBeNull();
        else expect(Math.abs(Number(found) - wanted) / scale).toBeLessThan(tolerance);
      };
      const rows = of(spectrum);
      expect(rows).toHaveLength(expected.eigenvalues.length);
      rows.forEach((row, j) => {
        near(row.eigenvalue, expected.eigenvalues[j], largest);
      });
      const [subspace] = of(subspaces);
      near(subspace!.total, expected.total, expected.total);
      near(subspace!.lost, expected.lost, expected.total);
      of(convergence).forEach((row, block) => {
        const wanted = expected.blocks[block]!;
        expect(Number(row.models_seen)).toBe(wanted.models_seen);
        near(row.total, wanted.total, expected.total);
        near(row.lost, wanted.lost, expected.total);
        near(row.captured, wanted.captured ?? null, 1);
        for (const cut of ['1', '4', '16', 'k']) {
          if (!(`evr_${cut}` in wanted)) continue;
          near(row[`evr_${cut}`], wanted[`evr_${cut}`], 1);
          near(row[`angle_max_${cut}`], wanted[`angle_max_${cut}`] ?? null, 1, 0.1);
          near(row[`overlap_${cut}`], wanted[`overlap_${cut}`] ?? null, 1);
        }
      });
      const prequential = of(scores).filter((row) => row.phase === 'prequential');
      prequential.forEach((row, i) => {
        const wanted = expected.scores[i]!;
        near(row.centred2, wanted.centred2, expected.total);
        near(row.captured2, wanted.captured2, expected.total);
      });
      // Where no direction is written, its sign is that of the largest coefficient.
      const implicit = kind === 'lora' && engine === 'exact';
      const firsts = expected.coefficients?.map(([c]) => c!) ?? [];
      const farthest = firsts.reduce((most, c) => (Math.abs(c) > Math.abs(most) ? c : most), 0);
      const sign = implicit && farthest < 0 ? -1 : 1;
      of(coefficients).forEach((row, i) => {
        near(row.norm2, expected.norm2[i], expected.total);
        // Directions of nearly equal eigenvalues may turn into each other: what they capture together may not.
        const wanted = expected.coefficients?.[i];
        if (wanted === undefined) return;
        const captured = wanted.reduce((sum, c) => sum + c * c, 0);
        near(Number(row.norm2) - Number(row.residual2), captured, expected.total);
        near(row.c_0, sign * wanted[0]!, Math.sqrt(largest), 1e-3);
      });
    }
  });
});
