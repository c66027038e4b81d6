// `weightspan compare` on runs of the zoo, and on bases drawn at random. A run with itself: zero angles to 1e-4 (degrees),
// though its files are float32. Independent subspaces: the chance level within its interval.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openMatrixFile } from '../../sinks/matrix-file.ts';
import { openTable } from '../../sinks/parquet-table.ts';
import { normals } from '../operators/planted.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { runCli } from './cli-process.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-compare-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (name: string): string => join(root, name);

interface Slot {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** k directions of rows * cols, or none. */
  readonly basis: readonly Float32Array[];
}

/** What of a run `compare` reads. */
const writeRun = (folder: string, slots: readonly Slot[], lengths: readonly number[]): string => {
  mkdirSync(join(folder, 'basis'), { recursive: true });
  const table = openTable(folder, 'slots');
  slots.forEach(({ name, rows, cols, basis }, id) => {
    const nothing = { original_shape: null, dtypes: null, group: null, models: null, reason: null };
    table.append({ slot_id: id, name, rows, cols, ...nothing, status: 'used' });
    if (basis.length === 0) return;
    const columns = basis.map((_, j) => `pc_${j}`);
    const path = join(folder, 'basis', `slot-${String(id).padStart(5, '0')}.models.parquet`);
    const file = openMatrixFile(path, { columns, metadata: { slot: name, mode: 'models' } });
    for (let from = 0, i = 0; from < rows * cols; i++) {
      const to = Math.min(rows * cols, from + lengths[i % lengths.length]!);
      const middle = Math.floor((from + to) / 2);
      file.appendRowGroup([
        basis.map((column) => column.slice(from, middle)),
        basis.map((column) => column.slice(middle, to)),
      ]);
      from = to;
    }
    file.close();
  });
  table.close();
  const config = { engine: 'incremental', mode: ['models'], rank: 8, center: true, basis: true };
  const run = { schema_version: 1, run_id: '0123456789abcdef', lineage: [], config };
  writeFileSync(join(folder, 'run.json'), JSON.stringify(run));
  return folder;
};

const drawn = (k: number, d: number, seed: number): Float32Array[] => {
  const normal = normals(seed);
  const rows: Float64Array[] = [];
  while (rows.length < k) {
    const row = Float64Array.from({ length: d }, normal);
    for (const other of rows) {
      const inner = row.reduce((sum, value, i) => sum + value * other[i]!, 0);
      for (let i = 0; i < d; i++) row[i] = row[i]! - inner * other[i]!;
    }
    const norm = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    rows.push(row.map((value) => value / norm));
  }
  return rows.map((row) => Float32Array.from(row));
};

const compared = async (...args: string[]) => {
  const { code, stdout, stderr } = await runCli(['compare', ...args, '--json']);
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout);
};

describe('of the zoo', () => {
  beforeAll(async () => {
    const options = ['--rank', '6', '--block', '8', '--device', 'tfjs', '--quiet'];
    const made = await Promise.all([
      runCli(['run', 'examples/zoo/full', '--out', at('full'), '--mode', 'models,rows,cols', ...options]),
      runCli(['run', 'examples/zoo/full', '--out', at('bare'), '--no-basis', ...options]),
    ]);
    for (const { code, stderr } of made) expect(code, stderr).toBe(0);
  });

  it.each(['models', 'rows', 'cols'])('a run with itself has no angles, in mode %s', async (mode) => {
    const { slots, unmatched, mode: found } = await compared(at('full'), at('full'), '--mode', mode);
    expect([found, unmatched, slots.length]).toEqual([mode, [], 22]);
    for (const { angles, overlap, grassmann, chordal, ranks, features, chance } of slots) {
      expect(angles).toHaveLength(Math.min(...ranks));
      for (const angle of angles) expect(Math.abs(angle)).toBeLessThan(1e-4);
      expect(Math.abs(overlap - 1)).toBeLessThan(1e-10);
      expect(Math.max(grassmann, chordal)).toBeLessThan(1e-5);
      expect(chance).toBeCloseTo(Math.max(...ranks) / features, 12);
    }
  });

  it('refuses runs without a basis or the mode, all at once, and says what to do', async () => {
    const { code, stderr } = await runCli(['compare', at('bare'), at('full'), '--mode', 'rows']);
    expect(code).toBe(65);
    expect(stderr).toContain(`${at('bare')}: it has no basis (--no-basis); run it again without that option`);
    expect(stderr).toContain(`${at('bare')}: it has no mode rows, only models; run it again with --mode rows`);
  });
});

