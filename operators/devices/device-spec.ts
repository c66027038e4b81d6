// Which device to open, as plain data that travels to workers, and the opening of it on the calling thread.

import { DeviceUnavailable } from '../errors.ts';
import { type DoubleProduct, jsDoubleProduct } from '../linalg/dense-products.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';
import { jsEigenSolver } from '../linalg/symmetric-eigen.ts';
import { blasDevice } from './blas-device.ts';
import { loadBlas } from './blas-library.ts';
import type { Device, DeviceInfo } from './device.ts';
import { type DeviceChoice, deviceChoices, type GpuChoice } from './device-choice.ts';
import { findBlas, pinnedKernelWarning } from './find-blas.ts';
import { floatArena } from './float-arena.ts';
import type { BackendSpec, TensorConnection } from './tensor-messages.ts';

export type DeviceSpec =
  | { readonly name: 'blas'; readonly path: string }
  | { readonly name: 'tfjs' }
  /** A tfjs backend in a thread of its own. */
  | { readonly name: 'tensors'; readonly backend: BackendSpec };

/** A device that was found, with the solver for the small matrices. */
export interface FoundDevice {
  readonly spec: DeviceSpec;
  readonly info: DeviceInfo;
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
  readonly warnings: readonly string[];
}

/**
 * Opens a device on this thread.
 * @param connection to the thread that holds the device's tensors; null: one of its own
 */
export const openDevice = async (spec: DeviceSpec, connection: TensorConnection | null = null): Promise<Device> => {
  if (spec.name === 'blas') return blasDevice(loadBlas(spec.path), floatArena());
  if (spec.name === 'tensors') {
    const { openTensorDevice } = await import('./find-gpu.ts');
    return openTensorDevice(spec.backend, connection);
  }
  const { tfjsDevice } = await import('./tfjs-device.ts');
  return tfjsDevice();
};

export interface FindOptions {
  /** Of the processor that a GPU must be faster than. */
  readonly threads: number;
  /** Of the run that goes on: `auto` then looks for the same again, and not for what is fastest now. */
  readonly begun?: DeviceInfo | null;
}

/**
 * Finds the device asked for; `auto` is a GPU that was found worth it, else the fastest BLAS of this machine, or the embedded
 * tfjs where there is none.
 * @throws DeviceUnavailable
 */
export const findDevice = async (
  choice: DeviceChoice,
  { threads, begun = null }: FindOptions = { threads: 1 },
): Promise<FoundDevice> => {
  if (choice === 'tfjs:webgpu' || choice === 'tfjs:node-gpu') return findTensors(choice);
  if (choice === 'auto') {
    const gpu = begun === null ? await fasterGpu(threads) : await sameGpu(begun);
    if (gpu !== null) return gpu;
  }
  return findProcessor(choice);
};

/** The choice that finds a device again. */
export const choiceOf = ({ name, library }: DeviceInfo): DeviceChoice =>
  deviceChoices.find((choice) => choice.replace(':', '-') === library) ?? name;

const findTensors = async (choice: GpuChoice): Promise<FoundDevice> => {
  const { backendOf, openTensorDevice } = await import('./find-gpu.ts');
  const backend = backendOf(choice);
  const device = openTensorDevice(backend);
  const { isSoftware, kernel } = device.facts;
  await device.close();
  return {
    spec: { name: 'tensors', backend },
    info: device.info,
    solve: device.solve,
    multiplyDouble: device.multiplyDouble,
    warnings: isSoftware
      ? [
          `${choice} runs on an adapter in software (${kernel}): far slower than --device blas or tfjs, and good for tests alone`,
        ]
      : [],
  };
};

const fasterGpu = async (threads: number): Promise<FoundDevice | null> => {
  const { findGpu, isAnyInstalled } = await import('./find-gpu.ts');
  if (!isAnyInstalled()) return null;
  const processor = await findProcessor('auto');
  const backend = await findGpu(await openDevice(processor.spec), threads);
  return backend === null ? null : findTensors(backend.device);
};

const sameGpu = async (begun: DeviceInfo): Promise<FoundDevice | null> => {
  const choice = choiceOf(begun);
  if (choice !== 'tfjs:webgpu' && choice !== 'tfjs:node-gpu') return null;
  return findTensors(choice).catch((error) => {
    if (error instanceof DeviceUnavailable) return null;
    throw error;
  });
};

/** Finds a device that needs no GPU, as `findDevice` does. */
export const findProcessor = async (choice: Exclude<DeviceChoice, GpuChoice>): Promise<FoundDevice> => {
  const blas = choice === 'tfjs' || choice === 'tfjs:wasm' ? null : findBlas();
  if (blas !== null) {
    const pinned = pinnedKernelWarning();
    return {
      spec: { name: 'blas', path: blas.abi.path },
      info: blasDevice(blas).info,
      solve: blas.solve ?? jsEigenSolver,
      multiplyDouble: blas.multiplyDouble,
      warnings: pinned === null ? [] : [pinned],
    };
  }
  if (choice === 'blas') {
    throw new DeviceUnavailable({
      device: 'blas',
      detail:
        'no BLAS library was found; install one (Debian and Ubuntu: libopenblas0), name one in WEIGHTSPAN_BLAS, or use --device tfjs',
    });
  }
  const { tfjsInfo } = await import('./tfjs-device.ts');
  return {
    spec: { name: 'tfjs' },
    info: await tfjsInfo(),
    solve: jsEigenSolver,
    multiplyDouble: jsDoubleProduct,
    warnings: [],
  };
};
