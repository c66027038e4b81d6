import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Effect } from 'effect';
import { expect, it } from 'vitest';
import { checkFreeSpace } from '../../configs/check-free-space.ts';

const out = join(tmpdir(), 'not', 'there', 'yet');

it('passes what fits', async () => {
  await Effect.runPromise(checkFreeSpace(out, 1));
});

it('says how much is needed and how much there is', async () => {
  expect(await Effect.runPromise(Effect.flip(checkFreeSpace(out, 2 ** 60)))).toMatchObject({
    _tag: 'SinkFailed',
    path: out,
    reason: 'no-space',
    detail: expect.stringMatching(/^needs 1153 PB, and [\d.]+ [kMGTP]?B are free; --no-basis/),
  });
});

it('leaves a path that cannot be looked at to others', async () => {
  await Effect.runPromise(checkFreeSpace('a\0b', 2 ** 60));
});
