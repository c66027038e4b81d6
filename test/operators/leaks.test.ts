// Nothing stays behind: matrices of blas are counted by their allocator, tensors of tfjs by tfjs itself, matrices of cuda as they are
// asked for and given back (what the card itself has left: cuda-device.test.ts). What an engine
// takes while it runs does not grow with the number of blocks, and all of it is given back.
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { blasDevice, type FloatAllocator } from '../../operators/devices/blas-device.ts';
import { loadBlas } from '../../operators/devices/blas-library.ts';
import { findBlas } from '../../operators/devices/find-blas.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import { type DeviceUnderTest, devices, everyDevice, openGpu } from './devices.ts';
import { fold, foldModes, normals } from './planted.ts';

interface Watched {
  readonly tiles: Tiles;
  /** Matrices or tensors alive. */
  readonly live: () => number;
}

const countedBlas = (): Watched => {
  let live = 0;
  const memory: FloatAllocator = {
    allocate: (floats) => {
      live++;
      return new Float32Array(floats);
    },
    release: () => void live--,
  };
  const tiles = inlineTiles(blasDevice(loadBlas(findBlas()!.abi.path), memory), jsEigenSolver);
  return { tiles, live: () => live };
};

const watch = async (name: DeviceUnderTest['name']): Promise<Watched> => {
  if (name === 'blas') return countedBlas();
  if (name === 'tfjs:webgpu') {
    const device = await openGpu();
    return { tiles: inlineTiles(device, jsEigenSolver), live: () => device.memory().tensors };
  }
  if (name === 'cuda') {
    let live = 0;
    const device = await everyDevice.find((each) => each.name === name)!.openDevice();
    const counted = new Proxy(device, {
      get: (target, key) => {
        const value = Reflect.get(target, key) as unknown;
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) => {
          if (key === 'allocate') live++;
          if (key === 'free') live--;
          return (value as (...args: unknown[]) => unknown).apply(target, args);
        };
      },
    });
    return { tiles: inlineTiles(counted, jsEigenSolver), live: () => live };
  }
  const tiles = await devices.find((device) => device.name === 'tfjs')!.open();
  return { tiles, live: () => tf.memory().numTensors };
};

const weights = (models: number, features: number): Float32Array[] => {
  const normal = normals(41);
  return Array.from({ length: models }, () => Float32Array.from({ length: features }, () => normal()));
};

describe.each(everyDevice)('memory on $name', { timeout: 120_000 }, ({ name }) => {
  it.each(['incremental', 'exact'] as const)('engine %s gives back all it took', async (engine) => {
    const { tiles, live } = await watch(name);
    const before = live();
    const during: number[] = [];
    const counted: Tiles = {
      ...tiles,
      visit: async (task, onto) => {
        const seen = await tiles.visit(task, onto);
        during.push(live());
        return seen;
      },
    };
    await fold(counted, weights(name === 'tfjs:webgpu' ? 40 : 60, name === 'tfjs:webgpu' ? 1500 : 5000), {
      rank: 3,
      block: 4,
      engine,
    });
    await tiles.close();
    expect(live()).toBe(before);
    expect(Math.max(...during)).toBeGreaterThan(before);
    // From the third block on (state full, both matrices swapped) a block leaves as much alive as the one before.
    const settled = during.slice(4);
    expect(new Set(settled).size).toBeLessThanOrEqual(2);
    expect(settled.at(-1) ?? 0).toBeLessThanOrEqual(Math.max(...during.slice(0, 4)));
  });

  it('the modes rows and cols give back all they took', async () => {
    const { tiles, live } = await watch(name);
    const before = live();
    await foldModes(tiles, weights(9, 600), { rank: 4, block: 3, shape: [20, 30], modes: ['rows', 'cols'] });
    expect(live()).toBe(before);
    await tiles.close();
  });
});
