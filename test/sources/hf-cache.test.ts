// Models in a Hugging Face cache: which snapshot, what it is called, and where its links may lead. The caches are laid out as the
// Hub's tools do: blobs by their hash, snapshots of links to them, refs of commits.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { Effect } from 'effect';
import { describe, expect, test } from 'vitest';
import { ConfigInvalid } from '../../configs/errors.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import { type HubName, hubCache, parseHubFolder, parseHubName } from '../../sources/hub-name.ts';
import { readModelHeader } from '../../sources/read-model-header.ts';
import { type ResolvedSources, type ResolveOptions, resolveSources } from '../../sources/resolve-sources.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { writeSafetensors, writeSharded } from './write-safetensors.ts';

const commitA = `aaaa${'0'.repeat(36)}`;
const commitB = `aabb${'1'.repeat(36)}`;
const weight = (value: number, name = 'w') => [{ name, dtype: 'F32', shape: [1], data: Float32Array.of(value) }];

/** Writes a file as a download does: the bytes into `blobs`, a relative link into the snapshot. */
function cacheFile(repository: string, commit: string, name: string, write: (path: string) => void): string {
  const blobs = join(repository, 'blobs');
  const link = join(repository, 'snapshots', commit, name);
  mkdirSync(blobs, { recursive: true });
  mkdirSync(dirname(link), { recursive: true });
  write(join(blobs, 'new'));
  const hash = createHash('sha256')
    .update(readFileSync(join(blobs, 'new')))
    .digest('hex');
  renameSync(join(blobs, 'new'), join(blobs, hash));
  symlinkSync(join(relative(dirname(link), blobs), hash), link);
  return link;
}

const cacheModel = (repository: string, commit: string, value = 1, name = 'model.safetensors'): string =>
  cacheFile(repository, commit, name, (path) => writeSafetensors(path, weight(value)));

