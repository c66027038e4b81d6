// A device that returns what is no number, although every weight is one: the stream stops, and says who it was.
import { describe, expect, it } from 'vitest';
import type { Device } from '../../operators/devices/device.ts';
import { NumericalFailure } from '../../operators/errors.ts';
import { factoredGram } from '../../operators/factored-gram.ts';
import { factoredModes } from '../../operators/factored-modes.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { plantedAdapters, sourceOf } from './adapters.ts';
import { devices } from './devices.ts';
import { fold, foldModes, normals } from './planted.ts';

const normal = normals(3);
const rows = Array.from({ length: 24 }, () => Float32Array.from({ length: 40 * 30 }, () => normal()));

/** The device, but that the `call`-th product of a kind has one wrong number, off the diagonal. */
const breaking = (device: Device, kernel: 'gram' | 'gramOfAll' | 'addScatter' | 'addCross', call: number): Device => {
  let calls = 0;
  return new Proxy(device, {
    get: (target, name) => {
      const value = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        const result = Reflect.apply(value, target, args);
        const out = args.at(-1);
        if (name === kernel && calls++ === call && out instanceof Float64Array) out[1] = Number.NaN;
        return result;
      };
    },
  });
};

describe.each(devices)('on $name', ({ name, openDevice }) => {
  it.each([
    ['incremental', 'gramOfAll', 0],
    ['incremental', 'gram', 2],
    ['exact', 'gramOfAll', 0],
  ] as const)('%s: a wrong number of %s, call %d', async (engine, kernel, call) => {
    const tiles = inlineTiles(breaking(await openDevice(), kernel, call), jsEigenSolver);
    const failure = await fold(tiles, rows, { engine, rank: 4, block: 4 }).catch((error) => error);
    expect(failure).toBeInstanceOf(NumericalFailure);
    expect(failure.message).toMatch(
      name === 'blas' ? /^slot w: OpenBLAS .* is not finite/ : /^slot w: tfjs-wasm .* is not finite/,
    );
    await tiles.close();
  });

  it('modes rows and cols: a wrong number of a scatter matrix', async () => {
    const tiles = inlineTiles(breaking(await openDevice(), 'addScatter', 1), jsEigenSolver);
    const options = { modes: ['rows', 'cols'], rank: 4, block: 4, shape: [40, 30] } as const;
    await expect(foldModes(tiles, rows, options)).rejects.toThrow(/scatter matrix that is not finite/);
    await tiles.close();
  });

  // Over 60 adapters of rank 16 a Gram is made of three pairs of blocks, two products each; a mean is one product, then one
  // along directions, then one for each block of vectors.
  const adapters = sourceOf(plantedAdapters([40, 30], Array(60).fill(16), 2));

  it.each([
    ['addScatter', 0],
    ['addScatter', 3],
    ['addCross', 0],
    ['addCross', 1],
  ] as const)('the Gram of factors: a wrong number of %s, call %d', async (kernel, call) => {
    const tiles = inlineTiles(breaking(await openDevice(), kernel, call), jsEigenSolver);
    const failure = await factoredGram(adapters, { tiles, memory: 2 ** 30 }).catch((error) => error);
    expect(failure).toBeInstanceOf(NumericalFailure);
    expect(failure.message).toMatch(/q_proj: .* Gram matrix of factors that is not finite/);
    await tiles.close();
  });

  it.each([
    ['addScatter', 0, /scatter matrix that is not finite/],
    ['addScatter', 1, /scatter matrix that is not finite/],
    ['addCross', 0, /scatter matrix that is not finite/],
    ['addCross', 1, /energies that are not finite/],
    ['addCross', 3, /energies that are not finite/],
  ] as const)('modes of factors: a wrong number of %s, call %d', async (kernel, call, message) => {
    const tiles = inlineTiles(breaking(await openDevice(), kernel, call), jsEigenSolver);
    const failure = await factoredModes(adapters, { modes: ['rows'], rank: 3, tiles }).catch((error) => error);
    expect(failure).toBeInstanceOf(NumericalFailure);
    expect(failure.message).toMatch(message);
    await tiles.close();
  });
});
