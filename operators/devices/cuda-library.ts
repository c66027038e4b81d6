// The functions weightspan calls in CUDA's libraries, bound by koffi: runtime, driver (kernels), cuBLAS, NVRTC and, where it is
// there, cuSOLVER. Every status is looked at and becomes a typed error with the function's name and CUDA's own words for it.
// Pointers on the card are numbers here (bigint); koffi checks nothing. All calls are synchronous ones: they put work on a
// stream and return, but for those that wait.
import koffi from 'koffi';
import { DeviceFailed, DeviceUnavailable } from '../errors.ts';
import type { FailureReason } from './tensor-messages.ts';

/** A pointer on the card, a pinned host pointer, a stream, an event, a handle. */
export type CudaPointer = bigint;

/** Files of the libraries, as they are to be loaded. */
export interface CudaPaths {
  readonly runtime: string;
  readonly blas: string;
  readonly compiler: string;
  readonly driver: string;
  /** cuSOLVER, for large symmetric eigenproblems; null where there is none. */
  readonly solver: string | null;
}

type Call = (...args: unknown[]) => unknown;
/** A call whose status has been looked at. */
export type CheckedCall = (...args: unknown[]) => void;

const runtimeCalls = {
  cudaSetDevice: '(int device)',
  cudaDeviceGetAttribute: '(void *value, int attribute, int device)',
  cudaMemGetInfo: '(void *free, void *total)',
  cudaMalloc: '(void *pointer, size_t bytes)',
  cudaFree: '(uint64_t pointer)',
  cudaDeviceGetDefaultMemPool: '(void *pool, int device)',
  cudaMemPoolSetAttribute: '(uint64_t pool, int attribute, void *value)',
  cudaMemPoolTrimTo: '(uint64_t pool, size_t bytes)',
  cudaMallocAsync: '(void *pointer, size_t bytes, uint64_t stream)',
  cudaFreeAsync: '(uint64_t pointer, uint64_t stream)',
  cudaHostAlloc: '(void *pointer, size_t bytes, unsigned int flags)',
  cudaFreeHost: '(uint64_t pointer)',
  cudaMemsetAsync: '(uint64_t pointer, int value, size_t bytes, uint64_t stream)',
  cudaMemcpyAsync: '(uint64_t to, uint64_t from, size_t bytes, int kind, uint64_t stream)',
  cudaStreamCreateWithFlags: '(void *stream, unsigned int flags)',
  cudaStreamDestroy: '(uint64_t stream)',
  cudaStreamSynchronize: '(uint64_t stream)',
  cudaStreamWaitEvent: '(uint64_t stream, uint64_t event, unsigned int flags)',
  cudaEventCreateWithFlags: '(void *event, unsigned int flags)',
  cudaEventDestroy: '(uint64_t event)',
  cudaEventRecord: '(uint64_t event, uint64_t stream)',
  cudaEventSynchronize: '(uint64_t event)',
} as const;

/** cudaMemcpyKind. */
export const COPY = { up: 1, down: 2, within: 3 } as const;

/** The same function where one side is an array of this process. */
const copies = {
  copyUp:
    'int cudaMemcpy2DAsync(uint64_t to, size_t toPitch, const void *from, size_t fromPitch, size_t width, size_t rows, int kind, uint64_t stream)',
  copyDown:
    'int cudaMemcpy2DAsync(void *to, size_t toPitch, uint64_t from, size_t fromPitch, size_t width, size_t rows, int kind, uint64_t stream)',
  copyWithin:
    'int cudaMemcpy2DAsync(uint64_t to, size_t toPitch, uint64_t from, size_t fromPitch, size_t width, size_t rows, int kind, uint64_t stream)',
} as const;

const driverCalls = {
  cuModuleLoadData: '(void *module, const void *image)',
  cuModuleUnload: '(uint64_t module)',
  cuModuleGetFunction: '(void *kernel, uint64_t module, const char *name)',
  cuLaunchKernel:
    '(uint64_t kernel, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared, uint64_t stream, const void *parameters, uint64_t extra)',
  cuDeviceGetName: '(void *name, int length, int device)',
} as const;