function writeRef(repository: string, name: string, content: string | Uint8Array): void {
  const path = join(repository, 'refs', name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

/** Two shards and their index, all as links. */
function cacheShards(repository: string, commit: string, value = 1): readonly string[] {
  const whole = temporaryFolder();
  writeSharded(whole, [weight(value, 'a'), weight(value + 1, 'b')]);
  return readdirSync(whole)
    .sort()
    .map((name) => cacheFile(repository, commit, name, (path) => writeFileSync(path, readFileSync(join(whole, name)))));
}

/** An empty working folder and a cache; its path ends in `hub`. */
function setUp(): { cwd: string; hub: string; repository: string; options: ResolveOptions } {
  const cwd = temporaryFolder();
  const hub = join(temporaryFolder(), 'hub');
  return { cwd, hub, repository: join(hub, 'models--org--name'), options: { cwd, env: { HF_HUB_CACHE: hub } } };
}

const run = (options: ResolveOptions, ...args: string[]): Promise<ResolvedSources> =>
  Effect.runPromise(resolveSources(args, options));
const failure = (options: ResolveOptions, ...args: string[]) =>
  Effect.runPromise(Effect.flip(resolveSources(args, options)));
const names = async (options: ResolveOptions, ...args: string[]): Promise<string[]> =>
  (await run(options, ...args)).models.map(({ name }) => name);
/** The one refusal, when there is nothing else. */
async function refusal(options: ResolveOptions, ...args: string[]): Promise<{ name: string; error: SourceMalformed }> {
  const { models, skipped } = await run(options, ...args);
  expect(models).toEqual([]);
  expect(skipped.length).toBe(1);
  expect(skipped[0]!.error).toBeInstanceOf(SourceMalformed);
  return skipped[0] as { name: string; error: SourceMalformed };
}

describe('org/name', () => {
  test('is the cached model', async () => {
    const { repository, options } = setUp();
    const entry = cacheModel(repository, commitA);
    writeRef(repository, 'main', commitA);
    const path = dirname(entry);
    expect((await run(options, 'org/name')).models).toEqual([
      { name: 'org/name', source: 'org/name', path, layout: 'file', entry, repository },
    ]);
  });

  test('is a path where there is one', async () => {
    const { cwd, repository, options } = setUp();
    cacheModel(repository, commitA);
    writeSafetensors(join(cwd, 'org/name/model.safetensors'), weight(1));
    const { models } = await run(options, 'org/name');
    expect(models.map(({ name, path }) => [name, path])).toEqual([['name', join(cwd, 'org/name')]]);
  });

  test('stands in lists too', async () => {
    const { cwd, repository, options } = setUp();
    cacheModel(repository, commitA);
    writeFileSync(join(cwd, 'list.txt'), '# cached\norg/name\n');
    expect(await names(options, '@list.txt')).toEqual(['org/name']);
    expect(await names({ ...options, stdin: async () => 'org/name\n' }, '-')).toEqual(['org/name']);
  });

  test('that is not cached: what was looked for, where, and how to get it', async () => {
    const { hub, repository, options } = setUp();
    const expected = (download: string): string =>
      `found no such file or folder, and no models--org--name in the Hugging Face cache ${hub}; ` +
      `nothing is fetched here: if it is a model, get it with ${download}`;
    const error = await failure(options, 'org/name');
    expect(error).toBeInstanceOf(SourceUnavailable);
    expect(error.message).toBe(`org/name: ${expected('hf download org/name')}`);
    expect((await failure(options, 'org/name@v1')).message).toContain(expected('hf download org/name --revision v1'));
    mkdirSync(join(repository, 'snapshots'), { recursive: true });
    expect((await failure(options, 'org/name')).message).toContain(expected('hf download org/name'));
  });

  test('without weights', async () => {
    const { repository, options } = setUp();
    cacheFile(repository, commitA, 'tokenizer.json', (path) => writeFileSync(path, '{}'));
    const error = await failure(options, 'org/name');
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect(error.message).toMatch(/org\/name: found no models/);
  });

  test('with only a pickle, which is never opened', async () => {
    const { repository, options } = setUp();
    // A FIFO would hang whoever opens it.
    const link = cacheFile(repository, commitA, 'pytorch_model.bin', (path) => writeFileSync(path, 'x'));
    rmSync(link);
    execFileSync('mkfifo', [join(repository, 'blobs/fifo')]);
    symlinkSync('../../blobs/fifo', link);
    expect((await refusal(options, 'org/name')).error.rule).toBe('pickle');
    cacheModel(repository, commitA);
    expect(await names(options, 'org/name')).toEqual(['org/name']);
  });

  test('without links, as where the system has none', async () => {
    const { repository, options } = setUp();
    writeSharded(join(repository, 'snapshots', commitA), [weight(1, 'a'), weight(2, 'b')]);
    const { models } = await run(options, 'org/name');
    expect((await Effect.runPromise(readModelHeader(models[0]!))).tensors.size).toBe(2);
  });

  test('of several parts: each is a model', async () => {
    const { repository, options } = setUp();
    cacheModel(repository, commitA, 1, 'unet/model.safetensors');
    cacheModel(repository, commitA, 2, 'vae/model.safetensors');
    expect(await names(options, 'org/name')).toEqual(['org/name/unet', 'org/name/vae']);
    expect(await names(options, 'org/name@aaaa')).toEqual(['org/name@aaaa000/unet', 'org/name@aaaa000/vae']);
  });

  test.each<[string, HubName | undefined]>([
    ['org/name', { id: 'org/name', revision: undefined }],
    ['Org-1/na_me.v2', { id: 'Org-1/na_me.v2', revision: undefined }],
    ['org/name@v1.0', { id: 'org/name', revision: 'v1.0' }],
    ['org/name@refs/pr/1', { id: 'org/name', revision: 'refs/pr/1' }],
    ...[
      'name',
      'a/b/c',
      '/name',
      'org/',
      './name',
      '../name',
      'org/..',
      'org/na--me',
      'org/na..me',
      '-org/name',
      'org/name.',
      'org/name.git',
      'é/name',
      'a b/name',
      'org/name\n',
      'org/na\0me',
      `org/${'x'.repeat(97)}`,
      'org/model.safetensors',
      'org/name@',
      'org/name@../../x',
      'org/name@/etc/passwd',
      'org/name@a//b',
      'org/name@.git',
      'org/name@a..b',
      'org/name@a\0',
      'org/name@a\n',
      'org/name@a\\b',
      `org/name@${'x'.repeat(201)}`,
    ].map((text): [string, undefined] => [text, undefined]),
  ])('the name %j', (text, expected) => expect(parseHubName(text)).toEqual(expected));
});

describe('the cache', () => {
  const home = '/home/me';
  test.each([
    [{ HF_HUB_CACHE: '/c', HF_HOME: '/h', XDG_CACHE_HOME: '/x' }, '/c'],
    [{ HF_HOME: '/h', XDG_CACHE_HOME: '/x' }, '/h/hub'],
    [{ XDG_CACHE_HOME: '/x' }, '/x/huggingface/hub'],
    [{}, '/home/me/.cache/huggingface/hub'],
    [{ HF_HUB_CACHE: '', HF_HOME: '', XDG_CACHE_HOME: '' }, '/home/me/.cache/huggingface/hub'],
    [{ HF_HUB_CACHE: '~/c' }, '/home/me/c'],
    [{ HF_HOME: '~/h' }, '/home/me/h/hub'],
    [{ HF_HUB_CACHE: '/a~b' }, '/a~b'],
  ])('is chosen by %j', (env, expected) => expect(hubCache({ HOME: home, ...env })).toBe(expected));

  test('stands in the home folder of the account where HOME is not set', () =>
    expect(hubCache({})).toBe(join(homedir(), '.cache/huggingface/hub')));

  test.each([
    ['models--org--name', { isModel: true, id: 'org/name' }],
    ['models--gpt2', { isModel: true, id: 'gpt2' }],
    ['a/models--org--name/', { isModel: true, id: 'org/name' }],
    ['datasets--org--name', { isModel: false, id: 'org/name' }],
    ['spaces--org--name', { isModel: false, id: 'org/name' }],
    ['models--a--b--c', undefined],
    ['models--..--name', undefined],
    ['models--', undefined],
    ['models', undefined],
    ['other--org--name', undefined],
  ])('the folder %s', (folder, expected) => expect(parseHubFolder(folder)).toEqual(expected));

  /** Two models, one from before organisations, and what else a cache holds. */
  function zoo() {
    const { hub, repository, options, cwd } = setUp();
    cacheModel(repository, commitA);
    cacheModel(join(hub, 'models--gpt2'), commitB, 2);
    cacheModel(join(hub, 'datasets--org--data'), commitA, 3);
    cacheModel(join(hub, 'spaces--org--app'), commitA, 4);
    mkdirSync(join(hub, '.locks/models--org--name'), { recursive: true });
    mkdirSync(join(hub, 'models--org--only-asked-for/.no_exist', commitA), { recursive: true });
    writeFileSync(join(hub, 'CACHEDIR.TAG'), 'tag');
    return { hub, repository, options, cwd };
  }

  test('as a path is every model in it, in name order', async () => {
    const { hub, options } = zoo();
    expect(await names(options, hub)).toEqual(['gpt2', 'org/name']);
    expect((await run(options, hub)).skipped).toEqual([]);
  });

  test('stands below other folders', async () => {
    const { hub, options } = zoo();
    expect(await names(options, dirname(hub))).toEqual(['gpt2', 'org/name']);
  });

  test.each(['*', 'h*', 'hub/*', 'hub/models--*', 'hub/**', '**'])('by the glob %s', async (glob) => {
    const { hub, options } = zoo();
    expect(await names(options, join(dirname(hub), glob))).toEqual(['gpt2', 'org/name']);
  });

  test('one repository as a path, below a working folder of any name, is one model', async () => {
    const { repository, hub, options } = zoo();
    expect(await names(options, repository)).toEqual(['org/name']);
    expect(await names(options, `${repository}/`)).toEqual(['org/name']);
    expect(await names({ ...options, cwd: hub }, 'models--org--name')).toEqual(['org/name']);
    expect(await names({ ...options, cwd: repository }, '.')).toEqual(['org/name']);
  });

  test('a data set or a space as a path is no model', async () => {
    const { hub, options } = zoo();
    for (const name of ['datasets--org--data', 'spaces--org--app'])
      expect((await failure(options, join(hub, name))).message).toMatch(/found no models/);
  });

  test('the same model by its name and by its path is one', async () => {
    const { hub, repository, options } = zoo();
    expect(await names(options, 'org/name', repository, hub)).toEqual(['org/name', 'gpt2']);
  });

  test('names do not depend on where it lies, unless two caches hold the same', async () => {
    const [one, two] = [zoo(), zoo()];
    expect(await names(one.options, 'org/name')).toEqual(await names(two.options, 'org/name'));
    expect(await names(one.options, one.repository, two.repository)).toEqual([one.repository, two.repository]);
  });

  test('a folder that is only called like a repository is as it was', async () => {
    const { cwd, options } = setUp();
    writeSafetensors(join(cwd, 'models--org--name/model.safetensors'), weight(1));
    expect(await names(options, 'models--org--name')).toEqual(['models--org--name']);
  });

  test('a refused repository leaves the others', async () => {
    const { hub, repository, options } = zoo();
    cacheModel(repository, commitB, 5);
    const { models, skipped } = await run(options, hub);
    expect(models.map(({ name }) => name)).toEqual(['gpt2']);
    expect(skipped.map(({ name, error }) => [name, (error as SourceMalformed).rule])).toEqual([
      ['org/name', 'snapshot-ambiguous'],
    ]);
  });
});

describe('which snapshot', () => {
  function two() {
    const made = setUp();
    const [a, b] = [cacheModel(made.repository, commitA, 1), cacheModel(made.repository, commitB, 2)];
    const chosen = async (argument: string) => {
      const { models } = await run(made.options, argument);
      return models.map(({ name, entry }) => [name, entry]);
    };
    return { ...made, a, b, chosen };
  }

  test.each([commitA, commitB])('the one that refs/main names: %s', async (commit) => {
    const { repository, a, b, chosen } = two();
    writeRef(repository, 'main', commit);
    expect(await chosen('org/name')).toEqual([['org/name', commit === commitA ? a : b]]);
    expect(await chosen(repository)).toEqual([['org/name', commit === commitA ? a : b]]);
  });

  test('a line break after the commit is no matter', async () => {
    const { repository, b, chosen } = two();
    writeRef(repository, 'main', `${commitB}\n`);
    expect(await chosen('org/name')).toEqual([['org/name', b]]);
  });

  test('without refs/main, or where it names one that is not there, the choice is open', async () => {
    const { repository, options } = two();
    const { name, error } = await refusal(options, 'org/name');
    expect(name).toBe('org/name');
    expect(error.message).toBe(
      `${repository}: found no refs/main, and the snapshots aaaa000, aabb111, expected one; ` +
        'choose with org/name@COMMIT [snapshot-ambiguous]',
    );
    writeRef(repository, 'main', 'c'.repeat(40));
    expect((await refusal(options, 'org/name')).error.message).toMatch(
      /found refs\/main to name ccccccc, which is not cached, and the snapshots aaaa000, aabb111, .*\[snapshot-ambiguous\]/,
    );
  });

  test.each([undefined, 'c'.repeat(40)])('the only one, where refs/main is %s', async (ref) => {
    const { repository, options } = setUp();
    cacheModel(repository, commitA);
    if (ref !== undefined) writeRef(repository, 'main', ref);
    expect(await names(options, 'org/name')).toEqual(['org/name']);
  });

  test('what is not a commit among the snapshots does not count', async () => {
    const { repository, options } = setUp();
    cacheModel(repository, commitA);
    cacheModel(repository, 'draft', 2);
    writeFileSync(join(repository, 'snapshots', commitB), 'a file');
    expect(await names(options, 'org/name')).toEqual(['org/name']);
  });

  test.each([
    ['a branch', 'dev', 'b'],
    ['a tag that looks like the start of a commit', 'aaaa', 'b'],
    ['a pull request', 'refs/pr/7', 'b'],
    ['a commit', commitA, 'a'],
    ['the start of a commit', 'aabb', 'b'],
  ] as const)('%s', async (_, revision, which) => {
    const { repository, chosen, ...made } = two();
    for (const name of ['dev', 'aaaa', 'refs/pr/7']) writeRef(repository, name, commitB);
    // A full commit is always itself.
    writeRef(repository, commitA, commitB);
    expect(await chosen(`org/name@${revision}`)).toEqual([
      [which === 'a' ? 'org/name@aaaa000' : 'org/name@aabb111', made[which]],
    ]);
  });

  test('the start of two commits', async () => {
    const { repository, options } = setUp();
    for (const end of ['0', '1']) cacheModel(repository, 'abcd'.padEnd(40, end), Number(end));
    const { name, error } = await refusal(options, 'org/name@abcd');
    expect(name).toBe('org/name@abcd');
    expect(error.message).toMatch(/found abcd to start the snapshots abcd000, abcd111, expected one.*\[snapshot-ambig/);
  });

  test.each(['gone', 'aab', 'AABB', 'c'.repeat(40)])('%s, which is not cached', async (revision) => {
    const { options } = two();
    const error = await failure(options, `org/name@${revision}`);
    expect(error).toBeInstanceOf(SourceUnavailable);
    expect(error.message).toMatch(
      /found no revision .*\(there are aaaa000, aabb111\).*: hf download org\/name --revision /,
    );
  });

  test('a branch that names a snapshot which is not there', async () => {
    const { repository, options } = two();
    writeRef(repository, 'dev', 'c'.repeat(40));
    expect((await failure(options, 'org/name@dev')).message).toMatch(/found no revision dev/);
  });

  test('two revisions are two models, and one under two names is one', async () => {
    const { repository, options } = two();
    writeRef(repository, 'main', commitA);
    writeRef(repository, 'v1', commitA);
    expect(await names(options, 'org/name', 'org/name@aabb', 'org/name@v1', 'org/name@main')).toEqual([
      'org/name',
      'org/name@aabb111',
    ]);
  });
});

describe('hostile refs', () => {
  const outside = `../../../outside/${'0'.repeat(23)}`;
  test.each<[string, string | Uint8Array]>([
    ['empty', ''],
    ['of blanks', ' '.repeat(40)],
    ['too short', commitA.slice(1)],
    ['too long', `${commitA}0`],
    ['a way up', '../../../outside'],
    ['a way up, as long as a commit', outside],
    ['an absolute path', '/etc'],
    ['a commit and a way up', `${commitA}/../${commitB}`],
    ['two lines', `${commitA}\n${commitB}`],
    ['two line breaks', `${commitA}\n\n`],
    ['a line break in front', `\n${commitA}`],
    ['a NUL', `${commitA}\0`],
    ['upper case', commitA.toUpperCase()],
    ['not UTF-8', Uint8Array.of(0xff, 0xfe)],
    ['huge', commitA.repeat(100_000)],
  ])('%s', async (_, content) => {
    const { repository, options } = setUp();
    cacheModel(repository, commitA, 1);
    cacheModel(repository, commitB, 2);
    for (const name of ['main', 'v1']) writeRef(repository, name, content);
    for (const argument of ['org/name', 'org/name@v1']) {
      const { error } = await refusal(options, argument);
      expect(error.rule).toBe('ref');
      expect(error.message).toMatch(/refs\/(?:main|v1): found .*, expected a commit of 40 hexadecimal digits \[ref\]$/);
      expect(error.message.length).toBeLessThan(600);
    }
  });

  test.each([
    ['a FIFO', (path: string) => execFileSync('mkfifo', [path]), 'not-a-file'],
    ['a link to a device', (path: string) => symlinkSync('/dev/zero', path), 'link-escapes'],
    ['a link out of the repository', (path: string) => symlinkSync('../../commit', path), 'link-escapes'],
    ['a link to nothing', (path: string) => symlinkSync('gone', path), 'link-dangling'],
  ] as const)('%s', { timeout: 5000 }, async (_, make, rule) => {
    const { repository, hub, options } = setUp();
    cacheModel(repository, commitA, 1);
    cacheModel(repository, commitB, 2);
    writeFileSync(join(hub, 'commit'), commitA);
    mkdirSync(join(repository, 'refs'));
    make(join(repository, 'refs/main'));
    expect((await refusal(options, 'org/name')).error.rule).toBe(rule);
  });
});

test('what is refused is recorded for each revision', async () => {
  const { repository, options } = setUp();
  cacheModel(repository, commitA);
  for (const name of ['v1', 'v2']) writeRef(repository, name, '..');
  const { skipped } = await run(options, 'org/name@v1', 'org/name@v2', 'org/name@v1');
  expect(skipped.map(({ name }) => name)).toEqual(['org/name@v1', 'org/name@v2']);
});

describe('links', () => {
  /** A cached model, its link, and a good file outside of the repository. */
  function linked() {
    const made = setUp();
    const link = cacheModel(made.repository, commitA);
    const outside = join(made.hub, 'outside');
    writeSafetensors(join(outside, 'model.safetensors'), weight(9));
    const relink = (target: string): void => {
      rmSync(link);
      symlinkSync(target, link);
    };
    return { ...made, link, outside, relink };
  }

  test.each([
    ['relative', '../../../outside/model.safetensors'],
    ['to a repository whose name starts the same', '../../../models--org--name-2/blobs/x'],
    ['through another link', '../../blobs/away'],
  ])('out of the repository, %s', async (_, target) => {
    const { repository, hub, options, outside, link, relink } = linked();
    writeSafetensors(join(hub, 'models--org--name-2/blobs/x'), weight(8));
    symlinkSync(join(outside, 'model.safetensors'), join(repository, 'blobs/away'));
    relink(target);
    const { name, error } = await refusal(options, 'org/name');
    expect(name).toBe('org/name');
    expect(error.message).toBe(
      `${link}: found a link out of the repository's folder, expected one that stays in models--org--name [link-escapes]`,
    );
  });

  test('out of the repository, absolute', async () => {
    const { options, outside, relink, repository } = linked();
    relink(join(outside, 'model.safetensors'));
    expect((await refusal(options, repository)).error.rule).toBe('link-escapes');
  });

  test('to blobs that repositories share, with the way out', async () => {
    const { options, hub, relink } = linked();
    writeSafetensors(join(hub, 'blobs/ab/abcd'), weight(7));
    relink('../../../blobs/ab/abcd');
    expect((await refusal(options, 'org/name')).error.message).toMatch(
      /the blobs that all repositories share, .*HF_HUB_DISABLE_SHARED_BLOBS=1 \[link-escapes\]/,
    );
  });

  test.each(['snapshots', `snapshots/${commitA}`])('the folder %s as a link out of the repository', async (folder) => {
    const { repository, outside, options } = linked();
    mkdirSync(join(outside, commitA));
    writeSafetensors(join(outside, commitA, 'model.safetensors'), weight(1));
    rmSync(join(repository, folder), { recursive: true });
    symlinkSync(outside, join(repository, folder));
    expect((await refusal(options, 'org/name')).error.rule).toBe('link-escapes');
    expect((await refusal(options, repository)).error.rule).toBe('link-escapes');
  });

  test('a folder of the snapshot as a link out of it is not even listed', async () => {
    const { repository, outside, options } = setUp2();
    // Whoever lists it finds a pickle to complain of.
    renameSync(join(outside, 'model.safetensors'), join(outside, 'model.bin'));
    symlinkSync(outside, join(repository, 'snapshots', commitA, 'sub'));
    const { skipped } = await run(options, 'org/name');
    expect(skipped.map(({ name, error }) => [name, (error as SourceMalformed).rule])).toEqual([
      ['org/name/sub', 'link-escapes'],
    ]);
  });

  /** A snapshot that is no model itself, so that its folders are searched. */
  function setUp2() {
    const { link, ...made } = linked();
    rmSync(link);
    cacheModel(made.repository, commitA, 1, 'part/model.safetensors');
    return made;
  }

  test('the repository itself may be a link, as when a disk was full', async () => {
    const { repository, hub, options } = linked();
    const moved = join(temporaryFolder(), 'moved');
    renameSync(repository, moved);
    symlinkSync(moved, repository);
    expect(await names(options, 'org/name')).toEqual(['org/name']);
    expect(await names(options, hub)).toContain('org/name');
  });

  test('to nothing', async () => {
    const { link, options, relink } = linked();
    relink('../../blobs/gone');
    const { error } = await refusal(options, 'org/name');
    expect(error.message).toContain(`${link}: found a link to a file that is not there`);
    expect(error.rule).toBe('link-dangling');
  });

  test('to a download that never ended', async () => {
    const { repository, options, relink } = linked();
    writeSafetensors(join(repository, 'blobs/abcd.incomplete'), weight(1));
    relink('../../blobs/abcd.incomplete');
    const { error } = await refusal(options, 'org/name');
    expect(error.message).toMatch(/found a link to abcd\.incomplete, a download that never ended.*\[unfinished-downl/);
  });

  test('not there yet: only the start of a download', async () => {
    const { repository, hub, options } = setUp();
    cacheFile(repository, commitA, 'config.json', (path) => writeFileSync(path, '{}'));
    writeFileSync(join(repository, 'blobs/abcd.incomplete'), '');
    for (const argument of ['org/name', hub]) {
      const { name, error } = await refusal(options, argument);
      expect(name).toBe('org/name');
      expect(error.message).toMatch(
        /found no weights but abcd\.incomplete, .* hf download org\/name \[unfinished-downl/,
      );
    }
    cacheModel(repository, commitA);
    expect(await names(options, 'org/name')).toEqual(['org/name']);
  });

  test('in a circle', async () => {
    const { options, relink } = linked();
    relink('model.safetensors');
    const { skipped } = await run(options, 'org/name');
    expect(skipped.map(({ error }) => error.message)).toEqual([expect.stringMatching(/in a circle/)]);
  });

  test('in ordinary folders lead where they lead, as before', async () => {
    const { cwd, options, outside } = linked();
    mkdirSync(join(cwd, 'plain'));
    symlinkSync(join(outside, 'model.safetensors'), join(cwd, 'plain/model.safetensors'));
    const { models } = await run(options, 'plain');
    expect(models[0]).not.toHaveProperty('repository');
    expect((await Effect.runPromise(readModelHeader(models[0]!))).tensors.size).toBe(1);
  });
});

describe('sharded checkpoints', () => {
  const header = async (options: ResolveOptions) => readModelHeader((await run(options, 'org/name')).models[0]!);
  const broken = async (options: ResolveOptions) => Effect.runPromise(Effect.flip(await header(options)));

  test('are read through their links', async () => {
    const { repository, options } = setUp();
    cacheShards(repository, commitA);
    const { files, tensors } = await Effect.runPromise(await header(options));
    expect(files.map(({ path }) => dirname(path))).toEqual(Array(2).fill(join(repository, 'snapshots', commitA)));
    expect([...tensors.keys()]).toEqual(['a', 'b']);
  });

  test.each([
    ['out of the repository', '../../../outside.safetensors', 'link-escapes'],
    ['to nothing', '../../blobs/gone', 'link-dangling'],
    ['to a download that never ended', '../../blobs/abcd.incomplete', 'unfinished-download'],
  ])('a shard that is a link %s', async (_, target, rule) => {
    const { repository, hub, options } = setUp();
    const shard = cacheShards(repository, commitA)[0]!;
    for (const path of [join(hub, 'outside.safetensors'), join(repository, 'blobs/abcd.incomplete')])
      writeFileSync(path, readFileSync(shard));
    rmSync(shard);
    symlinkSync(target, shard);
    expect(await broken(options)).toMatchObject({ _tag: 'SourceMalformed', rule, path: shard });
  });

  test('an index that is a link out of the repository', async () => {
    const { repository, hub, options } = setUp();
    const index = cacheShards(repository, commitA)[2]!;
    writeFileSync(join(hub, 'index.json'), readFileSync(index));
    rmSync(index);
    symlinkSync('../../../index.json', index);
    expect((await refusal(options, 'org/name')).error).toMatchObject({ rule: 'link-escapes', path: index });
  });

  test('a shard that is still missing', async () => {
    const { repository, options } = setUp();
    rmSync(cacheShards(repository, commitA)[0]!);
    expect(await broken(options)).toMatchObject({ rule: 'shard-missing' });
  });

  test('two revisions that share their index and no shard are two models', async () => {
    const { repository, options } = setUp();
    cacheShards(repository, commitA, 1);
    cacheShards(repository, commitB, 5);
    expect(await names(options, 'org/name@aaaa', 'org/name@aabb', `org/name@${commitA}`)).toEqual([
      'org/name@aaaa000',
      'org/name@aabb111',
    ]);
  });
});
