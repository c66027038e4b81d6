// Finds out whether there is a GPU that tfjs can use, and under `auto` whether it is worth it. Its packages are the user's to
// install; what is missing is said with the command that installs it.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import koffi from 'koffi';
import { DeviceFailed, DeviceUnavailable } from '../errors.ts';
import type { Device } from './device.ts';
import type { TensorChoice } from './device-choice.ts';
import { probeDevice } from './probe-device.ts';
import { TensorDevice } from './tensor-device.ts';
import { TensorLink, TensorThread } from './tensor-link.ts';
import type { BackendFacts, BackendSpec, TensorConnection } from './tensor-messages.ts';

const require = createRequire(import.meta.url);

/** The packages of each, and under which name tfjs knows the backend of the one that registers itself. */
const needs: Readonly<Record<TensorChoice, { readonly packages: readonly string[]; readonly registered: string }>> = {
  'tfjs:webgpu': { packages: ['webgpu', '@tensorflow/tfjs-backend-webgpu'], registered: 'webgpu' },
  'tfjs:node-gpu': { packages: ['@tensorflow/tfjs-node-gpu'], registered: 'tensorflow' },
};

const isInstalled = (name: string): boolean => {
  try {
    require.resolve(name);
    return true;
  } catch {
    return false;
  }
};

/** Whether all packages of some choice are installed. */
export const isAnyInstalled = (): boolean => Object.values(needs).some(({ packages }) => packages.every(isInstalled));

/**
 * The backend of a choice.
 * @throws DeviceUnavailable when its packages are not installed, with the command that installs them
 */
export const backendOf = (choice: TensorChoice): BackendSpec => {
  const { packages, registered } = needs[choice];
  const missing = packages.filter((name) => !isInstalled(name));
  if (missing.length > 0) {
    const { peerDependencies } = require('weightspan/package.json') as {
      readonly peerDependencies: Readonly<Record<string, string>>;
    };
    const command = `npm install ${missing.map((name) => `${name}@${peerDependencies[name]}`).join(' ')}`;
    const detail = `${missing.join(' and ')} ${missing.length > 1 ? 'are' : 'is'} not installed; install with: ${command}`;
    throw new DeviceUnavailable({ device: choice, detail });
  }
  return {
    device: choice,
    library: choice.replace(':', '-'),
    registered,
    module: choice === 'tfjs:webgpu' ? null : pathToFileURL(require.resolve(packages[0]!)).href,
  };
};

/**
 * Opens a device on a backend, in a thread of its own unless there is one already.
 * @throws DeviceUnavailable when the backend does not start
 */
export const openTensorDevice = (spec: BackendSpec, connection: TensorConnection | null = null): TensorDevice => {
  if (spec.module === null && connection === null) checkVulkan(spec.device);
  const thread = connection === null ? new TensorThread(spec) : null;
  const link = new TensorLink(spec.device, connection ?? thread!.connect());
  const end = async (): Promise<void> => thread?.close();
  try {
    return new TensorDevice(spec, link, end);
  } catch (error) {
    link.close();
    void end();
    if (error instanceof DeviceFailed) throw new DeviceUnavailable({ device: spec.device, detail: error.detail });
    throw error;
  }
};

/** Dawn would only say so on stderr, in its own words. */
const checkVulkan = (device: string): void => {
  if (process.platform !== 'linux') return;
  try {
    koffi.load('libvulkan.so.1');
  } catch {
    const detail =
      'there is no Vulkan loader (libvulkan.so.1); install it (Debian and Ubuntu: libvulkan1) and the driver of the GPU';
    throw new DeviceUnavailable({ device, detail });
  }
};

/** How much faster than the processor a GPU must be to be taken unasked: what was measured once is not the whole run. */
const WORTH_IT = 1.5;

/**
 * Whether a GPU is taken unasked: a real one, that was faster than all threads of the processor together.
 * @param milliseconds of the same work
 */
export const isWorthIt = (
  { isSoftware }: Pick<BackendFacts, 'isSoftware'>,
  milliseconds: { readonly gpu: number; readonly processor: number },
  threads: number,
): boolean => !isSoftware && milliseconds.gpu * WORTH_IT < milliseconds.processor / threads;

/** The backend of a GPU that is worth it, or null: for whoever did not ask for one, nothing here is an error. */
export const findGpu = async (processor: Device, threads: number): Promise<BackendSpec | null> => {
  for (const choice of ['tfjs:webgpu', 'tfjs:node-gpu'] as const) {
    if (!needs[choice].packages.every(isInstalled)) continue;
    let device: TensorDevice | null = null;
    try {
      const spec = backendOf(choice);
      device = openTensorDevice(spec);
      if (device.facts.isSoftware) continue;
      const milliseconds = { gpu: probeDevice(device), processor: probeDevice(processor) };
      if (isWorthIt(device.facts, milliseconds, threads)) return spec;
    } catch (error) {
      if (!(error instanceof DeviceUnavailable || error instanceof DeviceFailed)) throw error;
    } finally {
      await device?.close();
    }
  }
  return null;
};
