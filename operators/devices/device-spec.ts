// Which device to open, as plain data that travels to workers, and the opening of it on the calling thread.

import { DeviceUnavailable } from '../errors.ts';
import { type DoubleProduct, jsDoubleProduct } from '../linalg/dense-products.ts';
import type { EigenSolver } from '../linalg/symmetric-eigen.ts';
import { jsEigenSolver } from '../linalg/symmetric-eigen.ts';
import { blasDevice } from './blas-device.ts';
import { loadBlas } from './blas-library.ts';
import type { Device, DeviceInfo } from './device.ts';
import { findBlas, pinnedKernelWarning } from './find-blas.ts';
import { floatArena } from './float-arena.ts';

export type DeviceChoice = 'auto' | 'blas' | 'tfjs';

export type DeviceSpec = { readonly name: 'blas'; readonly path: string } | { readonly name: 'tfjs' };

/** A device that was found, with the solver for the small matrices. */
export interface FoundDevice {
  readonly spec: DeviceSpec;
  readonly info: DeviceInfo;
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
  readonly warnings: readonly string[];
}

/** Opens a device on this thread. */
export const openDevice = async (spec: DeviceSpec): Promise<Device> => {
  if (spec.name === 'blas') return blasDevice(loadBlas(spec.path), floatArena());
  const { tfjsDevice } = await import('./tfjs-device.ts');
  return tfjsDevice();
};

/**
 * Finds the device asked for; `auto` is the fastest BLAS of this machine, or the embedded tfjs where there is none.
 * @throws DeviceUnavailable
 */
export const findDevice = async (choice: DeviceChoice): Promise<FoundDevice> => {
  const blas = choice === 'tfjs' ? null : findBlas();
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
