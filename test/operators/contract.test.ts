// What every engine must hold on every device, against float64 truth. Tolerances: 1e-5 of the largest eigenvalue is the
// promise where nothing was truncated; float32 Grams of shifted data reach about 1e-7.
import { describe, expect, it } from 'vitest';
import { eigenvalueSlack, roundingTerm } from '../../operators/subspace-state.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { everyDevice, withTilesOf } from './devices.ts';
import { exactSpectrum, type Folded, type FoldOptions, fold as foldWith, normals } from './planted.ts';

/** Fine-tunes: a base with large entries, a few shared directions of falling strength, a little noise. */
const planted = (models: number, features: number, directions: number, seed: number, noise = 1e-4): Float32Array[] => {
  const normal = normals(seed);
  const base = Float32Array.from({ length: features }, () => normal());
  const shared = Array.from({ length: directions }, () => Float64Array.from({ length: features }, () => normal()));
  return Array.from({ length: models }, () => {
    const strength = shared.map((_, j) => (normal() * 0.02) / (1 + j));
    return base.map((x, i) => {
      let sum = x + noise * normal();
      for (let j = 0; j < directions; j++) sum += strength[j]! * shared[j]![i]!;
      return sum;
    });
  });
};

const expectExact = (folded: Folded, rows: readonly Float32Array[], center = true, origin?: Float32Array): void => {
  const truth = exactSpectrum(rows, center, origin);
  const { state } = folded.subspace;
  const largest = Math.max(truth.eigenvalues[0]!, 1e-30);
  state.eigenvalues.forEach((value, j) => {
    expect(Math.abs(value - truth.eigenvalues[j]!) / largest).toBeLessThan(1e-5);
  });
  expect(Math.abs(state.total - truth.total) / Math.max(truth.total, 1e-30)).toBeLessThan(1e-5);
};

/** Enclosed, never above the truth by more than rounding, and nothing of the total unaccounted for. */
const expectBounds = (folded: Folded, rows: readonly Float32Array[]): void => {
  const { state } = folded.subspace;
  const truth = exactSpectrum(rows);
  let kept = 0;
  state.eigenvalues.forEach((value, j) => {
    kept += value;
    expect(value).toBeLessThanOrEqual(truth.eigenvalues[j]! + roundingTerm(state));
    expect(value + eigenvalueSlack(state)).toBeGreaterThanOrEqual(truth.eigenvalues[j]!);
  });
  expect(Math.abs(kept + state.lost - truth.total) / truth.total).toBeLessThan(1e-5);
};

const suites = (['incremental', 'frequent-directions', 'randomized', 'exact'] as const).flatMap((engine) =>
  everyDevice.map((device) => ({ ...device, engine })),
);

