// One thread's hold on a card: the process's context, a stream for products and one for uploads, a cuBLAS handle with a workspace
// of its own (with several streams its sums have no fixed order otherwise), and the kernels, compiled for the card by the first.
// Memory comes from the process's pool on the card, which keeps what is given back for whichever thread asks next: a run of many
// groups asks the driver once.
import koffi from 'koffi';
import { DeviceFailed, DeviceUnavailable } from '../errors.ts';
import { CUDA_KERNELS, CUDA_THREADS, kernelNames, type LoadedKernels } from './cuda-kernels.ts';
import {
  type CheckedCall,
  COPY,
  CudaFailure,
  type CudaLibrary,
  type CudaPaths,
  type CudaPointer,
  deviceFailed,
  loadCuda,
  pointerCell,
} from './cuda-library.ts';
import type { CudaPrecision } from './device.ts';

export interface CardFacts {
  readonly name: string;
  /** Compute capability, e.g. 90. */
  readonly capability: number;
  /** Of cuBLAS, e.g. 12.8.4. */
  readonly blas: string;
  /** Of the runtime, and the newest that the driver knows, e.g. 12.8 and 13.0. */
  readonly runtime: string;
  readonly driver: string;
}

/** Bytes of cuBLAS's own memory, what NVIDIA advises for the largest cards. */
const WORKSPACE = 32 * 2 ** 20;
const NON_BLOCKING = 1;
const NO_TIMING = 2;
const CAPABILITY_MAJOR = 75;
const CAPABILITY_MINOR = 76;
const POOLS_SUPPORTED = 115;
/** cudaMemPoolAttrReleaseThreshold: what a pool keeps when a stream is waited for. */
const RELEASE_THRESHOLD = 4;
/** cublasMath_t: products of float32 in float32, and in TF32 (10 bits of mantissa). */
const MATH_MODE: Readonly<Record<CudaPrecision, number>> = { float32: 0, tf32: 3 };

export interface Pinned {
  readonly at: CudaPointer;
  readonly bytes: Uint8Array;
}

type Floats = Float32Array | Float64Array;

