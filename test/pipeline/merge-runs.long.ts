// `weightspan merge`: eight shards of the zoo's 24 networks against one run over all of them, on every device.
// Tolerances: 1e-5 of the largest eigenvalue where nothing was truncated (float32 products and rotations of both ways, about
// 1e-7 in practice); else the exact value inside the stored bounds, and within 5% of the largest of the single run's. Modes rows
// and cols: 1e-12 where the shift stands before the stream (uncentred: the origin or the base) and shards are whole blocks, since the
// same products are then added up in float64. Centred, what is multiplied depends on the mean so far, and products are float32: 1e-6 of the largest on blas
// and 5e-6 on tfjs, what the engine exact promises of either way; the merge itself is 1e-12 (test/operators/merge-scatter.test.ts).
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { statesAStep } from '../../pipeline/merge-slot.ts';
import { devices } from '../operators/devices.ts';
import { type Row, readWithHyparquet } from '../sinks/parquet-readers.ts';
import { runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-merge-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (name: string): string => join(root, name);

const full = readdirSync('examples/zoo/full')
  .sort()
  .map((name) => `examples/zoo/full/${name}`);
const zoo = readdirSync('examples/zoo/scratch')
  .sort()
  .map((name) => `examples/zoo/scratch/${name}`);
const SHARDS = 8;
/** Milliseconds, for tests that start ten processes. */
const LONG = 240_000;
const shardOf = (i: number): string[] => zoo.slice(i * 3, (i + 1) * 3);

const succeed = async (...args: string[]): Promise<void> => {
  const { code, stderr } = await runCli([...args, '--quiet']);
  expect(code, `${args.join(' ')}: ${stderr}`).toBe(0);
};

const read = (run: string, table: string): Promise<Row[]> => readWithHyparquet(join(run, `${table}.parquet`));

/** Shards of one kind in `<root>/<name>-0` to `-7`, and the single run in `<root>/<name>`. */
const makeRuns = async (
  name: string,
  options: readonly string[],
  shards = SHARDS,
  models: readonly string[] = zoo,
): Promise<string[]> => {
  const runs = Array.from({ length: shards }, (_, i) => at(`${name}-${i}`));
  // Two at a time: there are two cores.
  const size = Math.ceil(models.length / shards);
  const every = async (first: number): Promise<void> => {
    for (let i = first; i < shards; i += 2)
      await succeed('run', ...models.slice(i * size, (i + 1) * size), '--out', runs[i]!, ...options);
  };
  await Promise.all([every(0), every(1)]);
  await succeed('run', ...models, '--out', at(name), ...options);
  return runs;
};

/** By slot name and mode the spectrum, and what the subspaces table says. */
const spectraOf = async (run: string) => {
  const [slots, spectrum, subspaces] = await Promise.all(['slots', 'spectrum', 'subspaces'].map((t) => read(run, t)));
  const names = new Map(slots!.map(({ slot_id, name }) => [slot_id, name]));
  return new Map(
    subspaces!.map((subspace) => {
      const { slot_id, mode } = subspace;
      const own = spectrum!.filter((row) => row.slot_id === slot_id && row.mode === mode);
      return [`${names.get(slot_id)} ${mode}`, { subspace, own }] as const;
    }),
  );
};

type Spectra = Awaited<ReturnType<typeof spectraOf>>;

const worstDifference = (found: Spectra, expected: Spectra, mode: string): number => {
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  let worst = 0;
  for (const [key, { own }] of expected) {
    if (!key.endsWith(` ${mode}`)) continue;
    const there = found.get(key)!.own;
    expect(there.length, key).toBe(own.length);
    own.forEach(({ eigenvalue }, j) => {
      const difference = Math.abs(Number(eigenvalue) - Number(there[j]!.eigenvalue));
      worst = Math.max(worst, difference / Number(own[0]!.eigenvalue));
    });
  }
  return worst;
};

/** Models by name, so that runs with other numbers can be compared; every slot's rows of a table, in the order of names. */
const byName = async (run: string, table: string): Promise<Map<string, Row[]>> => {
  const [slots, models, rows] = await Promise.all(['slots', 'models', table].map((name) => read(run, name)));
  const nameOf = new Map(models!.map(({ model_id, name }) => [model_id, String(name)]));
  return new Map(
    slots!
      .filter(({ status }) => status === 'used')
      .map(({ slot_id, name }) => [
        String(name),
        rows!
          .filter((row) => row.slot_id === slot_id)
          .map((row) => ({ ...row, model: nameOf.get(row.model_id) }) as Row)
          .sort((a, b) => (String(a.model) < String(b.model) ? -1 : 1)),
      ]),
  );
};

/** Inner products of all models' coordinates, which do not depend on the basis. */
const gramOf = (rows: readonly Row[]): number[] => {
  const c = rows.map((row) =>
    Object.entries(row)
      .filter(([name, value]) => name.startsWith('c_') && value !== null)
      .map(([, value]) => Number(value)),
  );
  return c.flatMap((x) => c.map((y) => x.reduce((sum, value, j) => sum + value * y[j]!, 0)));
};

const expectSameModels = async (merged: string, single: string, tolerance: number): Promise<void> => {
  const [found, expected] = await Promise.all([merged, single].map((run) => byName(run, 'coefficients')));
  const [cells, others] = await Promise.all([merged, single].map((run) => byName(run, 'model_slots')));
  for (const [slot, rows] of expected!) {
    const there = found!.get(slot)!;
    expect(there.map(({ model }) => model)).toEqual(rows.map(({ model }) => model));
    const scale = Math.max(...rows.map(({ norm2 }) => Number(norm2)));
    for (const [i, row] of rows.entries()) {
      expect(Math.abs(Number(row.norm2) - Number(there[i]!.norm2)) / scale, slot).toBeLessThan(tolerance);
      expect(Math.abs(Number(row.residual2) - Number(there[i]!.residual2)) / scale, slot).toBeLessThan(tolerance);
    }
    const [a, b] = [gramOf(there), gramOf(rows)];
    for (const [i, value] of b.entries()) expect(Math.abs(value - a[i]!) / scale, slot).toBeLessThan(tolerance);
    for (const [i, row] of others!.get(slot)!.entries()) {
      const own = cells!.get(slot)![i]!;
      expect(own.dtype).toBe(row.dtype);
      expect(Math.abs(Number(own.raw_norm2) / Number(row.raw_norm2) - 1)).toBeLessThan(1e-5);
      expect(Math.abs(Number(own.mean_entry) - Number(row.mean_entry))).toBeLessThan(1e-6);
    }
  }
};

/** Largest principal angle of any slot, degrees. */
const largestAngle = async (a: string, b: string): Promise<number> => {
  const { code, stdout, stderr } = await runCli(['compare', a, b, '--json']);
  expect(code, stderr).toBe(0);
  return Math.max(...JSON.parse(stdout).slots.map(({ angle_max }: { angle_max: number }) => angle_max));
};

const digestsOfAll = (run: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(run, { recursive: true, encoding: 'utf8' })
      .sort()
      .filter((file) => /\.(parquet|json|bin|arrow|spool|ndjson)$/.test(file))
      .map((file) => [file, readFileSync(join(run, file)).toString('base64')]),
  );

describe.each(devices)('on $name', ({ name: device }) => {
  const common = ['--device', device, '--block', '2'];

  describe('where nothing is truncated', () => {
    const name = `whole-${device}`;
    const merged = at(`${name}-merged`);
    let runs: string[];
    beforeAll(async () => {
      runs = await makeRuns(name, [...common, '--rank', '64', '--mode', 'models,rows,cols', '--no-energies']);
      await succeed('merge', ...runs, '--out', merged);
    }, LONG);

    it('eight shards are the single run, in more steps than one', async () => {
      expect(statesAStep(64)).toBeLessThan(SHARDS);
      const [found, expected] = await Promise.all([merged, at(name)].map(spectraOf));
      const worst = worstDifference(found!, expected!, 'models');
      expect(worst).toBeLessThan(1e-5);
      for (const [key, { subspace }] of expected!) {
        const there = found!.get(key)!.subspace;
        expect(there).toMatchObject({ n_models: 24n, exactness: 'exact', rank: subspace.rank });
        // The mean is small beside the models, and so is measured as a difference of larger numbers.
        const scale = Number(subspace.total_uncentred);
        for (const [column, weight] of [
          ['total', 1],
          ['total_uncentred', 1],
          ['mean_norm2', 24],
        ] as const) {
          const difference = Number(there[column]) - Number(subspace[column]);
          expect(Math.abs(weight * difference) / scale, `${key} ${column}`).toBeLessThan(1e-5);
        }
      }
      await expectSameModels(merged, at(name), 1e-5);
      // 23 directions of 24 models; float32 noise of 1e-7 on a weak direction shows as some hundredths of a degree.
      expect(await largestAngle(merged, at(name))).toBeLessThan(0.1);
      for (const file of readdirSync(join(merged, 'mean'))) {
        const [own, single] = await Promise.all(
          [merged, at(name)].map((run) => read(run, `mean/${file.slice(0, -8)}`)),
        );
        own!.forEach(
          ({ mean }, i) => void expect(Math.abs(Number(mean) - Number(single![i]!.mean))).toBeLessThan(1e-6),
        );
      }
    });

    it.each(['rows', 'cols'])('so are they in mode %s', async (mode) => {
      const [found, expected] = await Promise.all([merged, at(name)].map(spectraOf));
      expect(worstDifference(found!, expected!, mode)).toBeLessThan(device === 'blas' ? 1e-6 : 5e-6);
    });

    it('has the interval of what the modes keep together', async () => {
      const [found, expected] = await Promise.all([merged, at(name)].map((run) => byName(run, 'core')));
      for (const [slot, rows] of expected!) {
        const there = found!.get(slot)!;
        expect(there.length, slot).toBe(rows.length);
        expect(rows.length, slot).toBeGreaterThan(0);
        for (const [i, row] of rows.entries()) {
          const own = there[i]!;
          for (const column of ['rank_models', 'rank_rows', 'rank_cols', 'energy'])
            expect([slot, own[column]]).toEqual([slot, row[column]]);
          // Bounds have the rounding terms of either way.
          for (const column of ['share_low', 'share_high'])
            expect(Math.abs(Number(own[column]) - Number(row[column])), slot).toBeLessThan(1e-3);
        }
      }
    });

    it('the order of the arguments changes no byte, nor do the merged runs change', async () => {
      const before = runs.map(digestsOfAll);
      const other = at(`${name}-other`);
      await succeed('merge', ...[5, 2, 7, 0, 3, 6, 1, 4].map((i) => runs[i]!), '--out', other);
      expect(tableDigests(other)).toEqual(tableDigests(merged));
      const [a, b] = [merged, other].map((run) =>
        readdirSync(join(run, 'checkpoints')).filter((file) => !/^(begin|journal|manifest)/.test(file)),
      );
      // States and rows are named by what they hold.
      expect(a).toEqual(b);
      const [x, y] = [merged, other].map((run) => JSON.parse(readFileSync(join(run, 'run.json'), 'utf8')));
      expect({ ...x, config: { ...x.config, out: '' } }).toEqual({ ...y, config: { ...y.config, out: '' } });
      expect(runs.map(digestsOfAll)).toEqual(before);
    });

    it('tells where it comes from', async () => {
      const { lineage, run_id, order } = JSON.parse(readFileSync(join(merged, 'run.json'), 'utf8'));
      const parents = runs.map((run) => JSON.parse(readFileSync(join(run, 'run.json'), 'utf8')));
      const [own] = lineage;
      expect(lineage).toHaveLength(1);
      expect(own).toMatchObject({ run_id, operation: 'merge', models: 24 });
      expect(own.of.map((one: { run_id: string }) => one.run_id)).toEqual(parents.map((one) => one.run_id).sort());
      for (const { run_id: id, manifest, lineage: theirs, models } of own.of) {
        const parent = parents.findIndex((one) => one.run_id === id);
        expect([models, theirs]).toEqual([3, parents[parent].lineage]);
        const names = readdirSync(join(runs[parent]!, 'checkpoints')).filter((file) => file.startsWith('manifest-'));
        const newest = JSON.parse(readFileSync(join(runs[parent]!, 'checkpoints', names.sort().at(-1)!), 'utf8'));
        expect(manifest).toBe(newest.sha256);
      }
      expect(order).toEqual([...Array(24).keys()]);
      const single = JSON.parse(readFileSync(join(at(name), 'run.json'), 'utf8'));
      expect(run_id).not.toBe(single.run_id);
    });

    it(
      'merges of merges, and an extension of one, are the single run too',
      async () => {
        const [left, right, both] = ['left', 'right', 'both'].map((part) => at(`${name}-${part}`)) as [
          string,
          string,
          string,
        ];
        await succeed('merge', ...runs.slice(0, 4), '--out', left);
        await succeed('merge', ...runs.slice(4, 7), '--out', right);
        await succeed('merge', right, left, '--out', both);
        await succeed('extend', both, ...shardOf(7));
        const [found, expected] = await Promise.all([both, at(name)].map(spectraOf));
        expect(worstDifference(found!, expected!, 'models')).toBeLessThan(1e-5);
        for (const mode of ['rows', 'cols'])
          expect(worstDifference(found!, expected!, mode)).toBeLessThan(device === 'blas' ? 1e-6 : 5e-6);
        await expectSameModels(both, at(name), 1e-5);
        const generations = (await read(both, 'models')).map(({ generation }) => generation);
        expect(generations).toEqual([...Array(21).fill(0), ...Array(3).fill(1)]);
        const rows = (await read(both, 'convergence')).filter(({ slot_id }) => slot_id === 0);
        expect(rows.map(({ models_seen, generation }) => [Number(models_seen), generation])).toEqual([
          [21, 0],
          [23, 1],
          [24, 1],
        ]);
        const { lineage } = JSON.parse(readFileSync(join(both, 'run.json'), 'utf8'));
        expect(lineage.map(({ operation }: { operation: string }) => operation)).toEqual(['merge', 'extend']);
        expect(
          lineage[0].of.map(({ lineage: own }: { lineage: { operation: string }[] }) => own[0]!.operation),
        ).toEqual(['merge', 'merge']);
      },
      LONG,
    );
  });

  it(
    'eight shards at rank 8, where models are forgotten, hold the exact spectra in their bounds',
    async () => {
      const name = `eight-${device}`;
      const runs = await makeRuns(name, [...common, '--rank', '8']);
      await succeed('merge', ...runs, '--out', at(`${name}-merged`));
      const [found, expected] = await Promise.all([at(`${name}-merged`), at(name)].map(spectraOf));
      const golden = JSON.parse(readFileSync('examples/zoo/golden/scratch.json', 'utf8')).slots;
      expectExactInBounds(found!);
      for (const [key, { own, subspace }] of found!) {
        const exact = golden[key.split(' ')[0]!].eig.models as number[];
        expect(subspace.exactness).toBe('bounded');
        own.forEach(({ eigenvalue }, j) => {
          expect(Number(eigenvalue)).toBeLessThanOrEqual(exact[j]! + 1e-5 * exact[0]!);
        });
      }
      expect(worstDifference(found!, expected!, 'models')).toBeLessThan(0.05);
    },
    LONG,
  );
});

const expectExactInBounds = (found: Spectra): void => {
  const golden = JSON.parse(readFileSync('examples/zoo/golden/scratch.json', 'utf8')).slots;
  for (const [key, { own }] of found) {
    const exact = golden[key.split(' ')[0]!].eig.models as number[];
    own.forEach(({ bound_low, bound_high }, j) => {
      expect(Number(bound_low)).toBeLessThanOrEqual(exact[j]!);
      expect(Number(bound_high)).toBeGreaterThanOrEqual(exact[j]!);
    });
  }
};

// A sketch is a sum over models, so it makes no difference that it misses most of 24 models at rank 4.
describe.each(devices)('of the engine randomized on $name', ({ name: device }) => {
  it(
    'eight shards are the single run, in any order, and can be extended',
    async () => {
      const tolerance = 1e-6;
      const name = `sketch-${device}`;
      const runs = await makeRuns(name, ['--device', device, '--block', '2', '--engine', 'randomized', '--rank', '4']);
      const [merged, other, seven] = ['merged', 'other', 'seven'].map((what) => at(`${name}-${what}`)) as [
        string,
        string,
        string,
      ];
      await succeed('merge', ...runs, '--out', merged);
      await succeed('merge', ...[5, 2, 7, 0, 3, 6, 1, 4].map((i) => runs[i]!), '--out', other);
      expect(tableDigests(other)).toEqual(tableDigests(merged));
      await succeed('merge', ...runs.slice(0, 7), '--out', seven);
      await succeed('extend', seven, ...shardOf(7));
      const [found, extended, expected] = await Promise.all([merged, seven, at(name)].map(spectraOf));
      for (const one of [found!, extended!]) {
        expect(worstDifference(one, expected!, 'models')).toBeLessThan(tolerance);
        expectExactInBounds(one);
        for (const [key, { subspace }] of expected!) {
          const there = one.get(key)!.subspace;
          expect(there).toMatchObject({ engine: 'randomized', exactness: 'estimated', n_models: 24n, seed: 0n });
          for (const column of ['total', 'total_uncentred', 'lost'])
            expect(Math.abs(Number(there[column]) / Number(subspace[column]) - 1)).toBeLessThan(1e-5);
        }
      }
      // Of a flat spectrum the last of four directions is hardly set apart from the fifth.
      expect(await largestAngle(merged, at(name))).toBeLessThan(0.1);
      expect(await largestAngle(seven, at(name))).toBeLessThan(0.1);
    },
    LONG,
  );
});

describe('of other engines', () => {
  const common = ['--device', devices[0]!.name, '--block', '2'];

  it.each([
    ['randomized', []],
    ['randomized', ['--no-center']],
    ['frequent-directions', []],
  ] as const)(
    '%s %j, where nothing is forgotten, three shards are the single run, model by model',
    async (engine, more) => {
      const name = `${engine}${more.join('').replaceAll(/\W/g, '-')}`;
      const options = [...common, '--engine', engine, '--rank', '16', '--mode', 'models,rows', ...more];
      const runs = await makeRuns(name, options, 3, zoo.slice(0, 9));
      await succeed('merge', ...runs, '--out', at(`${name}-merged`));
      const [found, expected] = await Promise.all([at(`${name}-merged`), at(name)].map(spectraOf));
      expect(worstDifference(found!, expected!, 'models')).toBeLessThan(1e-5);
      expect(worstDifference(found!, expected!, 'rows')).toBeLessThan(5e-6);
      await expectSameModels(at(`${name}-merged`), at(name), 1e-5);
    },
    LONG,
  );

  it.each([
    ['incremental', 1],
    ['incremental', 4],
    ['frequent-directions', 1],
    ['frequent-directions', 2],
    ['frequent-directions', 8],
  ])(
    '%s at rank %i, where models are forgotten, eight shards are within 0.05 of the single run',
    async (engine, rank) => {
      const name = `near-${engine}-${rank}`;
      const runs = await makeRuns(name, [...common, '--engine', engine, '--rank', `${rank}`]);
      await succeed('merge', ...runs, '--out', at(`${name}-merged`));
      const [found, expected] = await Promise.all([at(`${name}-merged`), at(name)].map(spectraOf));
      for (const one of [found!, expected!]) {
        expectExactInBounds(one);
        for (const { subspace } of one.values()) expect(subspace.exactness).toBe('bounded');
      }
      expect(worstDifference(found!, expected!, 'models')).toBeLessThan(0.05);
    },
    LONG,
  );

  it(
    'frequent-directions at rank 8 holds the exact spectra in bounds as wide as it promises, at most',
    async () => {
      const name = 'shrunk';
      const runs = await makeRuns(name, [...common, '--engine', 'frequent-directions', '--rank', '8']);
      const [merged, other] = [at(`${name}-merged`), at(`${name}-other`)];
      await succeed('merge', ...runs, '--out', merged);
      await succeed('merge', ...runs.slice(1, 8), '--out', other);
      await succeed('extend', other, ...shardOf(0));
      const golden = JSON.parse(readFileSync('examples/zoo/golden/scratch.json', 'utf8')).slots;
      for (const one of await Promise.all([merged, other].map(spectraOf))) {
        expectExactInBounds(one);
        for (const [key, { own }] of one) {
          expect(own[0]!.bound_kind).toBe('frequent-directions');
          // Σδ ≤ ‖A − A_j‖² / (ℓ + 1 − j) for every j, ℓ = 16 rows: whatever was merged with what.
          const exact = golden[key.split(' ')[0]!];
          const width = Number(own[0]!.bound_high) - Number(own[0]!.bound_low);
          let rest = exact.total as number;
          for (let j = 0; j <= 16; j++) {
            expect(width).toBeLessThanOrEqual((1 + 1e-4) * (rest / (17 - j)) + 1e-5 * exact.eig.models[0]);
            rest -= exact.eig.models[j] ?? 0;
          }
        }
      }
    },
    LONG,
  );
});

describe('of other centring', () => {
  const common = ['--device', 'tfjs', '--block', '2'];
  it.each([
    ['with a base', ['--base', zoo[23]!]],
    ['uncentred', ['--no-center']],
  ])(
    'three shards are the single run %s',
    async (what, more) => {
      const name = `${what.replaceAll(/\W/g, '-')}`;
      const runs = await makeRuns(
        name,
        [...common, '--rank', '16', '--mode', 'models,rows', ...more],
        3,
        zoo.slice(0, 9),
      );
      await succeed('merge', ...runs, '--out', at(`${name}-merged`));
      const [found, expected] = await Promise.all([at(`${name}-merged`), at(name)].map(spectraOf));
      expect(worstDifference(found!, expected!, 'models')).toBeLessThan(1e-5);
      expect(worstDifference(found!, expected!, 'rows')).toBeLessThan(5e-6);
      await expectSameModels(at(`${name}-merged`), at(name), 1e-5);
      expect(existsSync(join(at(`${name}-merged`), 'mean'))).toBe(existsSync(join(at(name), 'mean')));
    },
    LONG,
  );

  it.each(
    devices.flatMap(({ name }) => [
      [name, 'the origin', zoo, 3, []] as const,
      [name, 'the base', full.slice(1), 2, ['--base', full[0]!]] as const,
    ]),
  )(
    "on %s rows and cols of shards of whole blocks are the single run to 1e-12 where the shift is the plan's: %s",
    async (device, what, models, size, more) => {
      const options = ['--device', device, '--block', `${size}`, '--rank', '16', '--mode', 'models,rows,cols'];
      const name = `${device}-${what.replace(' ', '-')}`;
      const shards = Math.ceil(models.length / size);
      const runs = await makeRuns(name, [...options, '--no-center', ...more], shards, models);
      await succeed('merge', ...runs.toReversed(), '--out', at(`${name}-merged`));
      const [found, expected] = await Promise.all([at(`${name}-merged`), at(name)].map(spectraOf));
      for (const mode of ['rows', 'cols']) expect(worstDifference(found!, expected!, mode)).toBeLessThan(1e-12);
      expect(worstDifference(found!, expected!, 'models')).toBeLessThan(1e-5);
    },
    LONG,
  );
});