describe('of drawn bases', () => {
  const [rows, cols] = [190, 200];
  const d = rows * cols;
  it('shows the chance level within its interval, matches by name and shape, and names the rest', async () => {
    const [a, b] = [1, 2].map((run) =>
      writeRun(
        at(`drawn-${run}`),
        [
          ...(run === 1 ? [{ name: 'only', rows, cols, basis: [] }] : []),
          { name: 'w', rows, cols, basis: drawn(run === 1 ? 7 : 4, d, run) },
          { name: 'shape', rows: run === 1 ? 4 : 2, cols: run === 1 ? 2 : 4, basis: drawn(1, 8, run) },
          { name: 'flat', rows: 2, cols: 4, basis: run === 1 ? [] : drawn(1, 8, run) },
        ],
        // Row groups of other lengths than the other's.
        run === 1 ? [17_000, 9000] : [6001],
      ),
    ) as [string, string];
    const out = at('drawn.parquet');
    const { slots, unmatched } = await compared(a, b, '--out', out);
    expect(slots.map(({ slot }: { slot: string }) => slot)).toEqual(['w']);
    const [w] = slots;
    expect(w.ranks).toEqual([7, 4]);
    expect(w.chance).toBeCloseTo(7 / d, 15);
    expect(w.overlap).toBeGreaterThan(w.chance_low);
    expect(w.overlap).toBeLessThan(w.chance_high);
    // Σ cos² is the squared norm of the inner products, here of the same float32 numbers.
    const [one, two] = [drawn(7, d, 1), drawn(4, d, 2)];
    const sum = one.flatMap((x) => two.map((y) => x.reduce((all, value, i) => all + value * y[i]!, 0) ** 2));
    expect(w.overlap * 4).toBeCloseTo(
      sum.reduce((all, value) => all + value, 0),
      10,
    );
    expect(unmatched).toEqual([
      { slot: 'only', reason: `only in ${a}` },
      { slot: 'shape', reason: `4 x 2 in ${a}, 2 x 4 in ${b}` },
      { slot: 'flat', reason: `no direction in ${a}` },
    ]);
    const table = await readWithHyparquet(out);
    expect(table.map(({ slot, status }) => [slot, status])).toEqual([
      ['w', 'compared'],
      ['only', 'unmatched'],
      ['shape', 'unmatched'],
      ['flat', 'unmatched'],
    ]);
    expect(table[0]).toMatchObject({ rank_a: 7, rank_b: 4, slot_id_a: 1, slot_id_b: 0, overlap: w.overlap });
    for (const j of [0, 1, 2, 3]) expect(table[0]![`angle_${j}`]).toBeCloseTo(w.angles[j], 4);
    expect(table[0]!.angle_max).toBe(w.angle_max);

    const again = await runCli(['compare', a, b, '--out', out]);
    expect([again.code, again.stderr]).toEqual([73, expect.stringContaining('expected the name of a new file')]);
    const text = (await runCli(['compare', a, b])).stdout;
    for (const part of ['190×200', '7, 4', '3 slots not compared', `only: only in ${a}`]) expect(text).toContain(part);
  });

  it.each<[string, (path: string) => void, RegExp]>([
    ['is cut off', (path) => truncateSync(path, 3000), /slot-00000\.models\.parquet: its footer cannot be read/],
    [
      'holds other numbers',
      (path) => {
        const bytes = readFileSync(path);
        bytes.fill(0x40, 400, 1600);
        writeFileSync(path, bytes);
      },
      /its directions are not orthonormal|cannot be read/,
    ],
    [
      'is of another slot',
      (path) => writeFileSync(path, readFileSync(join(path, '../slot-00001.models.parquet'))),
      /expected 1000 rows of slot a, found 1000 of b/,
    ],
  ])('refuses a basis that %s', async (_name, damage, text) => {
    const slots = ['a', 'b'].map((name, i) => ({ name, rows: 25, cols: 40, basis: drawn(3, 1000, i) }));
    const run = writeRun(mkdtempSync(join(root, 'damaged-')), slots, [400]);
    damage(join(run, 'basis/slot-00000.models.parquet'));
    const { code, stderr } = await runCli(['compare', run, run]);
    expect(code).toBe(65);
    expect(stderr).toMatch(text);
  });

  it.each([
    ['is no run', () => mkdtempSync(join(root, 'empty-')), /found no run\.json in it/],
    [
      'is of another version',
      () => {
        const run = writeRun(mkdtempSync(join(root, 'version-')), [], [1]);
        writeFileSync(join(run, 'run.json'), '{"schema_version": 7}');
        return run;
      },
      /expected schema_version 1, found 7/,
    ],
  ])('refuses a folder that %s', async (_name, make, text) => {
    const run = make();
    const { code, stderr } = await runCli(['compare', run, run]);
    expect(code).toBe(65);
    expect(stderr).toMatch(text);
  });

  it('reports wrong options together', async () => {
    const { code, stderr } = await runCli(['compare', 'a', 'b', '--mode', 'x', '--out', 'y.csv']);
    expect(code).toBe(64);
    expect(stderr).toMatch(/mode: expected one of models, rows, cols, found "x"/);
    expect(stderr).toMatch(/out: expected a file that ends in \.parquet, found "y\.csv"/);
  });
});
