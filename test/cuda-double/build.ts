// Builds the double of a card once a machine, and says in which folder it is: what WEIGHTSPAN_CUDA takes. Where there is no C++
// compiler, tests that need it are skipped, loudly.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requirePart } from '../requires.ts';

const here = join(process.cwd(), 'test/cuda-double');
const sources = ['card.cpp', 'products.cpp', 'kernels.cpp'];

/** One library under all of the names that are looked for. */
const names = ['libcudart.so.12', 'libcublas.so.12', 'libnvrtc.so.12', 'libcuda.so.1', 'libcusolver.so.11'];

const build = (): string => {
  const digest = createHash('sha256');
  for (const name of [...sources, 'double.hpp']) digest.update(readFileSync(join(here, name)));
  const folder = join(tmpdir(), `weightspan-cuda-double-${digest.digest('hex').slice(0, 16)}`);
  if (existsSync(folder)) return folder;
  // Others may be building it too: whoever is done first gives the name.
  const own = mkdtempSync(`${folder}-`);
  const options = ['-O3', '-march=native', '-std=c++17', '-shared', '-fPIC', '-Wall', '-Werror'];
  const files = sources.map((name) => join(here, name));
  execFileSync('c++', [...options, '-o', join(own, 'libdouble.so'), ...files, '-ldl', '-lpthread']);
  for (const name of names) symlinkSync('libdouble.so', join(own, name));
  try {
    renameSync(own, folder);
  } catch {
    rmSync(own, { recursive: true });
  }
  return folder;
};

const hasCompiler = requirePart('c++', spawnSync('c++', ['--version']).status === 0);

/** The folder with the libraries, or null where they cannot be built. */
export const cudaDouble: string | null = hasCompiler ? build() : null;
