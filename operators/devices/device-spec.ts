// Which device to open, as plain data that travels to workers, and the opening of it on the calling thread.

import { DeviceFailed, DeviceUnavailable } from '../errors.ts';
import { type DoubleProduct, jsDoubleProduct } from '../linalg/dense-products.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';
import { jsEigenSolver } from '../linalg/symmetric-eigen.ts';
import { blasDevice, blasFloats } from './blas-device.ts';
import { loadBlas } from './blas-library.ts';
import type { LoadedKernels } from './cuda-kernels.ts';
import type { CudaPaths } from './cuda-library.ts';
import type { CudaPrecision, Device, DeviceInfo } from './device.ts';
import { type DeviceChoice, deviceChoices, type GpuChoice, type TensorChoice } from './device-choice.ts';
import { findBlas, pinnedKernelWarning } from './find-blas.ts';
import { FloatArena } from './float-arena.ts';
import type { BackendSpec, TensorConnection } from './tensor-messages.ts';

export type DeviceSpec =
  | { readonly name: 'blas'; readonly path: string }
  | { readonly name: 'tfjs' }
  | {
      readonly name: 'cuda';
      readonly paths: CudaPaths;
      readonly precision: CudaPrecision;
      /** The BLAS for what the processor does beside the card; null: JavaScript. */
      readonly blas: string | null;
      /** That this process has loaded into the card already. */
      readonly kernels?: LoadedKernels;
    }
  /** A tfjs backend in a thread of its own. */
  | { readonly name: 'tensors'; readonly backend: BackendSpec };

/** A device that was found, with the solver for the small matrices. */
export interface FoundDevice {
  readonly spec: DeviceSpec;
  readonly info: DeviceInfo;
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
  /** Whether its devices have `swapRows`. */
  readonly swapsRows: boolean;
  /** Floats of a matrix in memory that threads have in common; missing where its devices have no `matrixAt`. */
  readonly matrixFloats?: (rows: number, width: number) => number;
  readonly warnings: readonly string[];
  /** Where matrices are on a card. */
  readonly card?: FoundCard;
}

/** A card, and what can be said of it beside what decides the bits. */
export interface FoundCard {
  /** E.g. 12.8, and the newest CUDA that the driver knows. */
  readonly runtime: string;
  readonly driver: string;
  /** Bytes, as they were when it was found. */
  readonly free: number;
  readonly total: number;
  /** Whether cuSOLVER is there. */
  readonly hasSolver: boolean;
}

/**
 * Opens a device on this thread.
 * @param connection to the thread that holds the device's tensors; null: one of its own
 */
export const openDevice = async (spec: DeviceSpec, connection: TensorConnection | null = null): Promise<Device> => {
  if (spec.name === 'blas') return blasDevice(loadBlas(spec.path), new FloatArena());
  if (spec.name === 'cuda') return openCuda(spec);
  if (spec.name === 'tensors') {
    const { openTensorDevice } = await import('./find-gpu.ts');
    return openTensorDevice(spec.backend, connection);
  }
  const { tfjsDevice } = await import('./tfjs-device.ts');
  return tfjsDevice();
};

type CudaSpec = Extract<DeviceSpec, { readonly name: 'cuda' }>;

const openCuda = async ({ paths, precision, blas, kernels }: CudaSpec) => {
  const { CudaDevice } = await import('./cuda-device.ts');
  const library = blas === null ? null : loadBlas(blas);
  const solve = library?.solve ?? jsEigenSolver;
  const multiplyDouble = library?.multiplyDouble ?? jsDoubleProduct;
  return new CudaDevice(paths, precision, { solve, multiplyDouble }, kernels);
};

export interface FindOptions {
  /** Of the processor that a GPU must be faster than. */
  readonly threads: number;
  /** Of the run that goes on: `auto` then looks for the same again, and not for what is fastest now. */
  readonly begun?: DeviceInfo | null;
  /** Device cuda. */
  readonly precision?: CudaPrecision;
}

/**
 * Finds the device asked for; `auto` is an NVIDIA card, else a GPU that was found worth it, else the fastest BLAS of this machine,
 * or the embedded tfjs where there is none.
 * @throws DeviceUnavailable
 */
export const findDevice = async (
  choice: DeviceChoice,
  { threads, begun = null, precision = 'float32' }: FindOptions = { threads: 1 },
): Promise<FoundDevice> => {
  if (choice === 'cuda') return findCard((await import('./find-cuda.ts')).findCuda(), precision);
  if (choice === 'tfjs:webgpu' || choice === 'tfjs:node-gpu') return findTensors(choice);
  if (choice === 'auto') {
    const card = await cardIfAny(begun);
    if (card !== null && 'spec' in card) return card;
    const gpu = begun === null ? await fasterGpu(threads) : await sameGpu(begun);
    if (gpu !== null) return gpu;
    const processor = await findProcessor(choice);
    return card === null ? processor : { ...processor, warnings: [...processor.warnings, card.warning] };
  }
  return findProcessor(choice);
};

/** @throws DeviceUnavailable */
const findCard = async (paths: CudaPaths, precision: CudaPrecision): Promise<FoundDevice> => {
  const [{ CudaCard }, { cudaEigenSolver }] = await Promise.all([import('./cuda-card.ts'), import('./cuda-eigen.ts')]);
  const blas = findBlas();
  const probe: CudaSpec = { name: 'cuda', paths, precision, blas: blas?.abi.path ?? null };
  const device = await openCuda(probe);
  const { runtime, driver } = device.card.facts;
  const card = { runtime, driver, ...device.card.memory(), hasSolver: device.card.library.solver !== null };
  try {
    device.warm();
  } catch (error) {
    await device.close();
    throw error instanceof DeviceFailed ? new DeviceUnavailable({ device: 'cuda', detail: error.detail }) : error;
  }
  const kernels = device.card.leaveKernels();
  const spec = { ...probe, kernels };
  await device.close();
  // Opened again for the first large matrix, and then kept: most runs have none.
  let opened: InstanceType<typeof CudaCard> | null = null;
  const open = () => (opened ??= new CudaCard(paths, precision, kernels));
  return {
    spec,
    info: device.info,
    solve: cudaEigenSolver(card.hasSolver, open, blas?.solve ?? jsEigenSolver),
    multiplyDouble: device.multiplyDouble,
    swapsRows: false,
    warnings: [],
    card,
  };
};

/** Who did not ask for a card hears of one that is there and cannot be used, and of nothing where there is none. */
const cardIfAny = async (begun: DeviceInfo | null): Promise<FoundDevice | { readonly warning: string } | null> => {
  if (begun !== null && begun.name !== 'cuda') return null;
  const { findCuda } = await import('./find-cuda.ts');
  let paths: CudaPaths;
  try {
    paths = findCuda();
  } catch (error) {
    if (error instanceof DeviceUnavailable) return null;
    throw error;
  }
  try {
    return await findCard(paths, begun?.precision ?? 'float32');
  } catch (error) {
    if (!(error instanceof DeviceUnavailable || error instanceof DeviceFailed)) throw error;
    return { warning: `${error.message}; auto goes on without it` };
  }
};

/** The choice that finds a device again. */
export const choiceOf = ({ name, library }: DeviceInfo): DeviceChoice =>
  deviceChoices.find((choice) => choice.replace(':', '-') === library) ?? name;

const findTensors = async (choice: TensorChoice): Promise<FoundDevice> => {
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
    swapsRows: false,
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
      swapsRows: true,
      matrixFloats: blasFloats,
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
    swapsRows: false,
    warnings: [],
  };
};
