// The cost of the two ways: break-even points worked out by hand, and the factored count against what a device was in
// fact asked to multiply.
import { describe, expect, it } from 'vitest';
import type { Device, Samples } from '../../operators/devices/device.ts';
import {
  type AdapterFlopsOptions,
  type AdapterMode,
  cheaperWay,
  denseFlops,
  factoredFlops,
} from '../../operators/factored-flops.ts';
import { factoredGram } from '../../operators/factored-gram.ts';
import { factoredModes } from '../../operators/factored-modes.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { type Extent, isDiagonal, type PackedBlock, widthOf } from '../../operators/linalg/packed-blocks.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { plantedAdapters, sourceOf } from './adapters.ts';
import { devices } from './devices.ts';

const work = (models: number, rank: number, rows: number, cols: number) => ({
  rows,
  cols,
  ranks: Array<number>(models).fill(rank),
});

const asked = (modes: readonly AdapterMode[], energies = 0): AdapterFlopsOptions => ({
  modes,
  center: true,
  energies,
  core: 0,
});

describe('the cheaper way', () => {
  // models: r² (rows + cols) against rows cols (1 + 2 r / N). rows: r (cols² + 2 rows cols) + rows cols² / N + 2 r² (rows + 2 cols)
  // against rows cols² + 2 r rows cols.
  it.each([
    // Many adapters of 4,096 x 4,096: sqrt(2,048) = 45.3.
    ['models', 100_000, 45, 4096, 4096, 'factored'],
    ['models', 100_000, 46, 4096, 4096, 'dense'],
    // At 500, decoding makes the dense way a fifth dearer: 49² · 8,192 < 4,096² · 1.196, 50² · 8,192 > 4,096² · 1.2.
    ['models', 500, 49, 4096, 4096, 'factored'],
    ['models', 500, 50, 4096, 4096, 'dense'],
    // A narrow side makes thin factors no thinner than the matrix: 64 · 1,024 / 1,088 = 60.2 = 7.76².
    ['models', 100_000, 7, 64, 1024, 'factored'],
    ['models', 100_000, 8, 64, 1024, 'dense'],
    // rows of a 64 x 64 slot, per adapter: r · 64² + 6 · 64 r² against 64³, so 3 r² + 32 r = 2,048 and r = 21.3.
    ['rows', 100_000, 21, 64, 64, 'factored'],
    ['rows', 100_000, 22, 64, 64, 'dense'],
    ['cols', 100_000, 21, 64, 64, 'factored'],
    ['cols', 100_000, 22, 64, 64, 'dense'],
  ] as const)('in mode %s of %d adapters of rank %d, %d x %d: %s', (mode, models, rank, rows, cols, way) => {
    expect(cheaperWay(work(models, rank, rows, cols), asked([mode]))).toBe(way);
  });

  it('of the usual adapters is by factors, by a factor that is known', () => {
    const usual = work(500, 16, 4096, 4096);
    const ratio = (modes: readonly AdapterMode[], energies = 0): number =>
      denseFlops(usual, asked(modes, energies)) / factoredFlops(usual, asked(modes, energies));
    // (500² + 2 · 8,000) · 4,096² / (8,000² · 8,192).
    expect(ratio(['models'])).toBeCloseTo(8.512, 3);
    // In units of rows cols: (500 · 4,096 + 16,000) / (8,000 + 16,000 + 4,096 + 187.5).
    expect(ratio(['rows'])).toBeCloseTo(72.975, 2);
    // (2 · (500 · 4,096 + 2 · 500 · 32) + 32,000) / (2 · (8,000 + 16,000 + 4,096 + 64 + 250) + 250).
    expect(ratio(['rows', 'cols'], 32)).toBeCloseTo(73.454, 2);
  });

  it('adapters of rank 0 cost their factors nothing', () => {
    expect(factoredFlops(work(10, 0, 64, 64), asked(['models']))).toBe(0);
  });
});

/** The device, and the flops of what it was asked to multiply. */
const counting = (device: Device): { readonly device: Device; readonly flops: () => number } => {
  let flops = 0;
  return {
    flops: () => flops,
    device: new Proxy(device, {
      get: (target, name) => {
        const value = Reflect.get(target, name);
        if (name === 'addScatter')
          return (samples: Samples, block: PackedBlock, out: Float64Array) => {
            const cells = widthOf(block.rows) * widthOf(block.columns);
            flops += samples.count * cells * (isDiagonal(block) ? 1 : 2);
            target.addScatter(samples, block, out);
          };
        if (name === 'addCross')
          return (a: Samples, rows: Extent, b: Samples, columns: Extent, out: Float64Array) => {
            flops += 2 * a.count * widthOf(rows) * widthOf(columns);
            target.addCross(a, rows, b, columns, out);
          };
        if (name === 'multiplyDouble')
          return (...args: Parameters<Device['multiplyDouble']>) => {
            const { m, n, k } = args[1];
            flops += 2 * m * n * k;
            target.multiplyDouble(...args);
          };
        return typeof value === 'function' ? value.bind(target) : value;
      },
    }),
  };
};

describe.each(devices)('on $name', ({ openDevice }) => {
  it('the factored count is what is multiplied', async () => {
    const [rows, cols] = [40, 24];
    const ranks = Array.from({ length: 90 }, (_, i) => 3 + (i % 11));
    const source = sourceOf(plantedAdapters([rows, cols], ranks, 3));
    const { device, flops } = counting(await openDevice());
    const tiles = inlineTiles(device, jsEigenSolver);
    await factoredGram(source, { tiles, memory: 2 ** 30 });
    expect(flops()).toBe(factoredFlops(source, asked(['models'])));
    for (const modes of [['rows'], ['cols'], ['rows', 'cols']] as const) {
      const before = flops();
      const { spectra } = await factoredModes(source, { modes, rank: 5, tiles });
      expect(spectra.map(({ rank }) => rank)).toEqual(modes.map(() => 5));
      expect(flops() - before).toBe(factoredFlops(source, asked(modes, 5)));
    }
    await tiles.close();
  });
});
