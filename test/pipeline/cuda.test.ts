// Runs on a card, from the command line: that results depend on neither threads nor memory; and on the double
// (test/cuda-double/README.md): what is said of a card, and what happens where it is missing, busy, full or lost.
// Tolerance: 1e-5 of the largest eigenvalue, the promise where nothing is truncated, between devices.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cardEnvironment } from '../card.ts';
import { cudaDouble } from '../cuda-double/build.ts';
import { devices } from '../operators/devices.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { type Ended, runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-cuda-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

const onDouble = (faults: Readonly<Record<string, string>> = {}): Record<string, string> => ({
  WEIGHTSPAN_CUDA: cudaDouble!,
  ...faults,
});

const fold = ['--include', '*layer.1.*', '--rank', '16', '--block', '4', '--no-basis', '--checkpoint-every', '4'];

const run = (out: string, device: string, env: Record<string, string>, ...more: readonly string[]): Promise<Ended> =>
  runCli(['run', 'examples/zoo/full', '--out', at(out), '--device', device, ...fold, '--quiet', ...more], env);

const eigenvalues = async (out: string): Promise<readonly number[]> =>
  (await readWithHyparquet(join(at(out), 'spectrum.parquet'))).map((row) => Number(row.eigenvalue));

/** Bytes of a card on which two threads have room for 2 MB of weights beside what is theirs: several groups. */
const SMALL = 226 * 2 ** 20;

const settings = (out: string) => JSON.parse(readFileSync(join(at(out), 'run.json'), 'utf8'));

const processor = devices[0]!.name;

let truth: readonly number[];
beforeAll(async () => {
  const { code, stderr } = await run('processor', processor, {});
  expect(code, stderr).toBe(0);
  truth = await eigenvalues('processor');
});

const expectTruth = async (out: string): Promise<void> => {
  const found = await eigenvalues(out);
  expect(found).toHaveLength(truth.length);
  // Slots come one after the other, each with its largest eigenvalue first: no value is beyond the largest of all.
  const largest = Math.max(...truth);
  found.forEach((value, j) => void expect(Math.abs(value - truth[j]!) / largest).toBeLessThan(1e-5));
};

describe.skipIf(cardEnvironment === null)('a card', { timeout: 120_000 }, () => {
  it('gives what the processor gives, and the same bytes whatever the threads and the memory', async () => {
    const ways = [
      ['one', '--threads', '1'],
      ['two', '--threads', '2'],
      ['four', '--threads', '4'],
      ['little', '--threads', '2', '--memory', '2MiB'],
    ] as const;
    for (const [out, ...more] of ways) {
      const { code, stderr } = await run(out, 'cuda', cardEnvironment!, ...more);
      expect(code, stderr).toBe(0);
    }
    await expectTruth('one');
    for (const [out] of ways.slice(1)) expect(tableDigests(at(out))).toEqual(tableDigests(at('one')));
    expect(settings('one').device).toMatchObject({ name: 'cuda', precision: 'float32' });
  });

  it('multiplies in TF32 where that was asked for, and says so', async () => {
    const { code, stderr } = await run('tf32', 'cuda', cardEnvironment!, '--precision', 'tf32');
    expect(code, stderr).toBe(0);
    const [found, exact] = [await eigenvalues('tf32'), await eigenvalues('one')];
    const worst = Math.max(...found.map((value, j) => Math.abs(value - exact[j]!))) / Math.max(...exact);
    expect(worst).toBeGreaterThan(1e-6);
    expect(worst).toBeLessThan(1e-2);
    expect(settings('tf32').device.precision).toBe('tf32');
    expect(settings('tf32').run_id).not.toBe(settings('one').run_id);
    const refused = await run('no', processor, {}, '--precision', 'tf32');
    expect(refused.code).toBe(64);
    expect(refused.stderr).toMatch(/precision: tf32 .* give --device cuda, found device/);
  });
});

