// Finds a Python that can import what a reference needs, and runs the reference in a fresh process.
import { execFileSync, spawnSync } from 'node:child_process';

const CANDIDATES = ['python3', '/usr/bin/python3'];

/** The environment of every contender: nothing pins an old BLAS kernel. */
export function cleanEnvironment() {
  const { OPENBLAS_CORETYPE, OPENBLAS_L2_SIZE, ...rest } = process.env;
  return rest;
}

/** Looking takes seconds where a module is large. */
const found = new Map();

/** The first Python that imports `module`, or null. */
export function findPython(module) {
  const imports = (python) => spawnSync(python, ['-c', `import ${module}`], { stdio: 'ignore' }).status === 0;
  if (!found.has(module)) found.set(module, CANDIDATES.find(imports) ?? null);
  return found.get(module);
}

/** Runs a script that prints one JSON object. */
export function runPython(python, script, args) {
  const options = { env: cleanEnvironment(), encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] };
  return JSON.parse(execFileSync(python, [script, ...args.map(String)], options));
}
