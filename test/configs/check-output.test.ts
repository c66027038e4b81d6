import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Effect } from 'effect';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkOutput } from '../../configs/check-output.ts';

let root: string;
const at = (...parts: string[]) => join(root, ...parts);
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'weightspan-output-'));
  mkdirSync(at('models/a'), { recursive: true });
  writeFileSync(at('models/a/model.safetensors'), 'x');
  mkdirSync(at('empty'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const check = (out: string, sources = [at('models/a')]) => Effect.runPromise(checkOutput(out, sources));
const refusal = (out: string, sources = [at('models/a')]) => Effect.runPromise(Effect.flip(checkOutput(out, sources)));

describe('accepted', () => {
  it.each([
    ['a new folder', 'runs/deep/new'],
    ['an empty folder', 'empty'],
    ['a neighbour', 'models/run'],
    ['a name that starts like the source', 'models/a-run'],
    ['a name that starts with two dots', '..run'],
  ])('%s', async (_, out) => {
    await check(at(out));
  });

  it('sources that do not exist are not its matter', async () => {
    await check(at('new'), ['@list.txt', '-', at('models/*/x'), at('missing'), 'a\0b']);
  });

  it('a link to an empty folder', async () => {
    symlinkSync(at('empty'), at('link'));
    await check(at('link'));
  });
});

describe('overlap with a source', () => {
  it.each([
    ['is it', 'models/a', 'is'],
    ['is it, by a detour', 'models/../models/a/', 'is'],
    ['is inside, new', 'models/a/run/1', 'lies inside'],
    ['is above', 'models', 'lies above'],
    ['is far above', '.', 'lies above'],
  ])('%s', async (_, out, how) => {
    const error = await refusal(join(root, out));
    expect(error._tag).toBe('ConfigInvalid');
    expect(error.message).toMatch(
      new RegExp(`^out: expected a folder apart from the sources, but .* ${how} .*models/a$`),
    );
  });

  it('a file is a source too', async () => {
    const file = at('models/a/model.safetensors');
    expect((await refusal(file, [file])).message).toContain(' is ');
    expect((await refusal(at('models/a'), [file])).message).toContain('lies above');
  });

  it('is seen through links on either side', async () => {
    symlinkSync(at('models/a'), at('alias'));
    expect((await refusal(at('alias/run')))._tag).toBe('ConfigInvalid');
    expect((await refusal(at('models/a/run'), [at('alias')]))._tag).toBe('ConfigInvalid');
  });

  it('names every source, each once', async () => {
    mkdirSync(at('models/b'));
    const error = await refusal(at('models'), [at('models/a'), at('models/b'), at('models/a')]);
    expect(error).toMatchObject({ issues: [expect.stringMatching(/a$/), expect.stringMatching(/b$/)] });
  });

  it('comes before what is in the folder', async () => {
    expect((await refusal(at('models')))._tag).toBe('ConfigInvalid');
  });
});

describe('occupied', () => {
  it('by files, which are named', async () => {
    for (const name of ['d', 'b', 'a\u001b[2J', 'c', 'e']) writeFileSync(at('empty', name), '');
    expect(await refusal(at('empty'))).toMatchObject({
      _tag: 'SinkFailed',
      reason: 'occupied',
      detail: 'expected a new or empty folder, found a\\x1b[2J, b, c and 2 more',
    });
  });

  it.each([
    ['by a file', 'models/a/model.safetensors', 'found something that is no folder'],
    ['by a file in its path', 'models/a/model.safetensors/run', 'a part of its path is a file'],
  ])('%s', async (_, out, detail) => {
    expect(await refusal(at(out), [])).toMatchObject({
      _tag: 'SinkFailed',
      reason: 'occupied',
      detail: expect.stringContaining(detail),
    });
  });

  it('by a link to nowhere', async () => {
    symlinkSync(at('nowhere'), at('dangling'));
    expect(await refusal(at('dangling'))).toMatchObject({
      reason: 'occupied',
      detail: expect.stringContaining('link'),
    });
  });

  it('a loop of links is an I/O error', async () => {
    symlinkSync(at('loop'), at('loop'));
    expect(await refusal(at('loop', 'run'))).toMatchObject({ _tag: 'SinkFailed', reason: 'io' });
  });
});
