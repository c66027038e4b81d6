// Very many small models: a plan opens each for a moment, so that a few descriptors are enough. (Starting Node takes some 300:
// it opens modules that import each other at once.)
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { safetensorsBytes } from '../sources/write-safetensors.ts';
import { cli, temporaryFolder } from './cli-process.ts';

const tensor = (name: string, shape: readonly number[]) => ({
  name,
  dtype: 'F32',
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
});

it.skipIf(process.platform === 'win32')('2,000 models in 200 folders, with 400 descriptors', () => {
  const folder = temporaryFolder();
  const all = ['a', 'b', 'c', 'd'].map((name) => tensor(name, [4, 4]));
  // Every seventh layout: 4 to 10 tensors.
  const files = [0, 1, 2, 3, 4, 5, 6].map((more) =>
    safetensorsBytes([...all, ...Array.from({ length: more }, (_, i) => tensor(`bias.${i}`, [4]))]),
  );
  for (let i = 0; i < 200; i++) {
    const below = join(folder, `family-${String(i).padStart(3, '0')}`);
    mkdirSync(below);
    for (let j = 0; j < 10; j++) writeFileSync(join(below, `model-${j}.safetensors`), files[(10 * i + j) % 7]!);
  }
  const command = `ulimit -n 400; exec "${process.execPath}" "${cli}" plan "${folder}" --device tfjs --json`;
  const { status, stdout, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8', maxBuffer: 2 ** 24 });
  expect([status, stderr]).toEqual([0, '']);
  const plan = JSON.parse(stdout);
  expect(plan.models).toHaveLength(2000);
  expect(plan.models[0].name).toBe('family-000/model-0');
  expect(plan.models[1999].name).toBe('family-199/model-9');
  expect(new Set(plan.models.map(({ fingerprint }: { fingerprint: string }) => fingerprint)).size).toBe(7);
  expect(plan.slots.map(({ name }: { name: string }) => name)).toEqual(['a', 'b', 'c', 'd']);
});
