// Rows that stand for the state: adding onto them must give what mixing in full gives, as exactly, and must really happen.
// Tolerances against the float64 spectrum of the same float32 weights: 5e-7 of the largest eigenvalue (measured 2e-7 on a
// flat spectrum, 1e-7 on a steep one; mixing in full every block gives the same), 1e-4 of an eigenvalue itself down to
// 1e-4 of the largest, as DESIGN promises of float32 Grams.
import { describe, expect, it } from 'vitest';
import type { Device, DeviceMatrix } from '../../operators/devices/device.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { mayAdd, newRows, rowsAfter } from '../../operators/stored-rows.ts';
import { emptySubspace } from '../../operators/subspace-state.ts';
import type { Addition } from '../../operators/tile-tasks.ts';
import type { SubspaceUpdate } from '../../operators/update-subspace.ts';
import { devices } from './devices.ts';
import { exactSpectrum, fold, normals } from './planted.ts';

const FEATURES = 17_000;
const RANK = 16;
const BLOCK = 16;

const planted = (models: number, directions: number, decay: number, noise: number): Float32Array[] => {
  const normal = normals(3);
  const shared = Array.from({ length: directions }, () => Float64Array.from({ length: FEATURES }, () => normal()));
  return Array.from({ length: models }, () => {
    const out = new Float64Array(FEATURES).fill(0.5);
    shared.forEach((direction, j) => {
      const strength = normal() * 0.02 * decay ** j;
      for (let i = 0; i < FEATURES; i++) out[i] = out[i]! + strength * direction[i]!;
    });
    return Float32Array.from(out, (x) => x + noise * normal());
  });
};

/** A device that tells how rows were mixed. */
const counting = (device: Device): { device: Device; counts: { added: number; replaced: number; swapped: number } } => {
  const counts = { added: 0, replaced: 0, swapped: 0 };
  const own: Partial<Device> = {
    combine: (...args) => {
      if (args[1] > 1) counts.replaced++;
      device.combine(...args);
    },
    accumulate: (...args) => {
      counts.added++;
      device.accumulate(...args);
    },
    ...(device.swapRows && {
      swapRows: (...args) => {
        counts.swapped++;
        device.swapRows!(...args);
      },
    }),
  };
  return { device: instead(device, (name) => own[name as keyof Device] ?? device[name as keyof Device]), counts };
};