const blasCalls = {
  cublasCreate_v2: '(void *handle)',
  cublasDestroy_v2: '(uint64_t handle)',
  cublasSetStream_v2: '(uint64_t handle, uint64_t stream)',
  cublasSetWorkspace_v2: '(uint64_t handle, uint64_t workspace, size_t bytes)',
  cublasSetMathMode: '(uint64_t handle, int mode)',
  cublasGetVersion_v2: '(uint64_t handle, void *version)',
  cublasSgemm_v2:
    '(uint64_t handle, int ta, int tb, int m, int n, int k, const float *alpha, uint64_t a, int lda, uint64_t b, int ldb, const float *beta, uint64_t c, int ldc)',
  cublasSgemmStridedBatched:
    '(uint64_t handle, int ta, int tb, int m, int n, int k, const float *alpha, uint64_t a, int lda, int64_t strideA, uint64_t b, int ldb, int64_t strideB, const float *beta, uint64_t c, int ldc, int64_t strideC, int batch)',
} as const;

const compilerCalls = {
  nvrtcGetNumSupportedArchs: '(void *count)',
  nvrtcGetSupportedArchs: '(void *archs)',
  nvrtcCreateProgram:
    '(void *program, const char *source, const char *name, int headers, uint64_t none, uint64_t nothing)',
  nvrtcCompileProgram: '(uint64_t program, int count, const char **options)',
  nvrtcGetProgramLogSize: '(uint64_t program, void *bytes)',
  nvrtcGetProgramLog: '(uint64_t program, void *log)',
  nvrtcGetCUBINSize: '(uint64_t program, void *bytes)',
  nvrtcGetCUBIN: '(uint64_t program, void *image)',
  nvrtcGetPTXSize: '(uint64_t program, void *bytes)',
  nvrtcGetPTX: '(uint64_t program, void *image)',
  nvrtcDestroyProgram: '(void *program)',
} as const;

const solverCalls = {
  cusolverDnCreate: '(void *handle)',
  cusolverDnDestroy: '(uint64_t handle)',
  cusolverDnSetStream: '(uint64_t handle, uint64_t stream)',
  cusolverDnDsyevd_bufferSize:
    '(uint64_t handle, int jobz, int uplo, int n, uint64_t a, int lda, uint64_t w, void *length)',
  cusolverDnDsyevd:
    '(uint64_t handle, int jobz, int uplo, int n, uint64_t a, int lda, uint64_t w, uint64_t work, int length, uint64_t info)',
} as const;

type Checked<T> = { readonly [K in keyof T]: CheckedCall };

export interface CudaLibrary {
  readonly runtime: Checked<typeof runtimeCalls> & Checked<typeof copies>;
  readonly driver: Checked<typeof driverCalls>;
  readonly blas: Checked<typeof blasCalls>;
  readonly compiler: Checked<typeof compilerCalls>;
  readonly solver: Checked<typeof solverCalls> | null;
  /** E.g. 12080 for 12.8: of the runtime that was loaded, and the newest that the driver knows; 0: no driver. */
  readonly versions: { readonly runtime: number; readonly driver: number };
}

/** cudaErrorMemoryAllocation, CUBLAS_STATUS_ALLOC_FAILED, CUSOLVER_STATUS_ALLOC_FAILED. */
const outOfMemory: Readonly<Record<Family, readonly number[]>> = {
  runtime: [2],
  driver: [2],
  blas: [3],
  compiler: [1],
  solver: [2],
};
/** What leaves a context of no use: launch failures, illegal addresses, a card that fell off the bus, or is taken away. */
const lostContext = [46, 100, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719];
const lost: Readonly<Record<Family, readonly number[]>> = {
  runtime: lostContext,
  driver: lostContext,
  blas: [1, 13, 14],
  compiler: [],
  solver: [1, 6, 7],
};

