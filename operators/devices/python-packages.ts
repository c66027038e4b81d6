// Where Python environments keep what they brought along: conda's, a virtual one, those on the PATH, the system's. Native libraries
// in them serve where the system has none.
import { existsSync, readdirSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';

/** Paths of a folder's entries whose names match, sorted; none where there is no such folder. */
export const matching = (folder: string, pattern: RegExp): string[] => {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => pattern.test(name))
    .sort()
    .map((name) => join(folder, name));
};

/** Folders of packages, an environment that is active first; not all of them exist. */
export const pythonPackages = (env: NodeJS.ProcessEnv): readonly string[] => {
  const prefixes = [env.CONDA_PREFIX, env.VIRTUAL_ENV, '/usr', '/usr/local'].filter((p): p is string => Boolean(p));
  for (const folder of (env.PATH ?? '').split(delimiter)) {
    if (folder !== '' && existsSync(join(folder, 'python3'))) prefixes.push(dirname(folder));
  }
  return [...new Set(prefixes)].flatMap((prefix) =>
    matching(join(prefix, 'lib'), /^python3/).flatMap((python) =>
      ['site-packages', 'dist-packages'].map((packages) => join(python, packages)),
    ),
  );
};
