// Opens a tfjs backend in the thread that calls: webgpu on an adapter of Dawn, any other by the module that registers it. What
// a backend does silently is made loud here: a validation error, memory that is not there and a lost device all end as a
// failure that `settle` and `failure` tell of, before any result of that work is believed.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import type { BackendFacts, BackendSpec, FailureReason, TensorFailure, TensorMemory } from './tensor-messages.ts';
import { type DispatchUtil, type ProgramRunner, WidenProgram } from './widen-program.ts';

/** An open backend. */
export interface TensorBackend {
  readonly facts: BackendFacts;
  /** Null where rows are widened before they come up. */
  readonly program: WidenProgram | null;
  /** What has gone wrong so far; null when nothing has. */
  failure(): TensorFailure | null;
  /** Resolves when all errors of what was asked so far are known. */
  settle(): Promise<void>;
  memory(): Pick<TensorMemory, 'gpuBytes' | 'gpuBytesKept'>;
  /** Gives buffers that wait to be used again back to the GPU. */
  trim(): void;
  /** Ends the device, with all work that nobody has waited for. */
  close(): Promise<void>;
}

/** The parts of WebGPU that are used here. */
interface GpuError {
  readonly message: string;
}

interface GpuDevice {
  readonly lost: Promise<{ readonly reason: string; readonly message: string }>;
  readonly queue: { onSubmittedWorkDone(): Promise<void> };
  pushErrorScope(filter: 'validation' | 'out-of-memory' | 'internal'): void;
  popErrorScope(): Promise<GpuError | null>;
  destroy(): void;
}

interface GpuAdapter {
  readonly info: {
    readonly vendor: string;
    readonly architecture: string;
    readonly device: string;
    readonly description: string;
    readonly isFallbackAdapter?: boolean;
  };
  readonly limits: Readonly<Record<string, number>>;
  requestDevice(descriptor: object): Promise<GpuDevice>;
}

interface Dawn {
  readonly globals: Readonly<Record<string, unknown>>;
  create(options: readonly string[]): { requestAdapter(options: object): Promise<GpuAdapter | null> };
}

interface PooledBuffer {
  readonly size: number;
  destroy(): void;
}

interface WebGpuBackend extends ProgramRunner {
  readonly bufferManager: {
    freeBuffers: Map<string, PooledBuffer[]>;
    numFreeBuffers: number;
    numBytesAllocated: number;
    numBytesUsed: number;
  };
}

interface WebGpuModule {
  readonly WebGPUBackend: new (device: GpuDevice, info: GpuAdapter['info']) => WebGpuBackend & tf.KernelBackend;
  readonly webgpu_util: DispatchUtil;
}

const { resolve: resolvePackage } = createRequire(import.meta.url);

/** Imports a package that the user may have installed. */
const optional = async (name: string): Promise<unknown> => import(pathToFileURL(resolvePackage(name)).href);

export const openTensorBackend = (spec: BackendSpec): Promise<TensorBackend> =>
  spec.module === null ? openWebGpu() : openRegistered(spec, spec.module);

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|warp|basic render/i;

/** Bytes of the largest tensor, whatever the adapter allows: more at a time gains nothing. */
const LARGEST_TENSOR = 2 ** 28;

const scopes = ['validation', 'out-of-memory', 'internal'] as const;

const reasonOf: Readonly<Record<(typeof scopes)[number], FailureReason>> = {
  validation: 'invalid',
  'out-of-memory': 'out-of-memory',
  internal: 'other',
};

