// What SOURCES mean: order, names, uniqueness; group K (pickles), which are refused by name and never opened.
import { chmodSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Effect } from 'effect';
import { describe, expect, test } from 'vitest';
import { ConfigInvalid } from '../../configs/errors.ts';
import { SourceMalformed, SourceUnavailable } from '../../sources/errors.ts';
import { type ResolvedSources, type ResolveOptions, resolveSources } from '../../sources/resolve-sources.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { writeSafetensors, writeSharded } from './write-safetensors.ts';

const tensors = [{ name: 'w', dtype: 'F32', shape: [1], data: Float32Array.of(1) }];

/** A folder with these files: safetensors where the name says so, else a little text. `to <- from` makes a link. */
function tree(...files: string[]): string {
  const root = temporaryFolder();
  for (const file of files) {
    const [path, target] = file.split(' <- ');
    const full = join(root, path!);
    mkdirSync(join(full, '..'), { recursive: true });
    if (target !== undefined) symlinkSync(target, full);
    else if (path!.endsWith('.safetensors')) writeSafetensors(full, tensors);
    else writeFileSync(full, 'text');
  }
  return root;
}

const run = (cwd: string, args: string[], options: ResolveOptions = {}): Promise<ResolvedSources> =>
  Effect.runPromise(resolveSources(args, { cwd, ...options }));
const failure = (cwd: string, args: string[], options: ResolveOptions = {}) =>
  Effect.runPromise(Effect.flip(resolveSources(args, { cwd, ...options })));
const names = async (cwd: string, ...args: string[]): Promise<string[]> =>
  (await run(cwd, args)).models.map((model) => model.name);
async function skips(cwd: string, ...args: string[]): Promise<[string, string][]> {
  const { skipped } = await run(cwd, args);
  return skipped.map(({ name, error }) => [name, error instanceof SourceMalformed ? error.rule : error._tag]);
}

describe('a folder', () => {
  test('that is a model', async () => {
    const root = tree('a/model.safetensors', 'a/config.json');
    expect((await run(root, ['a'])).models).toEqual([
      { name: 'a', source: 'a', path: join(root, 'a'), layout: 'file', entry: join(root, 'a/model.safetensors') },
    ]);
    expect(await names(join(root, 'a'), '.')).toEqual(['a']);
    expect(await names(root, 'a/')).toEqual(['a']);
  });

  test('with one file of any name', async () => {
    expect(await names(tree('a/weights.safetensors', 'a/sub/readme.txt'), 'a')).toEqual(['a']);
  });

  test('that is sharded: the index wins over a consolidated twin', async () => {
    const root = tree('m/model.safetensors');
    writeSharded(join(root, 'm'), [tensors, [{ ...tensors[0]!, name: 'v' }]]);
    const { models } = await run(root, ['m']);
    expect(models).toEqual([
      {
        name: 'm',
        source: 'm',
        path: join(root, 'm'),
        layout: 'sharded',
        entry: join(root, 'm/model.safetensors.index.json'),
      },
    ]);
    expect((await run(root, ['m/model.safetensors.index.json'])).models[0]!.path).toBe(join(root, 'm'));
  });

  test('of folders, at any depth, in byte order', async () => {
    const root = tree(
      'z/b/model.safetensors',
      'z/a/x/y/model.safetensors',
      'z/B/model.safetensors',
      'z/é/model.safetensors',
      'z/a-1/model.safetensors',
      'z/\u{1F600}/model.safetensors',
      'z/\uff5e/model.safetensors',
      'z/10/model.safetensors',
      'z/9/model.safetensors',
    );
    expect(await names(root, 'z')).toEqual(['10', '9', 'B', 'a/x/y', 'a-1', 'b', 'é', '\uff5e', '\u{1F600}']);
  });

  test('of checkpoints: the model itself, then its checkpoints, and nothing else below', async () => {
    const root = tree(
      'run/model.safetensors',
      'run/checkpoint-500/model.safetensors',
      'run/checkpoint-1000/model.safetensors',
      'run/extra/model.safetensors',
      'run/training_args.bin',
    );
    expect(await names(root, 'run')).toEqual(['run', 'checkpoint-1000', 'checkpoint-500']);
    expect(await names(root, '.')).toEqual(['run', 'run/checkpoint-1000', 'run/checkpoint-500']);
  });

  test('of checkpoints and no model of its own', async () => {
    const root = tree(
      'run/checkpoint-1/model.safetensors',
      'run/checkpoint-2/model.safetensors',
      'run/training_args.bin',
    );
    expect(await names(root, 'run')).toEqual(['checkpoint-1', 'checkpoint-2']);
    expect(await skips(root, 'run')).toEqual([]);
  });

  test('of files: each is a model, beside the folders', async () => {
    const root = tree('zoo/c.safetensors', 'zoo/a.safetensors', 'zoo/b/model.safetensors');
    expect(await names(root, 'zoo')).toEqual(['a', 'b', 'c']);
  });

  test('with one loose file and models below is a folder of models', async () => {
    const root = tree(
      'zoo/m.safetensors',
      'zoo/z/model.safetensors',
      'zoo/a/model.safetensors',
      'zoo/checkpoint-1/model.safetensors',
    );
    expect(await names(root, 'zoo')).toEqual(['a', 'checkpoint-1', 'm', 'z']);
  });

  test('hidden names are skipped', async () => {
    const root = tree(
      'a/model.safetensors',
      '.git/model.safetensors',
      '.cache/b/model.safetensors',
      'a/._model.safetensors',
    );
    expect(await names(root, '.')).toEqual(['a']);
  });

  test('links in a circle do not hang, and no model comes twice', async () => {
    const root = tree('zoo/a/model.safetensors', 'zoo/b/up <- ..', 'zoo/c <- a', 'zoo/self <- self');
    expect(await names(root, 'zoo')).toEqual(['a']);
  });

  test('many links in circles do not multiply', { timeout: 20_000 }, async () => {
    const links = [1, 2, 3, 4, 5].flatMap((i) => [`zoo/b/up${i} <- ..`, `zoo/c/up${i} <- ../..`]);
    expect(await names(tree('zoo/a/model.safetensors', ...links), 'zoo')).toEqual(['a']);
  });

  // The superuser may read everything.
  test.skipIf(process.getuid?.() === 0)('a folder that may not be read is skipped, and the rest found', async () => {
    const root = tree('a/model.safetensors', 'b/model.safetensors');
    chmodSync(join(root, 'b'), 0o000);
    expect(await skips(root, '.')).toEqual([['b', 'SourceUnavailable']]);
    chmodSync(join(root, 'b'), 0o700);
  });

  test('shards without their index', async () => {
    const root = tree('a/model-00001-of-00002.safetensors', 'b/model.safetensors');
    expect(await skips(root, '.')).toEqual([['a', 'index-missing']]);
    expect(await names(root, '.')).toEqual(['b']);
  });

  test('two indices of other names', async () => {
    const root = tree('a/x.safetensors.index.json', 'a/y.safetensors.index.json');
    expect(await skips(root, 'a')).toEqual([['a', 'index-ambiguous']]);
  });
});

