// Finds CUDA's libraries where they usually are: a folder named in WEIGHTSPAN_CUDA, the loader's own path, CUDA_HOME, /usr/local/cuda*
// and the packages of Python environments, PyTorch's among them. All come from one version of CUDA, the newest that is whole.
// That they are there says nothing of a card: opening the device does.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import koffi from 'koffi';
import { DeviceUnavailable } from '../errors.ts';
import type { CudaPaths } from './cuda-library.ts';
import { matching, pythonPackages } from './python-packages.ts';

/** Names by version of CUDA; cuSOLVER counts its own. */
const versions = [
  {
    cuda: 13,
    runtime: 'libcudart.so.13',
    blas: 'libcublas.so.13',
    compiler: 'libnvrtc.so.13',
    solver: 'libcusolver.so.12',
  },
  {
    cuda: 12,
    runtime: 'libcudart.so.12',
    blas: 'libcublas.so.12',
    compiler: 'libnvrtc.so.12',
    solver: 'libcusolver.so.11',
  },
] as const;

const DRIVER = 'libcuda.so.1';

/** What libraries need of others in their own folders, which not every package's own search path says. */
const besides: Readonly<Record<string, readonly string[]>> = {
  'libcublas.so.13': ['libcublasLt.so.13'],
  'libcublas.so.12': ['libcublasLt.so.12'],
  'libcusolver.so.12': ['libnvJitLink.so.13', 'libcusparse.so.12'],
  'libcusolver.so.11': ['libnvJitLink.so.12', 'libcusparse.so.12'],
};

/** Folders that may hold the libraries, in the order in which they are looked through. */
const cudaFolders = (env: NodeJS.ProcessEnv): readonly string[] => {
  const homes = [env.CUDA_HOME, env.CUDA_PATH].filter((home): home is string => Boolean(home));
  const toolkits = [...homes, ...matching('/usr/local', /^cuda(-[\d.]+)?$/).toReversed()];
  return [
    ...new Set([
      ...toolkits.flatMap((home) => [join(home, 'lib64'), join(home, 'lib'), join(home, 'targets/x86_64-linux/lib')]),
      ...(env.CONDA_PREFIX ? [join(env.CONDA_PREFIX, 'lib')] : []),
      ...pythonPackages(env).flatMap((folder) => [
        ...matching(join(folder, 'nvidia'), /./).map((name) => join(name, 'lib')),
        join(folder, 'torch/lib'),
      ]),
    ]),
  ].filter((folder) => existsSync(folder));
};

const loads = (path: string): boolean => {
  try {
    koffi.load(path, { global: true });
    return true;
  } catch {
    return false;
  }
};

/**
 * The libraries to load.
 * @throws DeviceUnavailable with what was looked for and what is missing
 */
export const findCuda = (env: NodeJS.ProcessEnv = process.env): CudaPaths => {
  const named = env.WEIGHTSPAN_CUDA;
  const folders = named ? [named] : cudaFolders(env);
  const find = (name: string): string | null => {
    const inFolder = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
    const path = inFolder ?? (named || !loads(name) ? null : name);
    if (path === null) return null;
    for (const beside of besides[name] ?? []) {
      const near = join(dirname(path), beside);
      if (existsSync(near)) loads(near);
    }
    return path;
  };
  const where = named
    ? `in ${named} (WEIGHTSPAN_CUDA)`
    : `on the loader's path and in ${folders.join(', ') || 'no folder'}`;
  const driver = find(DRIVER) ?? (named && loads(DRIVER) ? DRIVER : null);
  if (driver === null)
    throw unavailable(`no NVIDIA driver: ${DRIVER} was looked for ${where}; install the driver of the card`);
  const missing: string[] = [];
  for (const { cuda, ...names } of versions) {
    const found = { runtime: find(names.runtime), blas: find(names.blas), compiler: find(names.compiler) };
    const { runtime, blas, compiler } = found;
    if (runtime !== null && blas !== null && compiler !== null) {
      const solver = find(names.solver);
      return { runtime, blas, compiler, driver, solver: solver !== null && loads(solver) ? solver : null };
    }
    const lacking = (['runtime', 'blas', 'compiler'] as const).filter((part) => found[part] === null);
    if (lacking.length < 3) missing.push(`CUDA ${cuda} lacks ${lacking.map((part) => names[part]).join(' and ')}`);
  }
  const known =
    missing.length > 0
      ? missing.join('; ')
      : `neither CUDA 12 nor CUDA 13 (${versions[1].runtime}, ${versions[0].runtime})`;
  throw unavailable(
    `${known}: looked for ${where}; install CUDA's runtime, cuBLAS and NVRTC (a PyTorch environment that is active has them), or name their folder in WEIGHTSPAN_CUDA`,
  );
};

const unavailable = (detail: string): DeviceUnavailable => new DeviceUnavailable({ device: 'cuda', detail });