/** 12080 as 12.8. */
const cudaVersion = (version: number): string => `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;

const blasVersion = (version: number): string =>
  version >= 100_000
    ? `${Math.floor(version / 10_000)}.${Math.floor((version % 10_000) / 100)}.${version % 100}`
    : `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 100)}.${version % 100}`;

export class CudaCard {
  readonly library: CudaLibrary;
  readonly facts: CardFacts;
  readonly stream: CudaPointer;
  readonly uploads: CudaPointer;
  readonly blas: CudaPointer;
  readonly #kernels: LoadedKernels;
  /** That the kernels are of; null where they are somebody else's. */
  #module: CudaPointer | null = null;
  readonly #workspace: CudaPointer;
  /** 0 where the driver has none, as on some virtual cards: then all memory comes from cudaMalloc. */
  readonly #pool: CudaPointer;

  /**
   * @param kernels of a card that was opened before in this process; null has them compiled
   * @throws DeviceUnavailable
   */
  constructor(paths: CudaPaths, precision: CudaPrecision, kernels: LoadedKernels | null = null) {
    // It would make TF32 of every float32 product, whatever is asked for here.
    delete process.env.NVIDIA_TF32_OVERRIDE;
    this.library = loadCuda(paths);
    const { runtime, driver, blas, versions } = this.library;
    try {
      runtime.cudaSetDevice(0);
      // The context is made by the first call that needs one, and is then current for the driver's functions.
      runtime.cudaFree(0n);
      this.stream = this.#made(runtime.cudaStreamCreateWithFlags, NON_BLOCKING);
      this.uploads = this.#made(runtime.cudaStreamCreateWithFlags, NON_BLOCKING);
      this.blas = this.#made(blas.cublasCreate_v2);
      blas.cublasSetStream_v2(this.blas, this.stream);
      this.#workspace = this.#made((cell) => runtime.cudaMalloc(cell, WORKSPACE));
      blas.cublasSetWorkspace_v2(this.blas, this.#workspace, WORKSPACE);
      blas.cublasSetMathMode(this.blas, MATH_MODE[precision]);
      const attribute = (number: number): number => {
        const value = new Int32Array(1);
        runtime.cudaDeviceGetAttribute(value, number, 0);
        return value[0]!;
      };
      const capability = attribute(CAPABILITY_MAJOR) * 10 + attribute(CAPABILITY_MINOR);
      this.#pool = attribute(POOLS_SUPPORTED) === 0 ? 0n : this.#made(runtime.cudaDeviceGetDefaultMemPool, 0);
      if (this.#pool !== 0n)
        runtime.cudaMemPoolSetAttribute(this.#pool, RELEASE_THRESHOLD, BigUint64Array.of(2n ** 64n - 1n));
      const name = new Uint8Array(256);
      driver.cuDeviceGetName(name, name.length, 0);
      const version = new Int32Array(1);
      blas.cublasGetVersion_v2(this.blas, version);
      this.facts = {
        name: Buffer.from(name.subarray(0, name.indexOf(0))).toString(),
        capability,
        blas: blasVersion(version[0]!),
        runtime: cudaVersion(versions.runtime),
        driver: cudaVersion(versions.driver),
      };
      this.#kernels = kernels ?? this.#loadKernels(capability);
    } catch (error) {
      throw error instanceof CudaFailure ? unavailable(error, paths, versions) : error;
    }
  }

  /** Does something on the card, and makes a DeviceFailed of what goes wrong. */
  perform<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw error instanceof CudaFailure ? deviceFailed(error) : error;
    }
  }

  /** Uninitialised memory, for this thread's streams. */
  allocate(bytes: number): CudaPointer {
    const { runtime } = this.library;
    const take = (): CudaPointer =>
      this.#pool === 0n
        ? this.#made(runtime.cudaMalloc, bytes)
        : this.#made(runtime.cudaMallocAsync, bytes, this.stream);
    try {
      return take();
    } catch (error) {
      if (!(error instanceof CudaFailure)) throw error;
      if (error.reason !== 'out-of-memory') throw deviceFailed(error);
    }
    // Once more without what is kept for later.
    this.wait();
    this.#trim();
    try {
      return take();
    } catch (error) {
      throw error instanceof CudaFailure ? this.#full(error, bytes) : error;
    }
  }

  /** Takes memory back once what was put on the stream of products is done. */
  free(pointer: CudaPointer): void {
    const { runtime } = this.library;
    this.perform(() => (this.#pool === 0n ? runtime.cudaFree(pointer) : runtime.cudaFreeAsync(pointer, this.stream)));
  }

  /** Memory of this process that the card copies from and to by itself. */
  pin(bytes: number): Pinned {
    const at = this.perform(() => this.#made(this.library.runtime.cudaHostAlloc, bytes, 0));
    return { at, bytes: new Uint8Array(koffi.view(at, bytes)) };
  }

  unpin({ at }: Pinned): void {
    this.perform(() => this.library.runtime.cudaFreeHost(at));
  }

  /** Free and total bytes of the card. */
  memory(): { readonly free: number; readonly total: number } {
    const [free, total] = [pointerCell(), pointerCell()];
    this.perform(() => this.library.runtime.cudaMemGetInfo(free, total));
    return { free: Number(free[0]!), total: Number(total[0]!) };
  }

  /** @param parameters pointers and whole numbers, 8 bytes each */
  launch(kernel: (typeof kernelNames)[number], threads: number, parameters: readonly (CudaPointer | number)[]): void {
    if (threads === 0) return;
    const values = BigInt64Array.from(parameters, (value) => BigInt.asIntN(64, BigInt(value)));
    const pointers = parameterPointers(values);
    const blocks = Math.ceil(threads / CUDA_THREADS);
    const code = this.#kernels[kernel];
    this.library.driver.cuLaunchKernel(code, blocks, 1, 1, CUDA_THREADS, 1, 1, 0, this.stream, pointers, 0n);
  }

  /** A new event, without times. */
  event(): CudaPointer {
    return this.perform(() => this.#made(this.library.runtime.cudaEventCreateWithFlags, NO_TIMING));
  }

  /**
   * Copies rows of `width` bytes, pitches apart, from an array. It may be changed when this returns: memory that is not pinned is
   * staged first.
   */
  copyUp(to: CudaPointer, toPitch: number, from: Floats, fromPitch: number, width: number, rows: number): void {
    if (width === 0 || rows === 0) return;
    const { copyUp } = this.library.runtime;
    this.perform(() => copyUp(to, toPitch, from, fromPitch, width, rows, COPY.up, this.stream));
  }

  /** Copies as many rows as `out` holds, `width` bytes each and close together in it, once all products before are done. */
  copyDown(out: Floats | Int32Array, from: CudaPointer, fromPitch = out.byteLength, width = out.byteLength): void {
    if (out.byteLength === 0) return;
    const { copyDown } = this.library.runtime;
    this.perform(() => copyDown(out, width, from, fromPitch, width, out.byteLength / width, COPY.down, this.stream));
    this.wait();
  }

  /** Waits for all products. */
  wait(): void {
    this.perform(() => this.library.runtime.cudaStreamSynchronize(this.stream));
  }

  /** Ends it; what it allocated goes back. A card that was lost has nothing to give back. */
  close(): void {
    const { runtime, driver, blas } = this.library;
    const ends = [
      () => runtime.cudaStreamSynchronize(this.uploads),
      () => runtime.cudaStreamSynchronize(this.stream),
      () => this.#trim(),
      () => blas.cublasDestroy_v2(this.blas),
      () => runtime.cudaFree(this.#workspace),
      () => this.#module !== null && driver.cuModuleUnload(this.#module),
      () => runtime.cudaStreamDestroy(this.uploads),
      () => runtime.cudaStreamDestroy(this.stream),
    ];
    for (const end of ends) {
      try {
        end();
      } catch (error) {
        if (!(error instanceof CudaFailure || error instanceof DeviceFailed)) throw error;
      }
    }
  }

  /** Its kernels, which stay in the process's context when it is closed. */
  leaveKernels(): LoadedKernels {
    this.#module = null;
    return this.#kernels;
  }

  #loadKernels(capability: number): LoadedKernels {
    const { driver } = this.library;
    const image = compileKernels(this.library, capability);
    const module = this.#made((cell) => driver.cuModuleLoadData(cell, image));
    this.#module = module;
    const find = (name: string): CudaPointer => this.#made((cell) => driver.cuModuleGetFunction(cell, module, name));
    return Object.fromEntries(kernelNames.map((name) => [name, find(name)])) as LoadedKernels;
  }

  #made(make: CheckedCall, ...more: unknown[]): CudaPointer {
    const cell = pointerCell();
    make(cell, ...more);
    return cell[0]!;
  }

  /** Gives memory of the process that nobody uses back to the card. */
  #trim(): void {
    if (this.#pool !== 0n) this.perform(() => this.library.runtime.cudaMemPoolTrimTo(this.#pool, 0));
  }

  #full(error: CudaFailure, bytes: number): DeviceFailed {
    const { free, total } = this.memory();
    const mib = (count: number): string => `${Math.round(count / 2 ** 20)} MiB`;
    return new DeviceFailed({
      device: 'cuda',
      reason: 'out-of-memory',
      detail: `${error.message}: ${mib(bytes)} asked for, ${mib(free)} of the card's ${mib(total)} are free (nvidia-smi shows who has the rest)`,
    });
  }
}

