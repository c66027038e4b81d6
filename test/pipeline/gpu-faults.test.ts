// A GPU that fails in the middle of a run, injected below tfjs (test/gpu-faults.mjs): the run that took it unasked goes on from
// its last checkpoint on the processor, and the one that was told to use it stops, with a state that can be gone on from.
// Tolerance: 1e-5 of the largest eigenvalue, the promise where nothing is truncated, between devices.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { requirePart } from '../requires.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { hasSoftwareAdapter, softwareAdapter } from '../software-adapter.ts';
import { runCli } from './cli-process.ts';

const folder = mkdtempSync(join(tmpdir(), 'weightspan-gpu-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** One slot of 4,096 weights, four blocks, a checkpoint after each. */
const fold = ['--include', '*layer.1.attention.attention.value.weight', '--rank', '16', '--block', '4', '--no-basis'];
const often = ['--checkpoint-every', '4'];

const run = (out: string, device: string, env: Record<string, string> = {}, command: readonly string[] = []) =>
  runCli(
    command.length > 0
      ? [...command, join(folder, out), '--quiet']
      : ['run', 'examples/zoo/full', '--out', join(folder, out), '--device', device, ...fold, ...often, '--quiet'],
    env,
  );

const broken = (fault: string, isReal: boolean): Record<string, string> => ({
  ...softwareAdapter,
  NODE_OPTIONS: `--import ${resolve('test/gpu-faults.mjs')}`,
  GPU_FAULT: fault,
  GPU_REAL: isReal ? '1' : '0',
});

const eigenvalues = async (out: string): Promise<readonly number[]> =>
  (await readWithHyparquet(join(folder, out, 'spectrum.parquet'))).map((row) => Number(row.eigenvalue));

const settings = (out: string) => JSON.parse(readFileSync(join(folder, out, 'run.json'), 'utf8'));

const processor = devices[0]!.name;

describe.runIf(hasSoftwareAdapter)('a GPU that fails', { timeout: 300_000 }, () => {
  let truth: readonly number[];
  beforeAll(async () => {
    expect((await run('processor', processor)).code).toBe(0);
    truth = await eigenvalues('processor');
  });

  const expectTruth = async (out: string): Promise<void> => {
    const found = await eigenvalues(out);
    expect(found).toHaveLength(truth.length);
    found.forEach((value, j) => void expect(Math.abs(value - truth[j]!) / truth[0]!).toBeLessThan(1e-5));
  };

  it.each([
    // The Gram of the third block, with two blocks in checkpoints; a shader, before any is.
    ['lost', 'lost:6', /the GPU was lost/],
    ['out-of-memory', 'out-of-memory:6', /[Oo]ut of memory/],
    ['shader', 'shader:2', /WGSL/],
  ])('%s, taken unasked: the run goes on without it, and says so', async (kind, fault, text) => {
    const { code, stderr } = await run(kind, 'auto', broken(fault, true));
    expect(code, stderr).toBe(0);
    await expectTruth(kind);
    const { device, inexact } = settings(kind);
    expect(device.library).not.toBe('tfjs-webgpu');
    expect(inexact).toEqual([expect.stringMatching(/begun on tfjs \(tfjs-webgpu/)]);
    const warnings = await readWithHyparquet(join(folder, kind, 'warnings.parquet'));
    const [warning] = warnings.filter(({ code }) => code === 'device');
    expect(warning?.text).toMatch(text);
    expect(warning?.text).toMatch(/folded again on/);
    // Each model is in it once, whatever was folded twice.
    expect(await readWithHyparquet(join(folder, kind, 'model_slots.parquet'))).toHaveLength(14);
  });

  it('asked for by name: the run stops, and can be gone on with where it stood', async () => {
    const { code, stderr } = await run('asked', 'tfjs:webgpu', broken('lost:6', false));
    expect(code).toBe(69);
    expect(stderr).toMatch(/device tfjs:webgpu: the GPU was lost .*weightspan resume .* --allow-inexact/);
    expect(existsSync(join(folder, 'asked', 'run.json'))).toBe(false);
    const without = await run('asked', '', {}, ['resume', '--device', processor, '--allow-inexact']);
    expect(without.code, without.stderr).toBe(0);
    await expectTruth('asked');
    const events = readFileSync(join(folder, 'asked', 'events.ndjson'), 'utf8')
      .trim()
      .split('\n');
    const [resumed] = events.map((line) => JSON.parse(line)).filter(({ type }) => type === 'resumed');
    expect(resumed.modelsSeen).toBeGreaterThan(0);
  });

  it('is never software, unless asked for by name', async () => {
    const { code } = await run('unasked', 'auto', softwareAdapter);
    expect(code).toBe(0);
    expect(settings('unasked').device.library).not.toBe('tfjs-webgpu');
  });
});

it('says what is missing, with the command that installs it', async () => {
  requirePart('webgpu', hasSoftwareAdapter);
  const { code, stderr } = await run('none', 'tfjs:node-gpu');
  expect(code).toBe(69);
  expect(stderr).toContain('npm install @tensorflow/tfjs-node-gpu@4.22.0');
  expect(existsSync(join(folder, 'none'))).toBe(false);
});