type Family = 'runtime' | 'driver' | 'blas' | 'compiler' | 'solver';

/** A call that gave a status other than success. */
export class CudaFailure extends Error {
  readonly call: string;
  readonly status: number;
  readonly reason: FailureReason;

  constructor(family: Family, call: string, status: number, words: string) {
    super(`${call} gave ${words}`);
    this.call = call;
    this.status = status;
    this.reason = outOfMemory[family].includes(status)
      ? 'out-of-memory'
      : lost[family].includes(status)
        ? 'lost'
        : 'other';
  }
}

/** A failure of a device that was open. */
export const deviceFailed = ({ message, reason }: CudaFailure): DeviceFailed =>
  new DeviceFailed({ device: 'cuda', reason, detail: message });

/**
 * Loads CUDA's libraries.
 * @throws DeviceUnavailable when a file does not load or lacks a function
 */
export const loadCuda = (paths: CudaPaths): CudaLibrary => {
  const load = (path: string): ReturnType<typeof koffi.load> => {
    try {
      return koffi.load(path);
    } catch (cause) {
      throw new DeviceUnavailable({ device: 'cuda', detail: `${path} does not load: ${(cause as Error).message}` });
    }
  };
  const bind = (handle: ReturnType<typeof koffi.load>, path: string, signature: string): Call => {
    try {
      return handle.func(signature) as unknown as Call;
    } catch (cause) {
      throw new DeviceUnavailable({ device: 'cuda', detail: `${path}: ${(cause as Error).message}` });
    }
  };
  const checked = <T extends Readonly<Record<string, string>>>(
    family: Family,
    path: string,
    signatures: T,
    words: (status: number) => string,
  ): Checked<T> => {
    const handle = load(path);
    return Object.fromEntries(
      Object.entries(signatures).map(([name, signature]) => {
        const whole = signature.startsWith('(') ? `int ${name}${signature}` : signature;
        const call = bind(handle, path, whole);
        const own = signature.startsWith('(') ? name : 'cudaMemcpy2DAsync';
        const check: CheckedCall = (...args) => {
          const status = call(...args) as number;
          if (status !== 0) throw new CudaFailure(family, own, status, words(status));
        };
        return [name, check];
      }),
    ) as Checked<T>;
  };
  /** What a library says of a status. */
  const teller = (path: string, name: string): Call => bind(load(path), path, `const char *${name}(int status)`);
  const named = (path: string, name: string): ((status: number) => string) => {
    const tell = teller(path, name);
    return (status) => `${tell(status)} (${status})`;
  };
  const version = (name: string): number => {
    const out = new Int32Array(1);
    return bind(load(paths.runtime), paths.runtime, `int ${name}(void *version)`)(out) === 0 ? out[0]! : 0;
  };
  const ofRuntime = named(paths.runtime, 'cudaGetErrorName');
  const explain = teller(paths.runtime, 'cudaGetErrorString');
  // The driver's numbers are the runtime's.
  const words = (status: number): string => `${ofRuntime(status)}: ${explain(status)}`;
  return {
    runtime: {
      ...checked('runtime', paths.runtime, runtimeCalls, words),
      ...checked('runtime', paths.runtime, copies, words),
    },
    driver: checked('driver', paths.driver, driverCalls, words),
    blas: checked('blas', paths.blas, blasCalls, named(paths.blas, 'cublasGetStatusString')),
    compiler: checked('compiler', paths.compiler, compilerCalls, named(paths.compiler, 'nvrtcGetErrorString')),
    solver:
      paths.solver === null
        ? null
        : checked('solver', paths.solver, solverCalls, (status) => `cusolverStatus ${status}`),
    versions: { runtime: version('cudaRuntimeGetVersion'), driver: version('cudaDriverGetVersion') },
  };
};

/** What a call writes a pointer, or a size, into. */
export const pointerCell = (): BigUint64Array => new BigUint64Array(1);
