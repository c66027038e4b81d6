// The tables of two runs of the command line on really trained models, read back by two readers, and held to what their
// definitions promise: once with truncation (16 rows kept of 24 models), once without (14 models).
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tables } from '../../sinks/tables.ts';
import { queryDuckDb, type Row, readMetadata, readWithHyparquet } from '../sinks/parquet-readers.ts';
import { root, runCli } from './cli-process.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-tables-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const widened: Record<string, (data: DataView, i: number) => number> = {
  F32: (data, i) => data.getFloat32(i * 4, true),
  BF16: (data, i) => {
    const bits = new DataView(new ArrayBuffer(4));
    bits.setUint32(0, data.getUint16(i * 2, true) * 65536);
    return bits.getFloat32(0);
  },
  F16: (data, i) => {
    const bits = data.getUint16(i * 2, true);
    const [sign, exponent, mantissa] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
  },
};

/** All tensors of a model's files, as numbers. */
const weightsOf = (zoo: string, model: string): Map<string, Float64Array> => {
  const found = new Map<string, Float64Array>();
  for (const name of readdirSync(join(zoo, model)).filter((file) => file.endsWith('.safetensors'))) {
    const bytes = readFileSync(join(zoo, model, name));
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
    for (const [tensor, { dtype, shape, data_offsets: at }] of Object.entries<{
      dtype: string;
      shape: number[];
      data_offsets: [number, number];
    }>(header)) {
      if (tensor === '__metadata__') continue;
      const data = new DataView(bytes.buffer, bytes.byteOffset + 8 + length + at[0], at[1] - at[0]);
      const count = shape.reduce((a, b) => a * b, 1);
      found.set(
        tensor,
        Float64Array.from({ length: count }, (_, i) => widened[dtype]!(data, i)),
      );
    }
  }
  return found;
};

const types: Record<string, readonly [parquet: string, duckdb: string]> = {
  id: ['INT32', 'INTEGER'],
  int32: ['INT32', 'INTEGER'],
  int64: ['INT64', 'BIGINT'],
  float64: ['DOUBLE', 'DOUBLE'],
  utf8: ['BYTE_ARRAY', 'VARCHAR'],
};

const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};
const dot = (a: Float64Array, b: Float64Array): number => {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
};
const relative = (found: number, wanted: number, scale = wanted): number => Math.abs(found - wanted) / Math.abs(scale);

