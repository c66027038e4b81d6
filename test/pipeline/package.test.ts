// The package as a stranger gets it: packed, installed into an empty folder, and used by its command and its entry points.
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { root } from './cli-process.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-package-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// Inside an `npm` script the variables of that npm would reach the one started here.
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^npm_(?!config_(registry|cache))/.test(name)),
);
const execute = (command: string, args: readonly string[], cwd = folder) =>
  promisify(execFile)(command, args, { cwd, env, maxBuffer: 2 ** 26 });

let packed: readonly string[];
beforeAll(async () => {
  // The global setup has built already, and a build in the middle of the suite would pull dist from under other tests.
  const { stdout } = await execute('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], root);
  const [{ filename, files }] = JSON.parse(stdout);
  packed = files.map(({ path }: { path: string }) => path);
  writeFileSync(join(folder, 'package.json'), '{"name": "stranger", "private": true, "type": "module"}');
  await execute('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', join(folder, filename)]);
  mkdirSync(join(folder, 'examples'));
  symlinkSync(join(root, 'examples/zoo'), join(folder, 'examples/zoo'));
}, 300_000);

it('holds what runs and what explains it, and nothing else', () => {
  const wanted = ['README.md', 'DECISIONS.md', 'CHANGELOG.md', 'LICENSE', 'package.json', 'dist/pipeline/cli.js'];
  expect(packed).toEqual(expect.arrayContaining(wanted));
  expect(packed.some((path) => /^configs\/.*\.yaml$/.test(path))).toBe(true);
  const surplus = packed.filter(
    (path) =>
      !wanted.includes(path) &&
      !/^(dist\/|configs\/[^/]+\.yaml$|watch\/(page|view|report)\/[^/]+\.(html|css)$)/.test(path),
  );
  expect(surplus).toEqual([]);
});

it('has a command', async () => {
  const { stdout } = await execute('npx', ['--no-install', 'weightspan', '--help']);
  expect(stdout).toContain('weightspan <subcommand>');
  const run = ['--no-install', 'weightspan', 'run', 'examples/zoo/full', '--out', 'run', '--device', 'tfjs', '--quiet'];
  expect((await execute('npx', run)).stdout).toMatch(/^run: 14 models, 22 slots/);
});

it('serves the page and writes the report with what is in it', async () => {
  const run = ['--no-install', 'weightspan', 'run', 'examples/zoo/full', '--out', 'watched', '--quiet', '--watch'];
  const { stderr } = await execute('npx', [...run, '--device', 'tfjs']);
  expect(stderr).toMatch(/can be watched at http:\/\/127\.0\.0\.1:\d+\/\n/);
  await execute('npx', ['--no-install', 'weightspan', 'report', 'watched', '-o', 'report.html']);
  expect(readFileSync(join(folder, 'report.html'), 'utf8')).toContain('<svg class="chart"');
});

it.each([
  ['sources', ['resolveSources', 'readModelHeader', 'weightBlocks']],
  ['operators', ['incrementalPca', 'openTiles', 'updateSubspace']],
  ['sinks', ['openTable', 'openMatrixFile', 'openNdjson']],
  ['pipeline', ['makePlan', 'run']],
])('has the entry point weightspan/%s', async (entry, names) => {
  const code = `console.log(JSON.stringify(Object.keys(await import('weightspan/${entry}'))))`;
  const { stdout } = await execute(process.execPath, ['--input-type=module', '--eval', code]);
  expect(JSON.parse(stdout)).toEqual(expect.arrayContaining(names));
});

it("runs the README's example", async () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const section = readme.split(/^#+ /m).find((text) => text.startsWith('Compose the stream by hand\n'));
  const example = /^```ts\n(.*?)^```$/ms.exec(section ?? '')?.[1];
  expect(example, 'README.md has a ts example under "Compose the stream by hand"').toBeDefined();
  expect(example).toContain('weightBlocks');
  // As it stands: the compiler's word on it, then what it prints.
  writeFileSync(join(folder, 'example.mts'), example!);
  const strict = ['--strict', '--target', 'es2022', '--module', 'nodenext', '--skipLibCheck', '--types', 'node'];
  const typeRoots = ['--typeRoots', join(root, 'node_modules/@types')];
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  await execute(process.execPath, [tsc, ...strict, ...typeRoots, '--noEmit', 'example.mts']).catch(({ stdout }) => {
    throw new Error(stdout);
  });
  writeFileSync(join(folder, 'example.mjs'), example!);
  const { stdout } = await execute(process.execPath, ['example.mjs']);
  const lines = stdout.trimEnd().split('\n');
  expect(lines).toHaveLength(22);
  for (const line of lines) {
    const share = Number(line.split(' ').at(-1));
    expect(share).toBeGreaterThan(0);
    expect(share).toBeLessThan(1);
  }
});
