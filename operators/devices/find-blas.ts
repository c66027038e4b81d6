// Finds the BLAS libraries of this machine and takes the fastest, by timing one small product, not by name.
// A library given in WEIGHTSPAN_BLAS is taken as it is. To load one costs 20 to 50 ms, so the search stops at a handful.
import { join } from 'node:path';
import { type BlasLibrary, loadBlas } from './blas-library.ts';
import { matching, pythonPackages } from './python-packages.ts';

/** Names the system's loader may know. */
const loaderNames: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ['libopenblas.so.0', 'libmkl_rt.so.2', 'libblis.so.4'],
  darwin: ['/System/Library/Frameworks/Accelerate.framework/Accelerate', 'libopenblas.dylib'],
  win32: ['libopenblas.dll', 'mkl_rt.2.dll'],
};

/** Libraries inside Python environments: conda's own, and the private OpenBLAS of NumPy wheels. */
const environmentLibraries = (env: NodeJS.ProcessEnv): string[] => [
  ...(env.CONDA_PREFIX ? matching(join(env.CONDA_PREFIX, 'lib'), /^lib(openblas|mkl_rt)\.so(\.\d+)?$/) : []),
  ...pythonPackages(env).flatMap((packages) => matching(join(packages, 'numpy.libs'), /^libscipy_openblas.*\.so$/)),
];

/** Milliseconds of the fastest of three 384 x 384 x 384 products. */
const timeProduct = (blas: BlasLibrary): number => {
  const n = 384;
  const a = new Float32Array(n * n).fill(0.5);
  const c = new Float32Array(n * n);
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 4; i++) {
    const start = performance.now();
    blas.multiply(n, n, n, a, n, a, n, c, n);
    if (i > 0) best = Math.min(best, performance.now() - start);
  }
  return best;
};

/**
 * The fastest BLAS found, or null. Of two that are within a third of each other the earlier one wins, so that the
 * choice, and with it the bits of the results, does not hang on noise.
 * @throws DeviceUnavailable when WEIGHTSPAN_BLAS names a library that cannot be used
 */
export const findBlas = (env: NodeJS.ProcessEnv = process.env): BlasLibrary | null => {
  // One thread a tile: must stand in the environment before a library is loaded, and workers only get a copy of it.
  for (const name of ['OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS', 'VECLIB_MAXIMUM_THREADS']) {
    process.env[name] = '1';
  }
  process.env.MKL_THREADING_LAYER = 'SEQUENTIAL';
  if (env.WEIGHTSPAN_BLAS) return loadBlas(env.WEIGHTSPAN_BLAS);
  const found: BlasLibrary[] = [];
  for (const path of loaderNames[process.platform] ?? []) {
    const blas = tryLoad(path);
    if (blas !== null) found.push(blas);
  }
  if (found.length === 0) {
    for (const path of environmentLibraries(env).slice(0, 4)) {
      const blas = tryLoad(path);
      if (blas !== null) found.push(blas);
    }
  }
  if (found.length < 2) return found[0] ?? null;
  const timed = found.map((blas) => ({ blas, ms: timeProduct(blas) }));
  const best = Math.min(...timed.map(({ ms }) => ms));
  return timed.find(({ ms }) => ms <= best * 1.33)!.blas;
};

const tryLoad = (path: string): BlasLibrary | null => {
  try {
    return loadBlas(path);
  } catch {
    return null;
  }
};

/** A line for the user when the environment pins a kernel: on most machines that makes the products slower. */
export const pinnedKernelWarning = (env: NodeJS.ProcessEnv = process.env): string | null =>
  env.OPENBLAS_CORETYPE
    ? `OPENBLAS_CORETYPE=${env.OPENBLAS_CORETYPE} pins OpenBLAS to that kernel, which can halve its speed; unset it unless a result must match an earlier one bit for bit`
    : null;