describe.each([
  ['truncated', 4, 'scratch', 24],
  ['exact', 8, 'full', 14],
] as const)('a run that is %s, rank %i', (kind, rank, set, count) => {
  const zoo = join(root, 'examples/zoo', set);
  const out = join(folder, kind);
  const table = (name: string): Promise<Row[]> => readWithHyparquet(join(out, `${name}.parquet`));
  const coordinates = (row: Row): number[] => Array.from({ length: rank }, (_, j) => Number(row[`c_${j}`] ?? 0));
  const columnsOf = async (path: string): Promise<Float64Array[]> => {
    const rows = await readWithHyparquet(join(out, path));
    return Object.keys(rows[0]!).map((column) => Float64Array.from(rows, (row) => row[column] as number));
  };
  const basisOf = (slot: Row) => columnsOf(`basis/slot-${String(slot.slot_id).padStart(5, '0')}.models.parquet`);
  const meanOf = async (slot: Row) =>
    (await columnsOf(`mean/slot-${String(slot.slot_id).padStart(5, '0')}.parquet`))[0]!;

  let slots: Row[];
  let subspaces: Map<unknown, Row>;
  let coefficients: Map<unknown, Row[]>;

  beforeAll(async () => {
    const options = ['--rank', `${rank}`, '--block', '4', '--threads', '2', '--quiet'];
    const { code, stderr } = await runCli(['run', zoo, '--out', out, ...options]);
    expect([code, stderr]).toEqual([0, '']);
    slots = (await table('slots')).filter(({ status }) => status === 'used');
    subspaces = new Map((await table('subspaces')).map((row) => [row.slot_id, row]));
    const rows = await table('coefficients');
    coefficients = new Map(slots.map(({ slot_id }) => [slot_id, rows.filter((row) => row.slot_id === slot_id)]));
  });

  const written = () => Object.keys(tables).filter((name) => existsSync(join(out, `${name}.parquet`)));

  it('has every table but those that would be empty', () => {
    // Energies belong to the modes rows and cols, the core to all three, the comparison to `compare`.
    expect(Object.keys(tables).filter((name) => !written().includes(name) && name !== 'warnings')).toEqual([
      'energies',
      'core',
      'comparison',
    ]);
    expect(readdirSync(out).filter((name) => /tmp|partial|spill/.test(name))).toEqual([]);
  });

  it.each(Object.keys(tables))('%s: the columns and types that are promised, and both readers agree', async (name) => {
    if (!written().includes(name)) return;
    const path = join(out, `${name}.parquet`);
    const promised = Object.entries(tables[name as keyof typeof tables]).map(
      ([column, type]) => [column, ...types[type]!, type === 'id' ? 'REQUIRED' : 'OPTIONAL'] as const,
    );
    if (name === 'coefficients') {
      for (let j = 0; j < rank; j++) promised.push([`c_${j}`, 'FLOAT', 'FLOAT', 'OPTIONAL']);
    }
    const { schema, key_value_metadata: metadata } = await readMetadata(path);
    expect(schema.slice(1).map((s) => [s.name, s.type, s.repetition_type])).toEqual(
      promised.map(([column, parquet, , repetition]) => [column, parquet, repetition]),
    );
    expect(metadata).toContainEqual({ key: 'schema_version', value: '1' });
    const described = await queryDuckDb(path, 'describe select * from FILE');
    expect(described.map((row) => [row.column_name, row.column_type])).toEqual(
      promised.map(([column, , duckdb]) => [column, duckdb]),
    );
    const rows = await readWithHyparquet(path);
    expect(rows.length).toBeGreaterThan(0);
    expect(await queryDuckDb(path)).toEqual(rows);
  });

  it('basis and mean: both readers agree', async () => {
    for (const path of ['basis/slot-00003.models.parquet', 'mean/slot-00003.parquet']) {
      const rows = await readWithHyparquet(join(out, path));
      expect(await queryDuckDb(join(out, path))).toEqual(rows);
    }
  });

  it('timings: every block has all its parts, and waits within its own time', async () => {
    const timings = await table('timings');
    expect(timings.map(({ block }) => block)).toEqual(timings.map((_, block) => block));
    for (const row of timings) {
      for (const part of ['read_s', 'wait_s', 'widen_s', 'gram_s', 'mix_s', 'write_s']) {
        expect(row[part]).toBeGreaterThanOrEqual(0);
      }
      expect(row.wait_s).toBeLessThanOrEqual(row.seconds as number);
      expect(row.widen_s).toBeGreaterThan(0);
    }
  });

  it('one row a slot, a model, a component', async () => {
    const spectrum = await table('spectrum');
    for (const { slot_id, rows, cols } of slots) {
      const { features, n_models, exactness } = subspaces.get(slot_id)!;
      expect(features).toBe((rows as bigint) * (cols as bigint));
      expect([n_models, exactness]).toEqual([BigInt(count), kind === 'exact' ? 'exact' : 'bounded']);
      expect(coefficients.get(slot_id)!.map(({ model_id }) => model_id)).toEqual(
        Array.from({ length: count }, (_, i) => i),
      );
      const components = spectrum.filter((row) => row.slot_id === slot_id).map(({ component }) => component);
      expect(components).toEqual(Array.from({ length: rank }, (_, i) => i));
    }
  });

  it('Σ c cᵀ is diagonal, with the eigenvalues on it', async () => {
    const spectrum = await table('spectrum');
    for (const { slot_id, name } of slots) {
      const values = spectrum.filter((row) => row.slot_id === slot_id).map((row) => row.eigenvalue as number);
      const rows = coefficients.get(slot_id)!.map(coordinates);
      for (let p = 0; p < rank; p++) {
        for (let q = 0; q <= p; q++) {
          const found = sum(rows.map((c) => c[p]! * c[q]!));
          expect(relative(found, p === q ? values[p]! : 0, values[0]!), `${name} ${p} ${q}`).toBeLessThan(1e-5);
        }
      }
    }
  });

  it('totals: Σ norm2, the mean, residuals, shares', async () => {
    const spectrum = await table('spectrum');
    for (const { slot_id, name } of slots) {
      const subspace = subspaces.get(slot_id)!;
      const [total, uncentred, mean2] = [subspace.total, subspace.total_uncentred, subspace.mean_norm2] as number[];
      expect(relative(total! + count * mean2!, uncentred!), String(name)).toBeLessThan(1e-5);
      const rows = coefficients.get(slot_id)!;
      if (kind === 'exact') {
        expect(relative(sum(rows.map(({ norm2 }) => norm2 as number)), total!), String(name)).toBeLessThan(1e-5);
      }
      for (const row of rows) {
        const residual = (row.norm2 as number) - sum(coordinates(row).map((c) => c * c));
        expect(relative(row.residual2 as number, Math.max(residual, 0), row.norm2 as number)).toBeLessThan(1e-5);
      }
      let share = 0;
      for (const row of spectrum.filter((each) => each.slot_id === slot_id)) {
        share += (row.eigenvalue as number) / total!;
        expect(relative(row.evr as number, (row.eigenvalue as number) / total!)).toBeLessThan(1e-12);
        expect(relative(row.cumulative_evr as number, share)).toBeLessThan(1e-12);
        expect(relative((row.singular_value as number) ** 2, row.eigenvalue as number)).toBeLessThan(1e-12);
        expect(row.bound_low as number).toBeLessThanOrEqual(row.eigenvalue as number);
        expect(row.bound_high as number).toBeGreaterThanOrEqual(row.eigenvalue as number);
      }
    }
  });

  it('the basis: orthonormal columns, the largest entry of each positive', async () => {
    for (const slot of slots) {
      const basis = await basisOf(slot);
      expect(basis).toHaveLength(rank);
      for (let p = 0; p < rank; p++) {
        expect(basis[p]!).toHaveLength(Number(subspaces.get(slot.slot_id)!.features));
        for (let q = 0; q <= p; q++) {
          expect(Math.abs(dot(basis[p]!, basis[q]!) - (p === q ? 1 : 0)), `${slot.name} ${p} ${q}`).toBeLessThan(1e-5);
        }
        const largest = basis[p]!.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
        expect(largest, `${slot.name} ${p}`).toBeGreaterThan(0);
      }
    }
  });

  it('the weights themselves: mean, distances, and coordinates in the basis', async () => {
    const models = (await table('models')).map(({ name }) => weightsOf(zoo, basename(String(name))));
    expect(models).toHaveLength(count);
    const rawNorms = await table('model_slots');
    for (const slot of slots) {
      const name = String(slot.name);
      const mean = await meanOf(slot);
      const basis = await basisOf(slot);
      const all = models.map((model) => model.get(name)!);
      const scale = Math.max(...all.map((x) => Math.sqrt(dot(x, x) / x.length)));
      const worst = mean.reduce((most, m, i) => Math.max(most, Math.abs(m - sum(all.map((x) => x[i]!)) / count)), 0);
      expect(worst / scale, name).toBeLessThan(1e-5);
      const mean2 = subspaces.get(slot.slot_id)!.mean_norm2 as number;
      expect(relative(mean2, dot(mean, mean)), name).toBeLessThan(1e-5);
      const rows = coefficients.get(slot.slot_id)!;
      const largest = Math.max(...rows.flatMap(coordinates).map(Math.abs));
      for (const [id, x] of all.entries()) {
        const raw = rawNorms.find((row) => row.slot_id === slot.slot_id && row.model_id === id)!;
        expect(relative(raw.raw_norm2 as number, dot(x, x)), `${name} ${id}`).toBeLessThan(1e-5);
        // Truncation forgets a little of the models before the last block.
        if (kind === 'truncated' && id < count - 4) continue;
        const centred = x.map((value, i) => value - mean[i]!);
        expect(relative(rows[id]!.norm2 as number, dot(centred, centred)), `${name} ${id}`).toBeLessThan(1e-4);
        for (const [j, c] of coordinates(rows[id]!).entries()) {
          expect(relative(c, dot(centred, basis[j]!), largest), `${name} ${id} c_${j}`).toBeLessThan(1e-4);
        }
      }
    }
  });

  const meanEntriesOf = async (ids: readonly number[]): Promise<void> => {
    const models = (await table('models')).map(({ name }) => weightsOf(zoo, basename(String(name))));
    const rows = await table('model_slots');
    for (const { slot_id, name } of slots) {
      for (const id of ids) {
        const x = models[id]!.get(String(name))!;
        const row = rows.find((each) => each.slot_id === slot_id && each.model_id === id)!;
        const scale = Math.sqrt(dot(x, x) / x.length);
        expect(relative(row.mean_entry as number, sum(x) / x.length, scale), `${name} ${id}`).toBeLessThan(1e-5);
      }
    }
  };

  it("mean_entry of the first block's models", () => meanEntriesOf([0, 1, 2, 3]));

  it("mean_entry of later blocks' models", () => meanEntriesOf([4, 8, 13]));
});
