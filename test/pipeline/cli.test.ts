// The command line before any model is read: help, usage, configuration, and what goes to which stream.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, runCli, temporaryFolder } from './cli-process.ts';

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { readonly version: string };

describe('help', () => {
  it('is for reading, on standard output', async () => {
    const { code, stdout, stderr } = await runCli(['--help']);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/USAGE[\s\S]*SUBCOMMANDS[\s\S]*plan[\s\S]*run[\s\S]*EXAMPLES[\s\S]*weightspan run /);
  });

  it.each(['plan', 'run'])('%s names every option, its default and an example', async (command) => {
    const { code, stdout, stderr } = await runCli([command, '--help']);
    expect([code, stderr]).toEqual([0, '']);
    const flags = `--out RUN|--rank K|--block B|--base MODEL|--no-center|--shuffle SEED|--include GLOB|--exclude GLOB|
      --rename FROM=TO|--on-mismatch|--on-bad-source|--verify|--memory SIZE|--threads N|--device NAME|--no-basis|
      --config FILE.yaml|--json|--quiet`;
    for (const flag of flags.split('|')) expect(stdout).toContain(`  ${flag.trim()} `);
    for (const value of ['32', 'skip-slot', 'error', '4GiB', 'auto'])
      expect(stdout).toMatch(new RegExp(`default:? ${value}`));
    expect(stdout).toContain(`  weightspan ${command} `);
    expect(stdout).not.toContain('[=');
  });

  it('--version is that of package.json', async () => {
    expect(await runCli(['--version'])).toEqual({ code: 0, stdout: `weightspan ${manifest.version}\n`, stderr: '' });
  });
});

describe('usage errors go to standard error and exit 64', () => {
  it.each<[string, readonly string[], readonly string[]]>([
    ['no command', [], ['USAGE']],
    ['an unknown command', ['walk'], ['weightspan: ', 'walk']],
    ['an unknown option', ['run', 'a', '--out', 'r', '--rnk', '3'], ['--rnk', '--rank', 'See weightspan run --help']],
    ['two at once', ['run', 'a', '--foo', '--bar'], ['--foo', '--bar']],
    ['a missing value', ['run', 'a', '--out'], ['--out']],
    ['an option given twice', ['run', 'a', '--rank', '1', '--rank', '2'], ['--rank']],
    ['a value for a negated flag', ['run', 'a', '--center=no'], ['--center']],
  ])('%s', async (_, args, words) => {
    const { code, stdout, stderr } = await runCli(args);
    expect([code, stdout]).toEqual([64, '']);
    for (const word of words) expect(stderr).toContain(word);
    expect(stderr).not.toMatch(/^ +at /m);
  });
});

describe('configuration errors', () => {
  it('come all at once, a line each', async () => {
    const config = join(temporaryFolder(), 'run.yaml');
    writeFileSync(config, 'rank: 0\nonMismatch: error\nthreads: many\n');
    const flags =
      '--block 2.5 --memory 4G --shuffle -1 --device gpu --on-bad-source ask --rename foo --include a --exclude a';
    const { code, stdout, stderr } = await runCli(['run', 'models', '--config', config, ...flags.split(' ')]);
    expect([code, stdout]).toEqual([64, '']);
    expect(stderr.trimEnd().split('\n').sort()).toEqual(
      [
        `${config}: onMismatch: unknown option; did you mean on-mismatch?`,
        `${config}: rank: expected a whole number of at least 1, found 0`,
        `${config}: threads: expected a whole number from 1 to 1024, found "many"`,
        'block: expected a whole number from 1 to 4096, found 2.5',
        'device: expected one of auto, blas, cuda, tfjs, tfjs:wasm, tfjs:webgpu, tfjs:node-gpu, found "gpu"',
        'exclude: contradicts include: both name "a"',
        'memory: expected a size of at least 1MiB, such as 512MiB, 4GiB or a number of bytes, found "4G"',
        'on-bad-source: expected one of error, skip, found "ask"',
        'out: expected the folder to write the run to (--out RUN), found nothing',
        'rename[0]: expected FROM=TO, found "foo"',
        'shuffle: expected a whole number from 0 to 4294967295, found -1',
      ].map((issue) => `weightspan: ${issue}`),
    );
  });

  it.each(['0', '-1', '1.5', 'ten', '1e1', ''])('--rank=%s is refused', async (rank) => {
    const { code, stderr } = await runCli(['run', 'a', '--out', 'r', `--rank=${rank}`]);
    expect(code).toBe(64);
    expect(stderr).toMatch(/^weightspan: rank: expected a whole number of at least 1, found .*\n$/);
  });

  it('under --json reach the reader of standard output too', async () => {
    const { code, stdout, stderr } = await runCli(['run', 'a', '--json']);
    expect(code).toBe(64);
    expect(JSON.parse(stdout)).toEqual({
      type: 'failed',
      error: 'ConfigInvalid',
      message: expect.stringContaining('out: expected the folder'),
    });
    expect(stderr).toContain('weightspan: out: ');
  });

  it('an unreadable config file', async () => {
    const folder = temporaryFolder();
    const { code, stderr } = await runCli(['run', 'a', '--out', 'r', '--config', folder]);
    expect([code, stderr]).toEqual([64, `weightspan: ${folder}: expected a file, found something else\n`]);
  });
});

it.skipIf(process.platform !== 'linux')('a full disk behind standard output is said, and exits 74', () => {
  const { status, stderr } = spawnSync('sh', ['-c', `"${process.execPath}" dist/pipeline/cli.js --help > /dev/full`], {
    cwd: root,
    encoding: 'utf8',
  });
  expect([status, stderr]).toEqual([74, 'weightspan: standard output: cannot be written: ENOSPC\n']);
});
