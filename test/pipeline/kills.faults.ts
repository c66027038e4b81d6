// Fifty kills at random moments of one run of some twenty seconds, on every engine and device, and resumed every time.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { runCli } from './cli-process.ts';
import { runKilled, writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const KILLS = 50;

const root = mkdtempSync(join(tmpdir(), 'weightspan-kills-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Slots that fall into several groups in the memory that the runs have. */
const slots = Array.from({ length: 6 }, (_, i) => ({ name: `layer.${i}`, shape: [256, 256 + 16 * i] as const }));
const MODELS = 1200;
const models = join(root, 'models');
beforeAll(() => writeMany(models, MODELS, 24, slots));

const ways = devices.flatMap(({ name }) => [
  { name, engine: 'incremental', options: ['--block', '8', '--memory', '24MiB', '--checkpoint-every', '8'] },
  { name, engine: 'exact', options: ['--block', '64', '--memory', '700MiB', '--checkpoint-every', '1'] },
]);

describe.each(ways)('$engine on $name', ({ name, engine, options }) => {
  it('leaves what a run leaves that was never stopped, and every model once', async () => {
    const args = [models, '--rank', '4', '--device', name, '--engine', engine, ...options];
    const whole = join(root, `${name}-${engine}-whole`);
    const began = performance.now();
    const plain = await runCli(['run', ...args, '--out', whole, '--quiet']);
    const seconds = (performance.now() - began) / 1e3;
    expect(plain.code, plain.stderr).toBe(0);
    const out = join(root, `${name}-${engine}`);
    const killed = await runKilled(args, out, { kills: KILLS, span: (2 * seconds) / KILLS, seed: 7 });
    process.stderr.write(`${engine} on ${name}, ${seconds.toFixed(1)} s: ${JSON.stringify(killed)}\n`);
    expect(tableDigests(out)).toEqual(tableDigests(whole));
    const coefficients = await readWithHyparquet(join(out, 'coefficients.parquet'));
    expect(coefficients).toHaveLength(MODELS * slots.length);
    expect(new Set(coefficients.map(({ slot_id, model_id }) => `${slot_id}/${model_id}`)).size).toBe(
      coefficients.length,
    );
    const seqs = readFileSync(join(out, 'events.ndjson'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).seq);
    expect(seqs).toEqual(seqs.map((_, i) => i));
    expect(killed.kills).toBe(KILLS);
    expect(killed.inCommits).toBeGreaterThanOrEqual(5);
    expect(killed.places).toBeGreaterThanOrEqual(engine === 'incremental' ? 10 : 2);
  });
});
