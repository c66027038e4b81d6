// Groups S and I of hostile input, as far as they need files.
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Effect } from 'effect';
import { describe, expect, test } from 'vitest';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import type { ModelHeader, ModelLocation } from '../../sources/model.ts';
import { fingerprint, readModelHeader } from '../../sources/read-model-header.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { writeSafetensors, writeSharded } from './write-safetensors.ts';

const f32 = (name: string, ...values: number[]) => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  data: Float32Array.from(values),
});
const file = (entry: string): ModelLocation => ({ name: 'm', source: 'm', path: entry, layout: 'file', entry });
const sharded = (path: string): ModelLocation => ({
  name: 'm',
  source: 'm',
  path,
  layout: 'sharded',
  entry: join(path, 'model.safetensors.index.json'),
});
const header = (location: ModelLocation): Promise<ModelHeader> => Effect.runPromise(readModelHeader(location));
const refusal = (location: ModelLocation): Promise<SourceMalformed | SourceUnavailable> =>
  Effect.runPromise(Effect.flip(readModelHeader(location)));
async function rule(location: ModelLocation): Promise<string> {
  const error = await refusal(location);
  expect(error).toBeInstanceOf(SourceMalformed);
  return (error as SourceMalformed).rule;
}

describe('one file', () => {
  test('its tensors, size and digest', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeSafetensors(path, [f32('a', 1, 2), f32('b', 3)]);
    const { files, headerDigests, tensors } = await header(file(path));
    expect(files).toEqual([{ path, size: readFileSync(path).length, mtimeMs: expect.any(Number) }]);
    expect(headerDigests[0]).toMatch(/^[0-9a-f]{64}$/);
    expect([...tensors.keys()]).toEqual(['a', 'b']);
  });

  test('S25 a tensor named __proto__ stays a tensor', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeSafetensors(path, [f32('__proto__', 1)]);
    expect([...(await header(file(path))).tensors.keys()]).toEqual(['__proto__']);
  });

  test('a missing file is unavailable, not malformed', async () => {
    const error = await refusal(file(join(temporaryFolder(), 'gone.safetensors')));
    expect(error).toBeInstanceOf(SourceUnavailable);
    expect(error.detail).toMatch(/found nothing here.*ENOENT/);
  });

  test('S1 an empty file', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeFileSync(path, '');
    expect(await rule(file(path))).toBe('too-small');
  });

  test('S33 a Git LFS pointer', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeFileSync(path, 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n');
    expect(await rule(file(path))).toBe('not-safetensors');
  });

  test('S34 a symbolic link to a device', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    symlinkSync('/dev/zero', path);
    const error = await refusal(file(path));
    expect(error.message).toMatch(/found a device, expected a regular file \[not-a-file\]/);
  });

  test('S34 a FIFO does not hang', { timeout: 5000 }, async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    execFileSync('mkfifo', [path]);
    expect((await refusal(file(path))).message).toMatch(/found a FIFO, expected a regular file \[not-a-file\]/);
  });

  test('S34 a folder', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    mkdirSync(path);
    expect((await refusal(file(path))).message).toMatch(/found a folder, expected a regular file/);
  });

  test('S34 a sparse file of 1 TB', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeFileSync(path, '');
    truncateSync(path, 1e12);
    expect(await rule(file(path))).toBe('header-length');
  });

  test('S34 a sparse file of 1 TB behind a good header', async () => {
    const path = join(temporaryFolder(), 'model.safetensors');
    writeSafetensors(path, [f32('a', 1)]);
    truncateSync(path, 1e12);
    expect(await rule(file(path))).toBe('trailing-bytes');
  });

  test('a link to a good file is read', async () => {
    const folder = temporaryFolder();
    writeSafetensors(join(folder, 'blob'), [f32('a', 1)]);
    symlinkSync('blob', join(folder, 'model.safetensors'));
    expect((await header(file(join(folder, 'model.safetensors')))).tensors.size).toBe(1);
  });
});

/** A checkpoint of two shards with tensors a, b and c, and its index rewritten. */
function checkpoint(
  edit: (index: { weight_map: Record<string, unknown>; metadata?: unknown }) => unknown = (i) => i,
): string {
  const folder = join(temporaryFolder(), 'model');
  writeSharded(folder, [[f32('a', 1), f32('b', 2, 3)], [f32('c', 4)]]);
  const path = join(folder, 'model.safetensors.index.json');
  const edited = edit(JSON.parse(readFileSync(path, 'utf8')));
  writeFileSync(path, typeof edited === 'string' ? edited : JSON.stringify(edited));
  return folder;
}
const first = 'model-00001-of-00002.safetensors';
const second = 'model-00002-of-00002.safetensors';