describe('K pickles are never opened', () => {
  test.each(['pytorch_model.bin', 'model.pt', 'model.pth', 'model.ckpt', 'model.pkl', 'MODEL.BIN'])(
    'K a folder with only %s',
    async (file) => {
      const root = tree(`a/${file}`, 'b/model.safetensors');
      const { models, skipped } = await run(root, ['.']);
      expect(models.map(({ name }) => name)).toEqual(['b']);
      expect(skipped[0]!.error.message).toMatch(/convert once with Python: safetensors\.torch\.save_file.*\[pickle\]/);
    },
  );

  test.each(['pytorch_model.bin', 'model.pt', 'model.pth', 'model.ckpt', 'model.pkl'])(
    'K the file %s',
    async (file) => {
      expect(await skips(tree(`a/${file}`), `a/${file}`)).toEqual([[file, 'pickle']]);
    },
  );

  test('K beside safetensors they are ignored', async () => {
    const root = tree('a/model.safetensors', 'a/pytorch_model.bin', 'a/optimizer.pt');
    expect(await skips(root, '.')).toEqual([]);
    expect(await skips(root, 'a/*')).toEqual([]);
    expect(await names(root, 'a/*')).toEqual(['model']);
  });

  test('K a glob over folders keeps the refusal of one that has nothing else', async () => {
    const root = tree('a/model.safetensors', 'b/model.pt');
    expect(await skips(root, '*')).toEqual([['b', 'pickle']]);
  });
});

