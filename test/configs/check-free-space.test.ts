import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Effect } from 'effect';
import { expect, it } from 'vitest';
import { checkFreeSpace } from '../../configs/check-free-space.ts';

const out = join(tmpdir(), 'not', 'there', 'yet');
const need = (folder: string, bytes: number) => ({ folder, bytes, advice: '--no-basis writes the least' });

it('passes what fits', async () => {
  await Effect.runPromise(checkFreeSpace([need(out, 1)]));
});

it('says how much is needed and how much there is', async () => {
  expect(await Effect.runPromise(Effect.flip(checkFreeSpace([need(out, 2 ** 60)])))).toMatchObject({
    _tag: 'SinkFailed',
    path: out,
    reason: 'no-space',
    detail: expect.stringMatching(/^needs 1153 PB, and [\d.]+ [kMGTP]?B are free; --no-basis/),
  });
});

it('leaves a path that cannot be looked at to others', async () => {
  await Effect.runPromise(checkFreeSpace([need('a\0b', 2 ** 60)]));
});

it('adds up what goes to one file system', async () => {
  const { bavail, bsize } = statfsSync(tmpdir());
  const most = Math.floor(bavail * bsize * 0.6);
  await Effect.runPromise(checkFreeSpace([need(out, most)]));
  const other = { folder: tmpdir(), bytes: most, advice: 'give more --memory' };
  expect(await Effect.runPromise(Effect.flip(checkFreeSpace([need(out, most), other])))).toMatchObject({
    path: tmpdir(),
    detail: expect.stringMatching(/are free; give more --memory$/),
  });
});
