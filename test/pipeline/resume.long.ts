// A run that is killed and resumed leaves, to the last bit, what one leaves that was never stopped.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { runCli } from './cli-process.ts';
import { runKilled, writeMany } from './killing.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-resume-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const models = join(root, 'models');
beforeAll(() =>
  writeMany(models, 240, 24, [
    { name: 'a', shape: [210, 200] },
    { name: 'b', shape: [90, 200] },
    { name: 'c', shape: [200, 210] },
    { name: 'd', shape: [16, 20] },
  ]),
);

const common = [models, '--rank', '4', '--block', '3', '--checkpoint-every', '3'];
const ways = devices.flatMap(({ name }) => [
  { name, engine: 'incremental', memory: '4GiB', extra: [] },
  { name, engine: 'incremental', memory: '24MiB', extra: ['--mode', 'models,rows'] },
  { name, engine: 'frequent-directions', memory: '24MiB', extra: [] },
  { name, engine: 'randomized', memory: '4GiB', extra: [] },
  { name, engine: 'randomized', memory: '24MiB', extra: ['--passes', '2', '--mode', 'models,rows'] },
  { name, engine: 'exact', memory: '64MiB', extra: ['--group-by', '[ab]', '--mode', 'models,cols'] },
  // Directions of mode models that the core tensor waits for: the modes do not share a pass here.
  { name, engine: 'exact', memory: '48MiB', extra: ['--core'] },
]);

describe.each(ways)('$engine on $name in $memory $extra', ({ name, engine, memory, extra }) => {
  it('is the same, killed at random moments or not', async () => {
    const args = [...common, '--device', name, '--engine', engine, '--memory', memory, ...extra];
    const whole = join(root, `${name}-${engine}-${memory}-whole`);
    const plain = await runCli(['run', ...args, '--out', whole, '--quiet']);
    expect(plain.code, plain.stderr).toBe(0);
    const out = join(root, `${name}-${engine}-${memory}-killed`);
    const killed = await runKilled(args, out, { kills: 6, span: 1.2, seed: 11 });
    expect(killed.kills).toBeGreaterThan(1);
    expect(tableDigests(out)).toEqual(tableDigests(whole));
    const events = readFileSync(join(out, 'events.ndjson'), 'utf8').trim().split('\n');
    expect(events.map((line) => JSON.parse(line).seq)).toEqual(events.map((_, i) => i));
  }, 240_000);
});