describe('files, globs and lists', () => {
  const zoo = (): string =>
    tree(
      'zoo/a/model.safetensors',
      'zoo/b/model.safetensors',
      'zoo/c/d/model.safetensors',
      'zoo/.h/model.safetensors',
      'zoo/e.safetensors',
      'zoo/notes.txt',
    );

  test('a file is named without its ending', async () => {
    expect(await names(zoo(), 'zoo/e.safetensors')).toEqual(['e']);
  });

  test('a file whose one shard of several it is', async () => {
    expect(await skips(tree('model-00001-of-00002.safetensors'), 'model-00001-of-00002.safetensors')).toEqual([
      ['model-00001-of-00002', 'index-missing'],
    ]);
  });

  test.each([
    ['zoo/*', ['a', 'b', 'c/d', 'e']],
    ['zoo/[ab]', ['a', 'b']],
    ['zoo/?/model.safetensors', ['a/model', 'b/model']],
    ['zoo/**/model.safetensors', ['a/model', 'b/model', 'c/d/model']],
    ['zoo/{b,a}', ['a', 'b']],
    ['zoo/**', ['a', 'b', 'c/d', 'e']],
    ['zoo/.h*', ['.h']],
    ['./zoo/../zoo/a*', ['a']],
    ['**/d', ['zoo/c/d']],
  ])('the glob %s', async (pattern, expected) => {
    expect(await names(zoo(), pattern)).toEqual(expected);
  });

  test('an absolute glob', async () => {
    const root = zoo();
    expect(await names('/', `${root}/zoo/[a-c]`)).toEqual(['a', 'b', 'c/d']);
  });

  test('a glob over links in a circle', async () => {
    const root = tree('a/model.safetensors', 'b/up <- ..');
    expect(await names(root, '**/**/model.safetensors')).toEqual(['a/model']);
  });

  test('a name that looks like a glob but exists', async () => {
    expect(await names(tree('[a]/model.safetensors'), '[a]')).toEqual(['[a]']);
  });

  test('@list.txt: relative to its folder, comments and blank lines apart', async () => {
    const root = zoo();
    writeFileSync(
      join(root, 'zoo/list.txt'),
      '\ufeff# models\r\n\r\n b \r\nc\n./a\n e.safetensors\n[ab]\n../zoo/e.safetensors',
    );
    const { models } = await run(root, ['@zoo/list.txt']);
    expect(models.map(({ name }) => name)).toEqual(['b', 'c/d', 'a', 'e']);
    expect(new Set(models.map(({ source }) => source))).toEqual(new Set(['@zoo/list.txt']));
  });

  test('- is the same on standard input, relative to the working folder', async () => {
    const { models } = await run(zoo(), ['-'], { stdin: async () => 'zoo/b\nzoo/a\n' });
    expect(models.map(({ name, source }) => [name, source])).toEqual([
      ['zoo/b', '-'],
      ['zoo/a', '-'],
    ]);
  });

  test('arguments in the order given; the same real path twice is one model', async () => {
    const root = zoo();
    symlinkSync('b', join(root, 'zoo/link'));
    expect(await names(root, 'zoo/e.safetensors', 'zoo/link', 'zoo', 'zoo/b/model.safetensors')).toEqual([
      'e',
      'link',
      'a',
      'c/d',
    ]);
  });

  test('names that would be the same get their arguments in front', async () => {
    const root = tree('x/run/model.safetensors', 'y/run/model.safetensors', 'y/other/model.safetensors');
    expect(await names(root, 'x', 'y')).toEqual(['x/run', 'other', 'y/run']);
    expect(await names(root, 'x/run', 'y/run')).toEqual(['x/run', 'y/run']);
    expect(await names(root, 'x/run/model.safetensors', 'y/run/model.safetensors')).toEqual([
      'x/run/model',
      'y/run/model',
    ]);
  });
});

describe('failures', () => {
  test('no sources', async () => {
    expect(await failure('.', [])).toBeInstanceOf(ConfigInvalid);
  });

  test('arguments that name no model, all at once', async () => {
    const root = tree('empty/notes.txt', 'a/model.safetensors');
    const error = await failure(root, ['empty', 'a', 'x*', 'empty/notes.txt', '\u001b[2J*', '-'], {
      stdin: async () => '# none',
    });
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect((error as ConfigInvalid).issues.map((issue) => issue.split(': ')[1])).toEqual([
      'empty',
      'x*',
      'empty/notes.txt',
      '\\u{1b}[2J*',
      '-',
    ]);
  });

  test('an argument that does not exist', async () => {
    const error = await failure(tree(), ['gone']);
    expect(error).toBeInstanceOf(SourceUnavailable);
    expect(error.message).toMatch(/gone: found nothing here/);
  });

  test('a list that does not exist, or names what does not', async () => {
    const root = tree();
    writeFileSync(join(root, 'list.txt'), 'gone\n');
    writeFileSync(join(root, 'globs.txt'), 'a\nnone*\n');
    mkdirSync(join(root, 'a'));
    writeSafetensors(join(root, 'a/model.safetensors'), tensors);
    expect((await failure(root, ['@globs.txt'])).message).toMatch(/@globs.txt: found nothing that matches none\*/);
    expect(await failure(root, ['@nolist.txt'])).toBeInstanceOf(SourceUnavailable);
    expect((await failure(root, ['@list.txt'])).message).toMatch(/gone: found nothing here/);
  });

  test('a list that is not text', async () => {
    const root = tree();
    writeFileSync(join(root, 'list.txt'), Buffer.from('caf\xe9', 'latin1'));
    expect(await failure(root, ['@list.txt'])).toMatchObject({ _tag: 'SourceMalformed', rule: 'list' });
  });

  test('a NUL in an argument', async () => {
    expect(await failure(tree(), ['a\0b'])).toBeInstanceOf(SourceUnavailable);
  });

  test('braces that stand for too many patterns', async () => {
    expect(await failure(tree(), ['{a,b}'.repeat(20)])).toBeInstanceOf(ConfigInvalid);
  });

  test('a model that vanishes later is for its header to report', async () => {
    const root = tree('a/model.safetensors');
    renameSync(join(root, 'a/model.safetensors'), join(root, 'a/real'));
    symlinkSync('gone', join(root, 'a/model.safetensors'));
    expect(await names(root, 'a')).toEqual(['a']);
  });
});