/** A device that has some things of its own. */
const instead = (device: Device, own: (name: string | symbol) => unknown): Device =>
  new Proxy(device, {
    get: (target, name) => {
      const value = own(name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });

/** A device that lacks some things. */
const without = (device: Device, names: readonly string[]): Device =>
  instead(device, (name) => (names.includes(String(name)) ? undefined : device[name as keyof Device]));

describe.each(devices)('on $name', ({ open, openDevice }) => {
  it.each([
    ['a steep spectrum', 24, 0.7, 1e-7],
    ['a flat spectrum', 30, 1, 0],
  ])('%s over 20 blocks is as exact as full mixing', async (_name, directions, decay, noise) => {
    const rows = planted(320, directions, decay, noise);
    const truth = exactSpectrum(rows);
    const tiles = await open();
    try {
      const { subspace, basis } = await fold(tiles, rows, { rank: RANK, block: BLOCK });
      const { eigenvalues, total } = subspace.state;
      const largest = truth.eigenvalues[0]!;
      eigenvalues.forEach((value, j) => {
        const difference = Math.abs(value - truth.eigenvalues[j]!);
        expect(difference / largest).toBeLessThan(5e-7);
        if (truth.eigenvalues[j]! > 1e-4 * largest) expect(difference / truth.eigenvalues[j]!).toBeLessThan(1e-4);
      });
      expect(Math.abs(total / truth.total - 1)).toBeLessThan(1e-6);
      // Directions down to 1e-5 of the largest eigenvalue are at right angles to 1e-4; those of a flat spectrum to 1e-6.
      basis.forEach((a, j) => {
        for (let l = 0; l <= j; l++) {
          let dot = 0;
          for (let i = 0; i < FEATURES; i++) dot += a[i]! * basis[l]![i]!;
          expect(Math.abs(dot - (j === l ? 1 : 0))).toBeLessThan(decay === 1 ? 1e-6 : 1e-4);
        }
      });
    } finally {
      await tiles.close();
    }
  });

  it('adds after every block but each sixteenth, and mixes in full for that where rows cannot change places', async () => {
    const { device, counts } = counting(await openDevice());
    const tiles = inlineTiles(device, jsEigenSolver);
    const panels = Math.ceil(16_384 / device.info.panel) + Math.ceil((FEATURES - 16_384) / device.info.panel);
    try {
      await fold(tiles, planted(320, 30, 0.95, 0), { rank: RANK, block: BLOCK });
      // 19 visits after the first, what the last block left, and the mixing into directions.
      expect((counts.added + counts.replaced) / panels).toBe(21);
      if (device.swapRows !== undefined) {
        expect(counts.replaced / panels).toBe(2);
        expect(counts.swapped / panels).toBeGreaterThanOrEqual(3);
      } else {
        expect(counts.replaced / panels).toBeGreaterThanOrEqual(3);
        expect(counts.added / panels).toBeGreaterThanOrEqual(12);
      }
    } finally {
      await tiles.close();
    }
  });

  it('comes to the same where rows cannot change places', async () => {
    const rows = planted(96, 30, 0.95, 0);
    const spectra: Float64Array[] = [];
    for (const hidden of [[], ['swapRows']]) {
      const tiles = inlineTiles(without(await openDevice(), hidden), jsEigenSolver);
      try {
        const { subspace } = await fold(tiles, rows, { rank: RANK, block: BLOCK });
        spectra.push(subspace.state.eigenvalues);
      } finally {
        await tiles.close();
      }
    }
    // The same rows, rounded otherwise.
    spectra[0]!.forEach((value, j) => {
      expect(Math.abs(value - spectra[1]![j]!) / spectra[0]![0]!).toBeLessThan(2e-7);
    });
  });

  it('multiplies all rows with all as it does some with some', async () => {
    const device = await openDevice();
    const normal = normals(11);
    const [rows, width] = [37, 700];
    const matrix: DeviceMatrix = device.allocate(rows + 2, width);
    device.write(
      matrix,
      0,
      Float32Array.from({ length: rows * width }, () => normal()),
    );
    const [all, some] = [new Float64Array(rows * rows).fill(1), new Float64Array(rows * rows).fill(1)];
    device.gramOfAll(matrix, rows, all);
    device.gram(matrix, 0, rows, 0, rows, some);
    // Sums of 700 products of size 1 in float32, in another order.
    for (let i = 0; i < rows; i++) {
      for (let j = i; j < rows; j++) expect(Math.abs(all[i * rows + j]! - some[i * rows + j]!)).toBeLessThan(1e-3);
    }
    device.free(matrix);
  });

  it('exchanges two rows, and leaves others alone', async () => {
    const device = await openDevice();
    if (device.swapRows === undefined) return;
    // Wide first: what is kept in between is longer than the rows that come after.
    for (const width of [700, 33]) {
      const matrix: DeviceMatrix = device.allocate(5, width);
      const values = Float32Array.from({ length: 5 * width }, (_, i) => i);
      device.write(matrix, 0, values);
      device.swapRows(matrix, 1, 4);
      const rows = [0, 4, 2, 3, 1].map((row) => [...values.subarray(row * width, (row + 1) * width)]);
      expect([...device.read(matrix, 0, 5)]).toEqual(rows.flat());
      device.free(matrix);
    }
  });

  it('adds rows that follow onto rows, and leaves others alone', async () => {
    const device = await openDevice();
    const width = 33;
    const normal = normals(9);
    const values = Float32Array.from({ length: 8 * width }, () => normal());
    const p = Float64Array.from({ length: 3 * 2 }, () => normal());
    const matrix: DeviceMatrix = device.allocate(8, width);
    device.write(matrix, 0, values.slice(0, 5 * width));
    device.write(matrix, 5, values.slice(5 * width));
    device.accumulate(p, 3, matrix, 2, 2);
    const got = device.read(matrix, 0, 5);
    for (let row = 0; row < 5; row++) {
      for (let i = 0; i < width; i++) {
        let want = values[row * width + i]!;
        if (row >= 2) for (let l = 0; l < 2; l++) want += p[(row - 2) * 2 + l]! * values[(5 + l) * width + i]!;
        expect(got[row * width + i]).toBeCloseTo(want, 5);
      }
    }
    device.accumulate(new Float64Array(0), 2, matrix, 2, 0);
    expect([...device.read(matrix, 0, 4)]).toEqual([...got.subarray(0, 4 * width)]);
    device.free(matrix);
  });
});

describe('rowsAfter', () => {
  // A mean, two state rows, a block of two; the new state has a mean and two rows, whose parts in the old rows differ by
  // `apart` alone, and in those of the block by `beyond`.
  const spec = { features: 2 ** 20, rank: 1, center: true, shiftIsOrigin: false };
  const state = { ...emptySubspace, models: 8, eigenvalues: Float64Array.of(1, 1), meanNorm2: 1 };
  const rowsOf = ({ apart = 0.9, beyond = 1.4, renew = false, swaps = true, stored = newRows } = {}) => {
    const mix = Float64Array.of(0.8, 0, 0, 0.1, 0.1, 0, 0.5, 0.5, 0.7, 0, 0, 0.5, 0.5 - apart, 0.7 - beyond, 0);
    const update = { mix, oldRows: 2, newRows: 2, state } as unknown as SubspaceUpdate;
    return rowsAfter(spec, stored, state, update, Float64Array.of(1, 1), { renew, swaps });
  };

  it.each([
    ['the rows that stay tell the state rows apart', 0.9, 0],
    ['they do with a row of the block in place of one', 1e-4, 1],
    ['one of them is no use at all', 0, 1],
  ])('adds where %s, and says what the rows stand for', (_, apart, changed) => {
    const { map, due } = rowsOf({ apart });
    const { m, n } = due!.mix;
    const mix = due!.mix as Addition;
    expect([mix.kind, m, n, mix.exchanges.length]).toEqual(['add', 3, 5, changed]);
    // R times what is added up, of rows that have changed places, is the mixing itself.
    const order = Array.from({ length: n }, (_, j) => j);
    for (const [a, b] of mix.exchanges) [order[a], order[b]] = [order[b]!, order[a]!];
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        const added = (l: number): number => (j < m ? Number(j === l) : mix.values[l * (n - m) + j - m]!);
        let sum = 0;
        for (let l = 0; l < m; l++) sum += map![i * m + l]! * added(l);
        expect(sum).toBeCloseTo(due!.whole.values[i * n + order[j]!]!, 12);
      }
    }
  });

  it.each([
    ['where no rows tell the state rows apart', { apart: 0, beyond: 0 }],
    // Twenty times as long as what they stand for.
    ['where the rows held have become much longer', { stored: { ...newRows, norms2: new Float64Array(3).fill(400) } }],
    ['where it is asked to', { renew: true }],
    ['where a row of the block should stay and cannot', { apart: 0, swaps: false }],
    ['where something is no number', { apart: Number.NaN }],
  ])('mixes in full %s', (_, how) => {
    const { map, due } = rowsOf(how);
    expect(map).toBeNull();
    expect(due!.mix).toMatchObject({ kind: 'replace', m: 3, n: 5 });
  });

  it('adds to the rows of the state alone where rows cannot change places', () => {
    // Which are held as well as need be, if not as well as with one of the block.
    const { due } = rowsOf({ apart: 0.3, swaps: false });
    expect(due!.mix).toMatchObject({ kind: 'add', exchanges: [] });
    expect((rowsOf({ apart: 0.3 }).due!.mix as Addition).exchanges).toHaveLength(1);
  });

  it('leaves small slots to full mixing', () => {
    expect(mayAdd(256 * 65, 65)).toBe(true);
    expect(mayAdd(256 * 65 - 1, 65)).toBe(false);
  });
});