describe.skipIf(cudaDouble === null)('a double of a card', { timeout: 120_000 }, () => {
  it('is the first choice of auto, and said with its versions', async () => {
    const { code, stdout } = await runCli(['plan', 'examples/zoo/full', '--no-probe'], onDouble());
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /device +cuda \(cuBLAS 12\.8\.4, kernel Double of a card, sm_90, float32, CUDA 12\.8, driver for CUDA 13\.0, 8\.\d+ GB of 8\.59 GB free\)/,
    );
    const { stdout: json } = await runCli(['plan', 'examples/zoo/full', '--no-probe', '--json'], onDouble());
    expect(JSON.parse(json).device).toMatchObject({
      name: 'cuda',
      library: 'cuBLAS',
      precision: 'float32',
      card: { runtime: '12.8', driver: '13.0', total: 2 ** 33, hasSolver: true },
    });
  });

  it('makes groups by what the card has free', async () => {
    const groups = async (memory: number): Promise<number> => {
      const plan = ['plan', 'examples/zoo/full', '--no-probe', '--json', '--device', 'cuda', ...fold.slice(0, -2)];
      plan.push('--threads', '2');
      const { stdout } = await runCli(plan, onDouble({ WEIGHTSPAN_DOUBLE: `memory=${memory}` }));
      return JSON.parse(stdout).groups.length;
    };
    expect(await groups(2 ** 33)).toBe(1);
    expect(await groups(SMALL)).toBeGreaterThan(1);
    const none = await run(
      'none',
      'cuda',
      onDouble({ WEIGHTSPAN_DOUBLE: `memory=${SMALL - 3 * 2 ** 20}` }),
      '--threads',
      '2',
    );
    expect(none.code).toBe(64);
    expect(none.stderr).toMatch(
      /needs .*MiB\), found 0 B on the card beside what its threads take; give fewer --threads, --device blas, a smaller/,
    );
  });

  it('that has little free takes one group after the other', async () => {
    const { code, stderr } = await run(
      'little-free',
      'cuda',
      onDouble({ WEIGHTSPAN_DOUBLE: `memory=${SMALL}` }),
      '--threads',
      '2',
    );
    expect(code, stderr).toBe(0);
    await expectTruth('little-free');
  });

  it('whose driver has no pools of memory is used without', async () => {
    const { code, stderr } = await run('no-pools', 'cuda', onDouble({ WEIGHTSPAN_DOUBLE: 'pools=0' }));
    expect(code, stderr).toBe(0);
    await expectTruth('no-pools');
  });

  it.each([
    ['no card', { WEIGHTSPAN_DOUBLE: 'devices=0' }, /no NVIDIA card was found .*cudaErrorNoDevice/],
    ['no driver', { WEIGHTSPAN_DOUBLE: 'driver=0' }, /the NVIDIA driver is missing or too old for CUDA 12\.8/],
    ['a busy card', { WEIGHTSPAN_DOUBLE: 'busy=1' }, /the card is busy .*nvidia-smi/],
    ['a full card', { WEIGHTSPAN_DOUBLE: 'memory=1000000' }, /the card's memory is full .*nvidia-smi/],
    ['a card with no room beside', { WEIGHTSPAN_DOUBLE: 'memory=34000000' }, /out of memory: .* are free \(nvidia-smi/],
    [
      'a cuBLAS that does not start',
      { WEIGHTSPAN_DOUBLE_FAIL: 'cublasCreate_v2:1:1' },
      /cublasCreate_v2 gave CUBLAS_STATUS_NOT_INITIALIZED/,
    ],
    [
      'kernels that do not compile',
      { WEIGHTSPAN_DOUBLE_FAIL: 'nvrtcCompileProgram:1:6' },
      /nvrtcCompileProgram gave NVRTC_ERROR_COMPILATION \(6\) for --gpu-architecture=sm_90/,
    ],
  ])('%s: an error by name, and auto goes on without it and says so', async (what, faults, text) => {
    const asked = await run('never', 'cuda', onDouble(faults));
    expect(asked.code).toBe(69);
    expect(asked.stderr).toMatch(text);
    expect(asked.stderr.trim().split('\n')).toHaveLength(1);
    expect(existsSync(at('never'))).toBe(false);
    const out = `without-${what.replaceAll(' ', '-')}`;
    const { code, stderr } = await run(out, 'auto', onDouble(faults));
    expect(code, stderr).toBe(0);
    expect(settings(out).device.name).toBe(processor);
    const warnings = await readWithHyparquet(join(at(out), 'warnings.parquet'));
    const [warning] = warnings.filter(({ code }) => code === 'device');
    expect(warning?.text).toMatch(text);
    expect(warning?.text).toMatch(/auto goes on without it/);
  });

  it.each([
    ['not there', [], /no NVIDIA driver: libcuda\.so\.1 was looked for in .*WEIGHTSPAN_CUDA/],
    [
      'half there',
      ['libcuda.so.1', 'libcudart.so.12', 'libnvrtc.so.12'],
      /CUDA 12 lacks libcublas\.so\.12: looked for in/,
    ],
    ['of no version', ['libcuda.so.1'], /neither CUDA 12 nor CUDA 13/],
  ])('libraries that are %s: told what is missing, and auto is silent', async (what, names, text) => {
    const libraries = at(`libraries-${what.replaceAll(' ', '-')}`);
    mkdirSync(libraries);
    for (const name of names) symlinkSync(join(cudaDouble!, name), join(libraries, name));
    const asked = await run('never', 'cuda', { WEIGHTSPAN_CUDA: libraries });
    expect(asked.code).toBe(69);
    expect(asked.stderr).toMatch(text);
    const { stdout } = await runCli(['plan', 'examples/zoo/full', '--no-probe'], { WEIGHTSPAN_CUDA: libraries });
    expect(stdout).toMatch(new RegExp(`device +${processor} `));
    expect(stdout).not.toMatch(/warning.*cuda/);
  });

  it('a run that was begun on one, where there is none: told how to go on, and goes on', async () => {
    expect((await run('moved', 'cuda', onDouble())).code).toBe(0);
    const more = ['extend', at('moved'), 'examples/zoo/base', '--quiet'];
    mkdirSync(at('nothing'));
    const refused = await runCli(more, { WEIGHTSPAN_CUDA: at('nothing') });
    expect(refused.code).toBe(69);
    expect(refused.stderr).toMatch(
      /no NVIDIA driver: .*begun on this device: --device blas .* --allow-inexact goes on/,
    );
    const { code, stderr } = await runCli([...more, '--device', processor, '--allow-inexact'], {});
    expect(code, stderr).toBe(0);
    expect(settings('moved')).toMatchObject({ device: { name: processor }, inexact: [expect.stringMatching(/cuda/)] });
  });

  it('without cuSOLVER it works too, and the plan says so', async () => {
    const libraries = at('without-solver');
    mkdirSync(libraries);
    for (const name of ['libcuda.so.1', 'libcudart.so.12', 'libnvrtc.so.12', 'libcublas.so.12'])
      symlinkSync(join(cudaDouble!, name), join(libraries, name));
    const { code, stdout } = await runCli(['plan', 'examples/zoo/full', '--no-probe'], { WEIGHTSPAN_CUDA: libraries });
    expect(code).toBe(0);
    expect(stdout).toMatch(/device +cuda .*no cuSOLVER/);
  });

  it.each([
    ['lost', { WEIGHTSPAN_DOUBLE: 'dies=300' }, /gave cudaErrorIllegalAddress \(700\): an illegal memory access/],
    [
      'full',
      { WEIGHTSPAN_DOUBLE_FAIL: 'cudaMallocAsync:60:2' },
      /cudaErrorMemoryAllocation \(2\): out of memory: \d+ MiB asked for, \d+ MiB of the card's 8192 MiB are free .*a smaller --memory/,
    ],
    [
      // The first thread's: the plan's own was the first.
      'taken by others',
      { WEIGHTSPAN_DOUBLE_FAIL: 'cublasCreate_v2:2:3' },
      /cublasCreate_v2 gave CUBLAS_STATUS_ALLOC_FAILED/,
    ],
    [
      'failing at uploads',
      { WEIGHTSPAN_DOUBLE_FAIL: 'cudaMemcpyAsync:40:1' },
      /cudaMemcpyAsync gave cudaErrorInvalidValue/,
    ],
  ])(
    '%s in the middle: who asked for it is told, and auto goes on from the last checkpoint',
    async (what, faults, text) => {
      const name = what.replaceAll(' ', '-');
      const asked = await run(`asked-${name}`, 'cuda', onDouble(faults));
      expect(asked.code, asked.stderr).toBe(69);
      expect(asked.stderr).toMatch(text);
      expect(existsSync(join(at(`asked-${name}`), 'run.json'))).toBe(false);
      const { code, stderr } = await run(`auto-${name}`, 'auto', onDouble(faults));
      expect(code, stderr).toBe(0);
      await expectTruth(`auto-${name}`);
      expect(settings(`auto-${name}`).device.name).toBe(processor);
      const warnings = await readWithHyparquet(join(at(`auto-${name}`), 'warnings.parquet'));
      const [warning] = warnings.filter(({ code }) => code === 'device');
      expect(warning?.text).toMatch(text);
      // Each model is in it once, whatever was folded twice.
      expect(
        new Set((await readWithHyparquet(join(at(`auto-${name}`), 'models.parquet'))).map(({ model_id }) => model_id))
          .size,
      ).toBe(14);
    },
  );
});
