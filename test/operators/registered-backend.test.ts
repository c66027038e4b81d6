// `--device tfjs:node-gpu` is the device of `tfjs:webgpu` over whatever backend a module registers with tfjs. No machine of ours
// can install @tensorflow/tfjs-node-gpu, so another backend is registered under its name here, and the same engines run on it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import type { TensorDevice } from '../../operators/devices/tensor-device.ts';
import type { BackendSpec } from '../../operators/devices/tensor-messages.ts';
import { inlineTiles } from '../../operators/inline-tiles.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import { exactSpectrum, fold, foldModes, normals } from './planted.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-backend-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const { resolve } = createRequire(import.meta.url);
const urlOf = (name: string): string => JSON.stringify(pathToFileURL(resolve(name)).href);

/** As the package would: whoever imports it finds a backend `tensorflow`. */
const stranger = join(folder, 'node-gpu.mjs');
writeFileSync(
  stranger,
  `import * as tf from ${urlOf('@tensorflow/tfjs-core')};
   import * as cpu from ${urlOf('@tensorflow/tfjs-backend-cpu')};
   tf.registerBackend('tensorflow', () => new cpu.MathBackendCPU());
   for (const kernel of tf.getKernelsForBackend('cpu')) tf.registerKernel({ ...kernel, backendName: 'tensorflow' });`,
);

const spec = (module: string): BackendSpec => ({
  device: 'tfjs:node-gpu',
  library: 'tfjs-node-gpu',
  registered: 'tensorflow',
  module,
});

const openTensorDevice: (spec: BackendSpec) => TensorDevice = (
  (await import(
    '../../dist/operators/devices/find-gpu.js' as string
  )) as typeof import('../../operators/devices/find-gpu.ts')
).openTensorDevice;

const weights = (models: number, features: number): Float32Array[] => {
  const normal = normals(3);
  return Array.from({ length: models }, () => Float32Array.from({ length: features }, () => normal()));
};

describe('a backend that somebody else registers', () => {
  it.each(['incremental', 'frequent-directions', 'randomized', 'exact'] as const)(
    'runs the engine %s',
    async (engine) => {
      const device = openTensorDevice(spec(pathToFileURL(stranger).href));
      expect(device.info).toMatchObject({ library: 'tfjs-node-gpu', kernel: 'tensorflow', chunk: 1024 });
      const rows = weights(9, 2100);
      const { subspace } = await fold(inlineTiles(device, jsEigenSolver), rows, { rank: 12, block: 4, engine });
      const truth = exactSpectrum(rows).eigenvalues;
      expect(subspace.state.eigenvalues.length).toBeGreaterThan(6);
      subspace.state.eigenvalues.forEach((value, j) => {
        expect(Math.abs(value - truth[j]!) / truth[0]!).toBeLessThan(1e-5);
      });
      await device.close();
    },
  );

  it('runs the modes rows and cols', async () => {
    const device = openTensorDevice(spec(pathToFileURL(stranger).href));
    const options = { rank: 4, block: 3, shape: [20, 30], modes: ['rows', 'cols'] } as const;
    await foldModes(inlineTiles(device, jsEigenSolver), weights(5, 600), options);
    expect(device.memory()).toMatchObject({ tensors: 0, bytes: 0 });
    await device.close();
  });

  it('is refused where it registers with another tfjs, or not at all', async () => {
    const other = join(folder, 'other.mjs');
    writeFileSync(other, 'export {};');
    expect(() => openTensorDevice(spec(pathToFileURL(other).href))).toThrow(
      /device tfjs:node-gpu: .*registers no backend tensorflow .*install the same version/,
    );
  });
});