describe('shards', () => {
  test('tensors of all shards, in storage order', async () => {
    const { files, headerDigests, tensors } = await header(sharded(checkpoint()));
    expect(files.map(({ path }) => path.split('/').at(-1))).toEqual([first, second]);
    expect(headerDigests).toHaveLength(2);
    expect([...tensors.values()].map(({ name, file }) => [name, file])).toEqual([
      ['a', 0],
      ['b', 0],
      ['c', 1],
    ]);
  });

  test.each([
    ['../x.safetensors'],
    ['/etc/x.safetensors'],
    ['sub/x.safetensors'],
    ['C:\\x.safetensors'],
    ['C:x.safetensors'],
    ['\\\\host\\x.safetensors'],
    ['file://x.safetensors'],
    ['x\0.safetensors'],
    ['%2e%2e.safetensors'],
    ['..'],
    ['.hidden.safetensors'],
    [''],
    ['weights.h5'],
    [`${'x'.repeat(300)}.safetensors`],
  ])('I1 shard name %j', async (name) => {
    const folder = checkpoint((index) => ({ weight_map: { ...index.weight_map, c: name } }));
    expect(await rule(sharded(folder))).toBe('shard-name');
  });

  test('I1 a link that leaves the folder', async () => {
    const folder = checkpoint();
    renameSync(join(folder, second), join(folder, '../elsewhere.safetensors'));
    symlinkSync('../elsewhere.safetensors', join(folder, second));
    expect(await rule(sharded(folder))).toBe('shard-escapes');
  });

  test('I2 a shard is missing', async () => {
    const folder = checkpoint();
    renameSync(join(folder, second), join(folder, '../elsewhere'));
    expect(await rule(sharded(folder))).toBe('shard-missing');
  });

  test('I3 a shard is not listed', async () => {
    const folder = checkpoint();
    writeSafetensors(join(folder, 'model-00003-of-00003.safetensors'), [f32('d', 1)]);
    expect((await refusal(sharded(folder))).message).toMatch(
      /found model-00003-of-00003.safetensors.*\[shard-unlisted\]/,
    );
  });

  test('I3 files that are no shards of this checkpoint do not matter', async () => {
    const folder = checkpoint();
    writeSafetensors(join(folder, 'model.safetensors'), [f32('twin', 1)]);
    writeSafetensors(join(folder, 'vae-00001-of-00002.safetensors'), [f32('d', 1)]);
    expect((await header(sharded(folder))).tensors.size).toBe(3);
  });

  test('I4 a tensor is mapped to a shard that lacks it', async () => {
    const folder = checkpoint((index) => ({ weight_map: { ...index.weight_map, b: second } }));
    expect((await refusal(sharded(folder))).message).toMatch(
      /tensor b: found in .*00001.*expected in .*00002.*\[tensor-missing\]/,
    );
  });

  test('I4 a tensor is mapped and stands nowhere', async () => {
    const folder = checkpoint((index) => ({ weight_map: { ...index.weight_map, d: second } }));
    expect((await refusal(sharded(folder))).message).toMatch(/tensor d: found in no shard.*\[tensor-missing\]/);
  });

  test('I4 a tensor stands in two shards', async () => {
    const folder = checkpoint();
    writeSafetensors(join(folder, second), [f32('c', 4), f32('a', 1)]);
    expect(await rule(sharded(folder))).toBe('tensor-twice');
  });

  test('I4 a tensor stands in a shard but not in the index', async () => {
    const folder = checkpoint();
    writeSafetensors(join(folder, second), [f32('c', 4), f32('d', 1)]);
    expect(await rule(sharded(folder))).toBe('tensor-unmapped');
  });

  test('a broken shard is named', async () => {
    const folder = checkpoint();
    truncateSync(join(folder, second), 100);
    const error = await refusal(sharded(folder));
    expect(error.path).toBe(join(folder, second));
  });

  test('S34 a shard that is a FIFO does not hang', { timeout: 5000 }, async () => {
    const folder = checkpoint();
    renameSync(join(folder, second), join(folder, 'other'));
    execFileSync('mkfifo', [join(folder, second)]);
    expect(await rule(sharded(folder))).toBe('not-a-file');
  });

  test('I6 10,000 shards', async () => {
    const map = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`t${i}`, `m-${i}-of-10000.safetensors`]));
    expect(await rule(sharded(checkpoint(() => ({ weight_map: map }))))).toBe('shard-count');
  });

  test('I7 an index of 250 MB is not read', async () => {
    const folder = checkpoint();
    truncateSync(join(folder, 'model.safetensors.index.json'), 250_000_000);
    expect(await rule(sharded(folder))).toBe('index-size');
  });

  test('I7 deep nesting', async () => {
    const deep = '['.repeat(1e6) + ']'.repeat(1e6);
    expect(await rule(sharded(checkpoint(() => `{"metadata":{"x":${deep}}}`)))).toBe('json-depth');
    expect(await rule(sharded(checkpoint(() => `{"x":${'{"a":'.repeat(1e6)}`)))).toBe('json-depth');
  });

  test.each([0, 1e300, -5, 12.5])('I8 total_size %s lies, and is ignored', async (total_size) => {
    const folder = checkpoint((index) => ({ ...index, metadata: { total_size } }));
    expect((await header(sharded(folder))).tensors.size).toBe(3);
  });

  test('I9 one shard under two names, by a link', async () => {
    const folder = checkpoint();
    renameSync(join(folder, second), join(folder, '../old'));
    symlinkSync(first, join(folder, second));
    expect(await rule(sharded(folder))).toBe('shard-twice');
  });

  test('I9 one shard under two names, by a hard link or a copy', async () => {
    for (const make of [linkSync, copyFileSync]) {
      const folder = checkpoint();
      renameSync(join(folder, second), join(folder, '../old'));
      make(join(folder, first), join(folder, second));
      expect(await rule(sharded(folder))).toBe('tensor-twice');
    }
  });

  test('I10 .bin among the shards', async () => {
    const folder = checkpoint((index) => ({
      weight_map: { ...index.weight_map, c: 'pytorch_model-00002-of-00002.bin' },
    }));
    expect((await refusal(sharded(folder))).message).toMatch(
      /found shard pytorch_model.*safetensors\.torch\.save_file.*\[pickle\]/,
    );
  });
});