const openWebGpu = async (): Promise<TensorBackend> => {
  const dawn = (await optional('webgpu')) as Dawn;
  const gpu = dawn.create([]);
  Object.assign(globalThis, dawn.globals);
  // Plain assignment throws where Node has a navigator of its own. As long as it is there Dawn lives.
  Object.defineProperty(globalThis, 'navigator', { value: { gpu, userAgent: 'node' }, configurable: true });
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (adapter === null) throw new Error('Dawn found no adapter');
  const { info, limits } = adapter;
  const wanted = [
    'maxComputeWorkgroupStorageSize',
    'maxComputeWorkgroupsPerDimension',
    'maxStorageBufferBindingSize',
    'maxBufferSize',
    'maxComputeWorkgroupSizeX',
    'maxComputeInvocationsPerWorkgroup',
  ];
  const device = await adapter.requestDevice({
    requiredLimits: Object.fromEntries(wanted.map((name) => [name, limits[name]])),
  });
  let failed: TensorFailure | null = null;
  let isClosing = false;
  const fail = (reason: FailureReason, detail: string): void => {
    if (!isClosing) failed ??= { reason, detail };
  };
  void device.lost.then(({ reason, message }) => fail('lost', `the GPU was lost (${reason}): ${message}`));
  for (const scope of scopes) device.pushErrorScope(scope);
  const pop = (): Promise<unknown> =>
    Promise.all(
      [...scopes].reverse().map((scope) =>
        device.popErrorScope().then(
          (error) => void (error !== null && fail(reasonOf[scope], error.message.split('\n')[0]!)),
          (error) => fail('lost', (error as Error).message),
        ),
      ),
    );

  const module = (await optional('@tensorflow/tfjs-backend-webgpu')) as WebGpuModule;
  // Else a device that is lost looks alive: small products are made by the processor.
  tf.env().set('WEBGPU_CPU_FORWARD', false);
  // tfjs registered one that asks for a device by itself; ours is the one whose errors are seen.
  tf.removeBackend('webgpu');
  tf.registerBackend('webgpu', () => new module.WebGPUBackend(device, info));
  if (!(await tf.setBackend('webgpu'))) throw new Error('the WebGPU backend of tfjs did not start');
  const backend = tf.backend() as unknown as WebGpuBackend;
  const program = new WidenProgram(backend, module.webgpu_util);
  const names = [info.vendor, info.architecture, info.device, info.description].filter((name) => name !== '');
  return {
    facts: {
      version: tf.version_core,
      kernel: names.join(' '),
      largestTensor: Math.min(limits.maxStorageBufferBindingSize!, limits.maxBufferSize!, LARGEST_TENSOR),
      isSoftware: info.isFallbackAdapter === true || SOFTWARE.test(names.join(' ')),
      widens: true,
    },
    program,
    failure: () => failed,
    settle: async () => {
      // Popped and pushed before anything else is asked of the device, so that each error is in one scope.
      const popped = pop();
      for (const scope of scopes) device.pushErrorScope(scope);
      await popped;
    },
    memory: () => {
      const { numBytesUsed, numBytesAllocated } = backend.bufferManager;
      return { gpuBytes: numBytesUsed, gpuBytesKept: numBytesAllocated - numBytesUsed };
    },
    trim: () => {
      const pool = backend.bufferManager;
      for (const buffers of pool.freeBuffers.values()) {
        for (const buffer of buffers.splice(0)) {
          buffer.destroy();
          pool.numFreeBuffers--;
          pool.numBytesAllocated -= buffer.size;
        }
      }
    },
    close: async () => {
      isClosing = true;
      // What is on its way is rejected, which is awaited where it is read.
      device.destroy();
      Reflect.deleteProperty(globalThis, 'navigator');
    },
  };
};

const openRegistered = async ({ registered }: BackendSpec, module: string): Promise<TensorBackend> => {
  await import(module);
  if (tf.findBackendFactory(registered) === null) {
    throw new Error(
      `${module} registers no backend ${registered} with the tfjs-core ${tf.version_core} that weightspan uses; install the same version of both`,
    );
  }
  if (!(await tf.setBackend(registered))) throw new Error(`the backend ${registered} of tfjs did not start`);
  return {
    facts: {
      version: tf.version_core,
      kernel: registered,
      largestTensor: LARGEST_TENSOR,
      isSoftware: false,
      widens: false,
    },
    program: null,
    failure: () => null,
    settle: async () => {},
    memory: () => ({ gpuBytes: null, gpuBytesKept: null }),
    trim: () => {},
    close: async () => {},
  };
};