/** What cuLaunchKernel takes: where each parameter stands. The array of values must live as long as the call. */
const parameterPointers = (values: BigInt64Array): BigUint64Array => {
  const start = koffi.address(values);
  return BigUint64Array.from(values, (_, i) => start + BigInt(8 * i));
};

/** Machine code where NVRTC knows the card's compute capability; else PTX of the newest it knows, for the driver to finish. */
const compileKernels = ({ compiler }: CudaLibrary, capability: number): Uint8Array => {
  const count = new Int32Array(1);
  compiler.nvrtcGetNumSupportedArchs(count);
  const archs = new Int32Array(count[0]!);
  compiler.nvrtcGetSupportedArchs(archs);
  const known = archs.includes(capability);
  const newest = Math.max(...archs.filter((arch) => arch <= capability));
  const program = pointerCell();
  const fetched = (sizeOf: CheckedCall, get: CheckedCall): Uint8Array => {
    const bytes = pointerCell();
    sizeOf(program[0]!, bytes);
    const out = new Uint8Array(Number(bytes[0]!));
    get(program[0]!, out);
    return out;
  };
  compiler.nvrtcCreateProgram(program, CUDA_KERNELS, 'weightspan.cu', 0, 0n, 0n);
  try {
    const architecture = `--gpu-architecture=${known ? `sm_${capability}` : `compute_${newest}`}`;
    try {
      compiler.nvrtcCompileProgram(program[0]!, 1, [architecture]);
    } catch (error) {
      const log = fetched(compiler.nvrtcGetProgramLogSize, compiler.nvrtcGetProgramLog);
      const text = Buffer.from(log.subarray(0, -1)).toString().trim();
      throw new DeviceUnavailable({
        device: 'cuda',
        detail: `${(error as Error).message} for ${architecture}: ${text}`,
      });
    }
    return known
      ? fetched(compiler.nvrtcGetCUBINSize, compiler.nvrtcGetCUBIN)
      : fetched(compiler.nvrtcGetPTXSize, compiler.nvrtcGetPTX);
  } finally {
    compiler.nvrtcDestroyProgram(program);
  }
};

const unavailable = (
  { message, status, call }: CudaFailure,
  { runtime }: CudaPaths,
  versions: CudaLibrary['versions'],
): DeviceUnavailable => {
  const detail =
    status === 35 || versions.driver === 0
      ? `the NVIDIA driver is missing or too old for CUDA ${cudaVersion(versions.runtime)} (${runtime}); install a driver, or an older CUDA (${message})`
      : status === 100
        ? `no NVIDIA card was found (${message}); CUDA_VISIBLE_DEVICES can hide one`
        : status === 46
          ? `the card is busy or may not be used by this process (${message}); nvidia-smi shows who has it`
          : status === 2 && call === 'cudaMalloc'
            ? `the card's memory is full (${message}); nvidia-smi shows who has it`
            : message;
  return new DeviceUnavailable({ device: 'cuda', detail });
};
