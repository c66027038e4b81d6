// What worker threads load. Every run starts two to six of them, and each loads its modules for itself: the whole of effect
// took 0.15 s of processor time and 28 MB in each.
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { expect, it } from 'vitest';
import { root } from '../pipeline/cli-process.ts';

/** Packages that a built module and all that it imports name, but for what is imported while running. */
const packagesOf = (path: string, seen = new Set<string>()): ReadonlySet<string> => {
  const packages = new Set<string>();
  if (seen.has(path)) return packages;
  seen.add(path);
  for (const [, name] of readFileSync(path, 'utf8').matchAll(/^(?:import|export) (?:.* from )?'([^']+)'/gm)) {
    if (!name!.startsWith('.')) packages.add(name!);
    else for (const other of packagesOf(resolve(dirname(path), name!), seen)) packages.add(other);
  }
  return packages;
};

const builtin = (name: string): boolean => name.startsWith('node:');

it.each([
  ['operators/tile-worker.js', ['effect/Data', 'koffi']],
  ['sources/header-worker.js', ['effect/Data']],
])('%s loads %j and no more', (worker, packages) => {
  const found = [...packagesOf(join(root, 'dist', worker))].filter((name) => !builtin(name));
  expect(found.sort()).toEqual(packages);
});