describe.each(suites)('$engine, mode models, on $name', { timeout: 300_000 }, ({ name, open, engine }) => {
  // A GPU in software takes 0.1 s of a processor for a million products: there sizes are what makes several chunks or tiles.
  const isGpu = name === 'tfjs:webgpu';

  const fold = (tiles: Tiles, rows: readonly Float32Array[], options: FoldOptions): Promise<Folded> =>
    foldWith(tiles, rows, { ...options, engine });

  const withTiles = withTilesOf(open);

  it.each([
    ['tall: more features than one tile', isGpu ? 7 : 20, isGpu ? 17_000 : 40_000, isGpu ? 8 : 32, isGpu ? 4 : 8],
    ['wide: more models than features', 60, 12, 32, 16],
    ['a short last block', 19, 500, 32, 8],
    ['one model a block', 9, 300, 32, 1],
    ['rank above everything', 7, 64, 1000, 3],
    ['one block holds all', 10, 200, 32, 64],
    ['an odd number of features', isGpu ? 5 : 11, isGpu ? 2049 : 16_385, isGpu ? 8 : 32, 4],
  ])('is exact when nothing is truncated: %s', async (_name, models, features, rank, block) => {
    const rows = planted(models, features, 5, 7, 1e-2);
    await withTiles(async (tiles) => {
      const folded = await fold(tiles, rows, { rank, block });
      expectExact(folded, rows);
      expectBounds(folded, rows);
    });
  });

  it('folds a single model into no direction and no scatter', async () => {
    await withTiles(async (tiles) => {
      const [row] = planted(1, 100, 2, 1);
      const { subspace, mean } = await fold(tiles, [row!], { rank: 4, block: 8 });
      expect(subspace.rank).toBe(0);
      expect(subspace.state.total).toBeLessThan(1e-8);
      row!.forEach((x, i) => void expect(mean[i]).toBeCloseTo(x, 5));
    });
  });

  const interruptions: readonly (readonly [string, number, number])[] = [
    ['where rows are added onto those held', 4, isGpu ? 300 : 16_500],
    ['right after all rows were made the state’s own', 15, 5_000],
    ['before anything is truncated', 0, 16_500],
    ['after the last block', 18, 5_000],
    ['where rows are few and always mixed', 5, 40],
  ];
  it.runIf(engine !== 'exact').each(isGpu ? interruptions.slice(0, 1) : interruptions)(
    'goes on from a checkpoint to the same bits: %s',
    async (_name, interruptAfter, features) => {
      const rows = planted(75, features, 6, 21, 1e-2);
      await withTiles(async (tiles) => {
        for (const base of isGpu ? [rows[3]!] : [undefined, rows[3]!]) {
          const options = { rank: 4, block: 4, ...(base === undefined ? {} : { base }) };
          const whole = await fold(tiles, rows, options);
          const resumed = await fold(tiles, rows, { ...options, interruptAfter });
          const { state, rank, signs } = resumed.subspace;
          expect({ state, rank, signs }).toEqual({
            state: whole.subspace.state,
            rank: whole.subspace.rank,
            signs: whole.subspace.signs,
          });
          expect(resumed.scores).toEqual(whole.scores);
          expect(resumed.mean).toEqual(whole.mean);
          expect(resumed.basis).toEqual(whole.basis);
        }
      });
    },
  );

  it('finds no direction in identical models, and the right one beside constant duplicates', async () => {
    await withTiles(async (tiles) => {
      const [row, other] = planted(2, 300, 2, 3) as [Float32Array, Float32Array];
      const same = await fold(tiles, [row, row, row, row, row], { rank: 4, block: 2 });
      expect(same.subspace.state.total).toBeLessThan(1e-9);
      const rows = [row, row, other, row, other, other, row];
      const two = await fold(tiles, rows, { rank: 4, block: 2 });
      expect(two.subspace.rank).toBe(1);
      expectExact(two, rows);
    });
  });

  it('keeps as many directions as the weights have, not more', async () => {
    await withTiles(async (tiles) => {
      const rows = planted(30, 2000, 3, 11, 0);
      const { subspace } = await fold(tiles, rows, { rank: 16, block: 8 });
      // Weights of size 1 in float32 carry 6e-8 of noise an entry: far below the planted directions.
      const share = subspace.state.eigenvalues.map((value) => value / subspace.state.eigenvalues[0]!);
      expect(share[2]).toBeGreaterThan(1e-3);
      expect(share[3] ?? 0).toBeLessThan(1e-5);
    });
  });

  it('bounds what truncation cost, on a flat spectrum too', async () => {
    await withTiles(async (tiles) => {
      const normal = normals(5);
      const flat = Array.from({ length: isGpu ? 24 : 48 }, () => Float32Array.from({ length: 700 }, () => normal()));
      const folded = await fold(tiles, flat, { rank: 4, block: 6 });
      if (engine === 'exact') expect(folded.subspace.state.lost).toBe(0);
      else expect(folded.subspace.state.lost).toBeGreaterThan(0);
      expectBounds(folded, flat);
      const steep = planted(isGpu ? 32 : 64, isGpu ? 1500 : 3000, 12, 9, 1e-3);
      expectBounds(await fold(tiles, steep, { rank: 4, block: 8 }), steep);
    });
  });

  it('gives the same subspace for every block size when nothing is truncated', async () => {
    const rows = planted(24, 600, 6, 13, 1e-2);
    await withTiles(async (tiles) => {
      const results: Folded[] = [];
      for (const block of [1, 5, 24]) results.push(await fold(tiles, rows, { rank: 24, block }));
      const [first, ...others] = results as [Folded, ...Folded[]];
      for (const other of others) {
        first.subspace.state.eigenvalues.forEach((value, j) => {
          const difference = Math.abs(value - other.subspace.state.eigenvalues[j]!);
          expect(difference / first.subspace.state.eigenvalues[0]!).toBeLessThan(1e-5);
        });
      }
    });
  });

  it('does not depend on the order of models when nothing is truncated', async () => {
    const rows = planted(16, 400, 4, 17, 1e-2);
    await withTiles(async (tiles) => {
      const forward = await fold(tiles, rows, { rank: 16, block: 4 });
      const backward = await fold(tiles, [...rows].reverse(), { rank: 16, block: 4 });
      expectExact(forward, rows);
      expectExact(backward, rows);
    });
  });

  it('writes unit directions at right angles, largest entry positive, and the mean', async () => {
    const rows = planted(20, isGpu ? 2_500 : 20_000, 6, 19, 1e-3);
    await withTiles(async (tiles) => {
      const { basis, mean, subspace } = await fold(tiles, rows, { rank: 5, block: 6 });
      expect(basis).toHaveLength(5);
      basis.forEach((a, j) => {
        basis.forEach((b, l) => {
          let dot = 0;
          for (let i = 0; i < a.length; i++) dot += a[i]! * b[i]!;
          // S stays orthogonal to about 3e-7 a block relative to the largest direction.
          expect(dot).toBeCloseTo(j === l ? 1 : 0, 3);
        });
        const peak = a.reduce((most, x) => (Math.abs(x) > Math.abs(most) ? x : most), 0);
        expect(peak).toBeGreaterThan(0);
      });
      const truth = exactSpectrum(rows);
      mean.forEach((x, i) => {
        if (i % 997 === 0) expect(x).toBeCloseTo(truth.mean[i]!, 5);
      });
      expect(subspace.state.models).toBe(20);
    });
  });

  it('measures about the origin without centring, and about a base', async () => {
    const rows = planted(12, 500, 4, 23, 1e-2);
    await withTiles(async (tiles) => {
      expectExact(await fold(tiles, rows, { rank: 12, block: 5, center: false }), rows, false);
      const base = rows[0]!.map((x) => x + 0.01);
      expectExact(await fold(tiles, rows, { rank: 12, block: 5, center: false, base }), rows, false, base);
      const centred = await fold(tiles, rows, { rank: 12, block: 5, base });
      expectExact(centred, rows);
      const { state } = centred.subspace;
      let raw = 0;
      for (const row of rows) for (let i = 0; i < row.length; i++) raw += (row[i]! - base[i]!) ** 2;
      expect(Math.abs(state.totalUncentred - raw) / raw).toBeLessThan(1e-5);
      expect(Math.abs(state.total + 12 * state.meanNorm2 - raw) / raw).toBeLessThan(1e-5);
    });
  });

  it.runIf(engine !== 'exact').each([
    ['', {}],
    [', also from a checkpoint in between', { interruptAfter: 0 }],
  ])('measures about a base where whole blocks at the beginning are left out%s', async (_name, more) => {
    const rows = planted(14, 16_500, 4, 23, 1e-2);
    const base = rows[0]!.map((x) => x + 0.01);
    const whole = rows.slice(4);
    for (const row of rows.slice(0, 4)) row[16_400] = Number.NaN;
    await withTiles(async (tiles) => {
      for (const center of [true, false]) {
        const options = { rank: 12, block: 2, center, base, onBadSource: 'skip', ...more } as const;
        const folded = await fold(tiles, rows, options);
        expect(folded.subspace.state.models).toBe(10);
        expectExact(folded, whole, center, base);
        let raw = 0;
        for (const row of whole) for (let i = 0; i < row.length; i++) raw += (row[i]! - base[i]!) ** 2;
        expect(Math.abs(folded.subspace.state.totalUncentred - raw) / raw).toBeLessThan(1e-5);
      }
    });
  });

  it('scores each model before it is folded, as a projection in float64 does', async () => {
    const rows = planted(24, 900, 5, 29, 1e-2);
    await withTiles(async (tiles) => {
      const whole = await fold(tiles, rows, { rank: 3, block: 8 });
      const before = await fold(tiles, rows.slice(0, 16), { rank: 3, block: 8 });
      const scored = whole.scores.slice(16);
      rows.slice(16).forEach((row, i) => {
        let centred = 0;
        for (let f = 0; f < row.length; f++) centred += (row[f]! - before.mean[f]!) ** 2;
        let captured = 0;
        for (const direction of before.basis) {
          let dot = 0;
          for (let f = 0; f < row.length; f++) dot += (row[f]! - before.mean[f]!) * direction[f]!;
          captured += dot * dot;
        }
        expect(Math.abs(scored[i]!.centred2! - centred) / centred).toBeLessThan(1e-4);
        expect(Math.abs(scored[i]!.captured2! - captured) / centred).toBeLessThan(1e-4);
      });
      expect(whole.scores[0]!.centred2).toBeNull();
    });
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, 1e30])(
    'never folds %s: the stream ends and names the entry',
    async (bad) => {
      const rows = planted(9, 20_000, 2, 31);
      rows[5]![17_000] = bad;
      await withTiles(async (tiles) => {
        await expect(fold(tiles, rows, { rank: 4, block: 3 })).rejects.toThrow(/entry 17000 is .*expected finite/);
      });
    },
  );

  it('takes denormals and all-zero weights', async () => {
    await withTiles(async (tiles) => {
      const zero = Array.from({ length: 5 }, () => new Float32Array(64));
      expect((await fold(tiles, zero, { rank: 4, block: 2 })).subspace.state.total).toBe(0);
      const tiny = Array.from({ length: 5 }, (_, m) => new Float32Array(64).fill(1e-42 * m));
      expect((await fold(tiles, tiny, { rank: 4, block: 2 })).subspace.rank).toBe(0);
    });
  });

  it('leaves its input as it was, and gives the same bits twice', async () => {
    const rows = planted(14, isGpu ? 2_500 : 17_000, 4, 37);
    const copies = rows.map((row) => row.slice());
    await withTiles(async (tiles) => {
      const a = await fold(tiles, rows, { rank: 4, block: 4 });
      const b = await fold(tiles, rows, { rank: 4, block: 4 });
      rows.forEach((row, i) => void expect(row).toEqual(copies[i]));
      expect(a.subspace.state.eigenvalues).toEqual(b.subspace.state.eigenvalues);
      expect(a.basis).toEqual(b.basis);
    });
  });
});