describe('fingerprint', () => {
  const print = async (path: string, used: string[]): Promise<string> => (await both(path, used)).digest;
  const both = async (path: string, used: string[]) => Effect.runPromise(fingerprint(await header(file(path)), used));

  test('tells apart two models of one shape, and only by the tensors used', async () => {
    const folder = temporaryFolder();
    const paths = ['x', 'y', 'z'].map((name) => join(folder, `${name}.safetensors`));
    writeSafetensors(paths[0]!, [f32('a', 1, 2), f32('b', 3)]);
    writeSafetensors(paths[1]!, [f32('a', 1, 2), f32('b', 4)]);
    writeSafetensors(paths[2]!, [f32('a', 1, 2), f32('b', 3)]);
    const [x, y, z] = await Promise.all(paths.map((path) => print(path, ['a', 'b'])));
    expect(x).toMatch(/^[0-9a-f]{64}$/);
    expect(x).not.toBe(y);
    expect(x).toBe(z);
    expect(await print(paths[0]!, ['a'])).toBe(await print(paths[1]!, ['a']));
    expect(await print(paths[0]!, ['b', 'a'])).toBe(x);
  });

  test('the pages alone: the same however a model is stored, by dtype and by the tensors used', async () => {
    const folder = temporaryFolder();
    const paths = ['x', 'y', 'z', 'w'].map((name) => join(folder, `${name}.safetensors`));
    writeSafetensors(paths[0]!, [f32('a', 1, 2), f32('b', 3)]);
    writeSafetensors(paths[1]!, [f32('c', 9), f32('b', 3), f32('a', 1, 2)], { metadata: { format: 'pt' } });
    writeSafetensors(paths[2]!, [f32('p.a', 1, 2), f32('p.b', 3)]);
    writeSafetensors(paths[3]!, [f32('a', 1, 2), f32('b', 4)]);
    const [x, y] = await Promise.all(paths.slice(0, 2).map((path) => both(path, ['a', 'b'])));
    expect(y!.pages).toBe(x!.pages);
    expect(y!.digest).not.toBe(x!.digest);
    expect((await both(paths[2]!, ['p.a', 'p.b'])).pages).toBe(x!.pages);
    expect((await both(paths[3]!, ['a', 'b'])).pages).not.toBe(x!.pages);
    expect((await both(paths[3]!, ['a'])).pages).toBe((await both(paths[0]!, ['a'])).pages);
  });

  test('looks at the middle of a large tensor', async () => {
    const path = join(temporaryFolder(), 'm.safetensors');
    const values = new Float32Array(100_000);
    const write = (): void =>
      writeSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [values.length], data: values }]);
    write();
    const before = await print(path, ['a']);
    values[50_000] = 1;
    write();
    expect(await print(path, ['a'])).not.toBe(before);
  });

  test('a file cut off since its header was read is an error', async () => {
    const path = join(temporaryFolder(), 'm.safetensors');
    writeSafetensors(path, [f32('a', ...new Array(3000).fill(1))]);
    const known = await header(file(path));
    truncateSync(path, 200);
    const error = await Effect.runPromise(Effect.flip(fingerprint(known, ['a'])));
    expect(error.message).toMatch(/short-read/);
  });
});
