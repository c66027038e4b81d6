// Whole models and modules: the Grams of slots add up. The reference is made from the slots' own coordinates, which at full
// rank say all that a centred Gram does (float32: 1e-6 of the largest eigenvalue), and from a model left out of one slot.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parquetReadObjects } from 'hyparquet';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ExactGram } from '../../operators/exact-spectrum.ts';
import { GramSum } from '../../operators/gram-sum.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { PlannedModel, PlannedSlot } from '../../sources/reading-plan.ts';

type Row = Record<string, number | bigint | string | null>;

const MODELS = 14;

describe('a run by --group-by', () => {
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-sums-'));
  const out = join(folder, 'run');
  let tables: Record<string, Row[]> = {};
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  beforeAll(async () => {
    const options = ['--engine', 'exact', '--rank', '16', '--block', '4', '--group-by', '*layer.1*', '--quiet'];
    execFileSync('node', ['dist/pipeline/cli.js', 'run', 'examples/zoo/full', ...options, '--out', out]);
    const read = async (name: string): Promise<Row[]> => {
      const bytes = readFileSync(join(out, `${name}.parquet`));
      const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
      return (await parquetReadObjects({ file })) as Row[];
    };
    const names = ['slots', 'subspaces', 'spectrum', 'coefficients', 'convergence', 'model_slots'];
    tables = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await read(name)] as const)));
  });

  it.each([
    ['*', 22, () => true],
    ['*layer.1*', 6, (name: string) => name.includes('layer.1')],
  ] as const)('%s is the sum of its %i slots', (name, count, matches) => {
    const used = tables.slots!.filter((slot) => slot.status === 'used' && matches(String(slot.name)));
    expect(used).toHaveLength(count);
    const sum = tables.slots!.find((slot) => slot.status === 'sum' && slot.name === name)!;
    const gram = new Float64Array(MODELS * MODELS);
    for (const { slot_id } of used) {
      const own = tables.coefficients!.filter((row) => row.slot_id === slot_id);
      const at = (i: number, j: number): number => Number(own[i]![`c_${j}`] ?? 0);
      for (let a = 0; a < MODELS; a++) {
        for (let b = 0; b < MODELS; b++) {
          for (let j = 0; j < 16; j++) gram[a * MODELS + b] = gram[a * MODELS + b]! + at(a, j) * at(b, j);
        }
      }
    }
    const truth = jsEigenSolver(gram, MODELS).values;
    const found = tables.spectrum!.filter((row) => row.slot_id === sum.slot_id);
    expect(found).toHaveLength(MODELS - 1);
    found.forEach((row, j) => {
      expect(Math.abs(Number(row.eigenvalue) - truth[j]!) / truth[0]!).toBeLessThan(1e-6);
    });
    const of = (slot: Row): Row => tables.subspaces!.find((row) => row.slot_id === slot.slot_id)!;
    for (const column of ['total', 'total_uncentred', 'features', 'mean_norm2']) {
      const wanted = used.reduce((all, slot) => all + Number(of(slot)[column]), 0);
      expect(Math.abs(Number(of(sum)[column]) / wanted - 1)).toBeLessThan(1e-9);
    }
    expect(tables.convergence!.filter((row) => row.slot_id === sum.slot_id)).toHaveLength(4);
    expect(tables.coefficients!.filter((row) => row.slot_id === sum.slot_id)).toHaveLength(MODELS);
    // It is no tensor of any model.
    expect(tables.model_slots!.filter((row) => row.slot_id === sum.slot_id)).toEqual([]);
  });

  it.each([
    [['--group-by', '*layer*'], 'give --engine exact'],
    [['--engine', 'exact', '--group-by', 'nothing'], 'which none matches'],
    [['--engine', 'exact', '--mode', 'rows', '--group-by', '*'], 'only in mode models'],
  ])('refuses %j', (options, message) => {
    const { status, stderr } = spawnSync('node', ['dist/pipeline/cli.js', 'plan', 'examples/zoo/full', ...options], {
      encoding: 'utf8',
    });
    expect(status).toBe(64);
    expect(stderr).toContain(message);
  });
});

describe('GramSum', () => {
  const models = [0, 1, 2, 3].map((id) => ({ id }) as PlannedModel);
  const slot = (features: number): PlannedSlot => ({ features }) as PlannedSlot;

  /** Inner products of rows [1; −shift; 0; X], as an engine gives them. */
  const gramOf = (rows: readonly (readonly number[])[], shift: readonly number[]): ExactGram => {
    const all = [shift.map(() => 1), shift.map((x) => -x), shift.map(() => 0), ...rows];
    const values = Float64Array.from(all.flatMap((a) => all.map((b) => a.reduce((sum, x, i) => sum + x * b[i]!, 0))));
    return { values, models: rows.length, shiftSum: shift.reduce((a, b) => a + b, 0) };
  };

  it('equals the Gram of the weights side by side, over the models that all slots have', () => {
    const first = [
      [1, 2],
      [3, -1],
      [0.5, 4],
      [2, 2],
    ];
    const second = [
      [7, 1, 0],
      [1, 1, 3],
      [2, 0, -5],
    ];
    const sum = new GramSum(models);
    sum.add(slot(2), models, gramOf(first, [0.5, 1]));
    // Model 1 is not in the second slot.
    const others = models.filter(({ id }) => id !== 1);
    sum.add(slot(3), others, gramOf(second, [1, 2, 3]));
    const found = sum.result();
    const both = [0, 2, 3].map((id, i) => [...first[id]!, ...second[i]!]);
    expect(found.models.map(({ id }) => id)).toEqual([0, 2, 3]);
    expect(found.features).toBe(5);
    expect(found.gram).toEqual(gramOf(both, [0.5, 1, 1, 2, 3]));
  });
});
