// --snapshot-every: the tables as of a block are those of a run over the models so far, and the run does not notice.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { runCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-snapshots-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const zoo = readdirSync('examples/zoo/full')
  .sort()
  .map((name) => join('examples/zoo/full', name));
/** What a run and its snapshots both have, the snapshots themselves left out. */
const tables = (run: string): Record<string, string> =>
  Object.fromEntries(
    Object.entries(tableDigests(run)).filter(([file]) => file !== 'warnings.parquet' && !file.startsWith('snapshots/')),
  );

const run = async (name: string, models: readonly string[], ...options: string[]) => {
  const out = join(root, name);
  const fold = ['--rank', '3', '--block', '4', '--no-basis', '--json'];
  const { code, stdout, stderr } = await runCli(['run', ...models, '--out', out, ...fold, ...options]);
  expect([code, stderr]).toEqual([0, '']);
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  return { out, snapshots: events.filter(({ type }) => type === 'snapshot') };
};

describe.each(devices)('on $name', ({ name: device }) => {
  it.each([
    ['in memory', '4GiB'],
    ['group by group, large slots in files', '1MiB'],
  ])(
    '%s',
    async (_, memory) => {
      const on = ['--device', device, '--memory', memory, '--threads', '1'];
      const name = `${device}-${memory}`;
      const { out, snapshots } = await run(name, zoo, ...on, '--snapshot-every', '2');
      const plain = await run(`${name}-plain`, zoo, ...on);
      expect(tables(out)).toEqual(tables(plain.out));
      expect(plain.snapshots).toEqual([]);

      // 14 models are 4 blocks; the last one is the end of a group, which leaves its tables itself.
      const names = readdirSync(join(out, 'snapshots')).sort();
      expect(snapshots.map(({ folder }) => folder)).toEqual(names.map((folder) => `snapshots/${folder}`));
      expect(names[0]).toBe('000002');
      const { groups, slots, models_seen } = JSON.parse(
        readFileSync(join(out, 'snapshots/000002/snapshot.json'), 'utf8'),
      );
      expect(names).toHaveLength(groups);
      expect(models_seen).toBe(8);
      if (memory === '1MiB') expect(groups).toBeGreaterThan(1);
      else {
        expect(slots).toHaveLength(22);
        const half = await run(`${name}-half`, zoo.slice(0, 8), ...on);
        const expected = tables(half.out);
        const found = tables(join(out, 'snapshots/000002'));
        expect(Object.keys(found).sort()).toEqual(Object.keys(expected).sort());
        // Tensors that are left out are counted over all models of the plan.
        expect({ ...found, 'slots.parquet': '' }).toEqual({ ...expected, 'slots.parquet': '' });
      }
    },
    60_000,
  );
});

it('there are none of a second pass, which has nothing to tell before its end', async () => {
  const options = ['--engine', 'randomized', '--passes', '2', '--threads', '1', '--snapshot-every', '2'];
  const { out, snapshots } = await run('second', zoo, ...options);
  expect(snapshots.map(({ modelsSeen }) => modelsSeen)).toEqual([8, 14]);
  expect(readdirSync(join(out, 'snapshots')).sort()).toEqual(['000002', '000004']);
}, 60_000);
