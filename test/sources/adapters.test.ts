// PEFT folders as models: which files make one, PEFT's rules of scale and shape, and group P of hostile inputs. What is refused
// says by which rule; nothing that a config names is opened.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Effect } from 'effect';
import { describe, expect, test } from 'vitest';
import { SourceMalformed } from '../../sources/errors.ts';
import { withFactorSlots } from '../../sources/factor-slots.ts';
import type { ModelHeader } from '../../sources/model.ts';
import { readModelHeader } from '../../sources/read-model-header.ts';
import { resolveSources } from '../../sources/resolve-sources.ts';
import { temporaryFolder } from './temporary-folder.ts';
import { factorTensors, writeAdapter } from './write-adapter.ts';
import { type TensorToWrite, writeSafetensors } from './write-safetensors.ts';

const values = (length: number): Float32Array => Float32Array.from({ length }, (_, i) => Math.sin(i + 1));

const q = 'model.layers.0.self_attn.q_proj';
const v = 'model.layers.0.self_attn.v_proj';

/** A module of rank r, 5 outputs x 6 inputs. */
const factors = (path: string, rank: number): TensorToWrite[] =>
  factorTensors({ path, rank, a: values(rank * 6), b: values(5 * rank) });

const tensor = (name: string, shape: readonly number[]): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  data: values(shape.reduce((a, b) => a * b, 1)),
});

const headerOf = (folder: string): Promise<ModelHeader> => {
  const entry = join(folder, 'adapter_model.safetensors');
  return Effect.runPromise(readModelHeader({ name: 'a', source: folder, path: folder, layout: 'adapter', entry }));
};

type Config = Readonly<Record<string, unknown>> | string | null;

const read = (config: Config, tensors: readonly TensorToWrite[]): Promise<ModelHeader> => {
  const folder = temporaryFolder();
  writeAdapter(folder, config, tensors);
  return headerOf(folder);
};

const refused = async (config: Config, tensors: readonly TensorToWrite[] = factors(q, 4)): Promise<SourceMalformed> => {
  const error = await read(config, tensors).then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(SourceMalformed);
  const malformed = error as SourceMalformed;
  // Found against expected, with the file.
  expect(malformed.message).toMatch(/adapter_(config\.json|model\.safetensors)/);
  expect(malformed.detail).toMatch(/^found /);
  return malformed;
};

const scales = ({ tensors }: ModelHeader): Record<string, [number, number]> =>
  Object.fromEntries(
    [...tensors].flatMap(([name, { lora }]) => (lora === undefined ? [] : [[name, [lora.rank, lora.scale]]])),
  );

describe('scale, by the rules of PEFT', () => {
  test.each([
    ['α / r', { r: 4, lora_alpha: 16 }, 4, 4],
    ['α / √r with use_rslora', { r: 4, lora_alpha: 16, use_rslora: true }, 4, 8],
    ['r 8 and α 8 where they are missing', {}, 8, 1],
    ['α a fraction', { r: 2, lora_alpha: 0.5 }, 2, 0.25],
    ['nulls are defaults', { r: 4, use_rslora: null, rank_pattern: null, alpha_pattern: null }, 4, 2],
  ] as const)('%s', async (_, config, rank, scale) => {
    expect(scales(await read(config, factors(q, rank)))).toEqual({ [q]: [rank, scale] });
  });

  test('patterns change a module, the first that matches; α is divided by its own rank', async () => {
    const config = {
      r: 4,
      lora_alpha: 16,
      rank_pattern: { q_proj: 2, 'layers.0.self_attn.q_proj': 3 },
      alpha_pattern: { '^model\\.layers\\.\\d+\\.self_attn\\.v_proj$': 6, proj: 100 },
    };
    const header = await read(config, [...factors(q, 2), ...factors(v, 4)]);
    expect(scales(header)).toEqual({ [q]: [2, 8], [v]: [4, 1.5] });
  });

  test('use_rslora takes the root of the rank that a pattern gives', async () => {
    const config = { r: 4, lora_alpha: 6, use_rslora: true, rank_pattern: { q_proj: 9 } };
    expect(scales(await read(config, [...factors(q, 9), ...factors(v, 4)]))).toEqual({ [q]: [9, 2], [v]: [4, 3] });
  });
});

describe('ΔW has the shape of the weight', () => {
  const shapeOf = async (config: Config, tensors: readonly TensorToWrite[]) => {
    const { tensors: found } = await read(config, tensors);
    const [[name, entry]] = [...found] as [[string, NonNullable<ReturnType<typeof found.get>>]];
    const { rows, cols, transposed } = entry.lora!;
    return { name, shape: entry.shape, rows, cols, transposed };
  };

  test('outputs x inputs', async () => {
    const linear = { name: q, shape: [5, 6], rows: 5, cols: 6, transposed: false };
    expect(await shapeOf({ r: 4 }, factors(q, 4))).toEqual(linear);
  });

  test('inputs x outputs with fan_in_fan_out', async () => {
    const conv1d = { name: q, shape: [6, 5], rows: 6, cols: 5, transposed: true };
    expect(await shapeOf({ r: 4, fan_in_fan_out: true }, factors(q, 4))).toEqual(conv1d);
  });

  test.each(['', '.default', '.weight', '.default.weight'])(
    'rows x dims of an embedding, lora_embedding_A%s',
    async (end) => {
      const name = 'model.embed_tokens';
      const key = (letter: string): string => `base_model.model.${name}.lora_embedding_${letter}${end}`;
      const tensors = [tensor(key('A'), [4, 11]), tensor(key('B'), [6, 4])];
      for (const config of [{ r: 4 }, { r: 4, fan_in_fan_out: true }])
        expect(await shapeOf(config, tensors)).toEqual({ name, shape: [11, 6], rows: 11, cols: 6, transposed: true });
    },
  );

  test('outputs x (inputs · kernel) of a convolution', async () => {
    const key = (letter: string): string => `base_model.model.conv.lora_${letter}.weight`;
    const tensors = [tensor(key('A'), [4, 3, 5, 7]), tensor(key('B'), [1, 4, 1, 1])];
    const conv = { name: 'conv', shape: [1, 3, 5, 7], rows: 1, cols: 105, transposed: false };
    expect(await shapeOf({ r: 4, fan_in_fan_out: true }, tensors)).toEqual(conv);
  });
});

describe('keys', () => {
  test.each([
    [`base_model.model.${q}`, '.weight'],
    [`base_model.model.${q}`, '.default.weight'],
    [`base_model.model.${q}`, '.my-adapter.weight'],
    [q, '.weight'],
  ])('%s.lora_A%s', async (path, end) => {
    const tensors = [tensor(`${path}.lora_A${end}`, [8, 6]), tensor(`${path}.lora_B${end}`, [5, 8])];
    expect([...(await read({}, tensors)).tensors.keys()]).toEqual([q]);
  });

  test('as factors, slots are named by their modules', async () => {
    const { tensors, adapter } = withFactorSlots(await read({ r: 4 }, factors(q, 4)));
    expect([...tensors].map(([name, { shape, lora }]) => [name, shape, lora])).toEqual([
      [`${q}.lora_A`, [4, 6], undefined],
      [`${q}.lora_B`, [5, 4], undefined],
    ]);
    expect(adapter).toEqual({ baseModel: null });
  });

  test.each([
    [
      'Kohya',
      'lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight',
      'lora_unet_down_blocks_0_attentions_0_to_q.alpha',
    ],
    ['LyCORIS', 'lora_unet_x.hada_w1_a', 'lora_unet_x.hada_w1_b'],
    ['LyCORIS', 'lora_unet_x.lokr_w1', 'lora_unet_x.lokr_w2_a'],
    [
      'diffusers',
      'unet.down_blocks.0.attn1.processor.to_q_lora.down.weight',
      'unet.down_blocks.0.attn1.processor.to_q_lora.up.weight',
    ],
    [
      'diffusers',
      'text_encoder.q_proj.lora_linear_layer.down.weight',
      'text_encoder.q_proj.lora_linear_layer.up.weight',
    ],
    ['factors of LoRA', 'transformer.blocks.0.to_q.lora_A.weight', 'transformer.blocks.0.to_q.lora_B.weight'],
  ])('of %s in a file alone are refused by name, with what to do', async (style, ...names) => {
    const folder = temporaryFolder();
    const entry = join(folder, 'x.safetensors');
    writeSafetensors(
      entry,
      names.map((name) => tensor(name, [4, 6])),
    );
    const location = { name: 'x', source: 'x', path: entry, layout: 'file', entry } as const;
    const error = (await Effect.runPromise(Effect.flip(readModelHeader(location)))) as SourceMalformed;
    expect(error).toMatchObject({ rule: 'foreign-adapter', tensor: names[0] });
    expect(error.detail).toContain(style);
    expect(error.detail).toMatch(/adapter_config\.json|merge it/);
    // A few factors among full weights are weights.
    writeSafetensors(
      entry,
      [...names, 'a', 'b', 'c'].map((name) => tensor(name, [4, 6])),
    );
    expect((await Effect.runPromise(readModelHeader(location))).tensors.size).toBe(names.length + 3);
  });

  test('of Kohya in a PEFT folder are refused: there is no factor', async () => {
    const kohya = [tensor('lora_unet_x.lora_down.weight', [8, 6]), tensor('lora_unet_x.lora_up.weight', [5, 8])];
    expect(await refused({}, kohya)).toMatchObject({ rule: 'no-factors' });
  });
});

describe('folders', () => {
  const found = async (...paths: string[]) => {
    const root = temporaryFolder();
    for (const path of paths) {
      mkdirSync(join(root, path, '..'), { recursive: true });
      if (path.endsWith('.safetensors')) writeSafetensors(join(root, path), factors(q, 8));
      else writeFileSync(join(root, path), '{}');
    }
    const { models, skipped } = await Effect.runPromise(resolveSources(['.'], { cwd: root }));
    return [
      ...models.map(({ name, layout }) => [name, layout]),
      ...skipped.map(({ name, error }) => [name, (error as SourceMalformed).rule]),
    ];
  };
  const adapter = (path: string): string[] => [`${path}/adapter_config.json`, `${path}/adapter_model.safetensors`];

  test('in sub-folders, as checkpoints and under names of their own', async () => {
    const paths = ['z/a', 'z/a/checkpoint-5', 'z/a/other', 'z/b/c'].flatMap(adapter);
    expect(await found(...paths, 'z/a/logs/notes.txt', 'z/a/checkpoint-5/global_step5/states.pt')).toEqual([
      ['z/a', 'adapter'],
      ['z/a/checkpoint-5', 'adapter'],
      ['z/a/other', 'adapter'],
      ['z/b/c', 'adapter'],
    ]);
  });

  test('beside full checkpoints', async () => {
    expect(await found(...adapter('a'), 'b/model.safetensors')).toEqual([
      ['a', 'adapter'],
      ['b', 'file'],
    ]);
  });

  test('a config alone has no weights', async () => {
    expect(await found('a/adapter_config.json')).toEqual([['a', 'adapter-missing']]);
  });

  test('one set of weights with two configs is two adapters; the same twice is one', async () => {
    const root = temporaryFolder();
    for (const [name, alpha] of [
      ['a', 8],
      ['b', 16],
    ] as const)
      writeAdapter(join(root, name), { lora_alpha: alpha }, factors(q, 8));
    rmSync(join(root, 'b/adapter_model.safetensors'));
    symlinkSync(join(root, 'a/adapter_model.safetensors'), join(root, 'b/adapter_model.safetensors'));
    symlinkSync(join(root, 'a'), join(root, 'c'));
    const { models } = await Effect.runPromise(resolveSources(['a', 'b', 'c'], { cwd: root }));
    expect(models.map(({ name }) => name)).toEqual(['a', 'b']);
  });
});

describe('of a Hugging Face cache', () => {
  /** A repository with one snapshot, whose files are links into its blobs; the config's leads where it is told. */
  const cached = (config: string): { readonly cache: string; readonly repository: string } => {
    const cache = temporaryFolder();
    const repository = join(cache, 'models--org--lora');
    const snapshot = join(repository, 'snapshots', 'a'.repeat(40));
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(join(repository, 'blobs'));
    writeSafetensors(join(repository, 'blobs/weights'), factors(q, 8));
    writeFileSync(join(repository, 'blobs/config'), '{"lora_alpha":16}');
    writeFileSync(join(cache, 'config'), '{"lora_alpha":16}');
    symlinkSync('../../blobs/weights', join(snapshot, 'adapter_model.safetensors'));
    symlinkSync(config, join(snapshot, 'adapter_config.json'));
    return { cache, repository };
  };
  const found = async (cache: string) => {
    const env = { HF_HUB_CACHE: cache };
    const { models } = await Effect.runPromise(resolveSources(['org/lora'], { cwd: cache, env }));
    return models[0]!;
  };

  test('links are followed inside the repository', async () => {
    const { cache } = cached('../../blobs/config');
    const location = await found(cache);
    expect(location).toMatchObject({ name: 'org/lora', layout: 'adapter' });
    expect(scales(await Effect.runPromise(readModelHeader(location)))).toEqual({ [q]: [8, 2] });
  });

  test('and a config that leads out of it is refused', async () => {
    const { cache } = cached('../../../config');
    const error = await Effect.runPromise(Effect.flip(readModelHeader(await found(cache))));
    expect(error).toMatchObject({ rule: 'link-escapes' });
  });
});

describe('P1 the config', () => {
  test('P1 is missing', async () => {
    expect(await refused(null)).toMatchObject({ rule: 'config-missing' });
  });

  test('P1 is huge', async () => {
    expect(await refused(`{"x":"${'x'.repeat(4_000_000)}"}`)).toMatchObject({ rule: 'config-size' });
  });

  test.each([
    ['', 'not-an-object'],
    ['[]', 'not-an-object'],
    ['{', 'json'],
    ['{"r":4,"r":4}', 'duplicate-key'],
    ['{"r":4}x', 'trailing-json'],
    ['\ufeff{}', 'bom'],
    ['{"rank_pattern":{"q":1,"q":2}}', 'duplicate-key'],
    [`{"x":${'['.repeat(1000)}`, 'json-depth'],
    ['{"r":0}', 'rank'],
    ['{"r":1000000000}', 'rank'],
    ['{"r":-1}', 'integer'],
    ['{"r":4.0}', 'integer'],
    ['{"r":"4"}', 'integer'],
    ['{"r":null}', 'integer'],
    ['{"rank_pattern":{"q":0}}', 'rank'],
    ['{"rank_pattern":[]}', 'json'],
    ['{"lora_alpha":NaN}', 'number'],
    ['{"lora_alpha":"16"}', 'number'],
    ['{"lora_alpha":1e999}', 'alpha'],
    ['{"lora_alpha":1e10}', 'alpha'],
    ['{"alpha_pattern":{"q":Infinity}}', 'number'],
    ['{"use_rslora":1}', 'boolean'],
    ['{"fan_in_fan_out":"false"}', 'boolean'],
    ['{"base_model_name_or_path":7}', 'json'],
    [`{"base_model_name_or_path":"${'x'.repeat(5000)}"}`, 'base-model'],
    ['{"peft_type":"LOHA"}', 'peft-type'],
  ])('P1 %s is refused: %s', async (text, rule) => {
    expect(await refused(text)).toMatchObject({ rule });
  });

  test('P1 is a FIFO, a folder or a link to nothing', async () => {
    const folder = temporaryFolder();
    writeAdapter(folder, null, factors(q, 8));
    const path = join(folder, 'adapter_config.json');
    const rules: unknown[] = [];
    for (const make of [
      () => execFileSync('mkfifo', [path]),
      () => mkdirSync(path),
      () => symlinkSync('nowhere', path),
    ]) {
      make();
      rules.push(await headerOf(folder).catch((error: SourceMalformed) => error.rule));
      rmSync(path, { recursive: true });
    }
    expect(rules).toEqual(['not-a-file', 'not-a-file', 'config-missing']);
  });
});

describe('P2 factors that do not fit', () => {
  const pair = (a: readonly number[], b: readonly number[]): TensorToWrite[] => [
    tensor(`base_model.model.${q}.lora_A.weight`, a),
    tensor(`base_model.model.${q}.lora_B.weight`, b),
  ];
  test.each([
    ['P2 ranks that differ', pair([4, 6], [5, 3]), 'rank'],
    ['P2 a rank that is not r', pair([3, 6], [5, 3]), 'rank'],
    ['P2 a transposed B', pair([4, 6], [4, 5]), 'rank'],
    ['P2 no B', pair([4, 6], [5, 4]).slice(0, 1), 'factor-missing'],
    ['P2 no A', pair([4, 6], [5, 4]).slice(1), 'factor-missing'],
    ['P2 vectors', pair([4], [4]), 'factor-shape'],
    ['P2 dims that differ', pair([4, 6, 1, 1], [5, 4]), 'factor-shape'],
    ['P2 a B with a kernel', pair([4, 6, 3, 3], [5, 4, 3, 3]), 'factor-shape'],
    ['P2 two adapters in one file', [...pair([4, 6], [5, 4]), tensor(`${q}.lora_A.b.weight`, [4, 6])], 'adapters'],
    ['P2 no tensors', [], 'no-factors'],
  ] as const)('%s', async (_, tensors, rule) => {
    expect(await refused({ r: 4 }, tensors)).toMatchObject({ rule });
  });

  test('P2 stacked factors of experts are named', async () => {
    const error = await refused({ r: 4, target_parameters: ['experts.up'] }, factors('experts', 8));
    expect(error).toMatchObject({ rule: 'rank' });
    expect(error.detail).toMatch(/target_parameters/);
  });
});

describe('P3 patterns', () => {
  test('P3 a pattern that backtracks for ever elsewhere ends here', async () => {
    const config = { r: 4, rank_pattern: { '(([a-z_.0-9]+)+)+\\d!': 8 } };
    expect(scales(await read(config, factors(q, 4)))).toEqual({ [q]: [4, 2] });
  });

  test('P3 one that is not known is refused by name', async () => {
    const error = await refused({ r: 4, alpha_pattern: { '(?!x)q_proj': 8 } });
    expect(error).toMatchObject({ rule: 'pattern' });
    expect(error.detail).toMatch(/\(\?!x\)q_proj in alpha_pattern/);
  });

  test('P3 regular-expression characters in module names are characters', async () => {
    const odd = 'h.(a+)+$[0]';
    expect(scales(await read({ r: 4, rank_pattern: { 'h.a': 2 } }, factors(odd, 4)))).toEqual({ [odd]: [4, 2] });
  });
});

test('P4 a base that is a URL or a path is a name, never opened or fetched', async () => {
  const folder = temporaryFolder();
  const fifo = join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  // Opening the FIFO would not come back; that the others are not asked for cannot be seen, but none of them is there.
  for (const name of [fifo, 'http://192.0.2.1/x', 'file:///etc/passwd', '../../etc', '/dev/zero', 'a\u0000b']) {
    writeAdapter(join(folder, 'a'), { r: 4, base_model_name_or_path: name }, factors(q, 4));
    expect((await headerOf(join(folder, 'a'))).adapter).toEqual({ baseModel: name });
  }
});

describe('P6 where B·A is not the change', () => {
  test('P6 DoRA, by its config or by its magnitudes', async () => {
    expect(await refused({ r: 4, use_dora: true })).toMatchObject({ rule: 'dora' });
    const magnitude = tensor(`base_model.model.${q}.lora_magnitude_vector`, [5]);
    expect(await refused({ r: 4 }, [...factors(q, 4), magnitude])).toMatchObject({ rule: 'dora' });
  });

  test.each(['pissa', 'pissa_niter_16', 'olora', 'loftq', 'corda', 'lora_ga', 'something new'])(
    'P6 init %s',
    async (init) => {
      const error = await refused({ r: 4, init_lora_weights: init });
      expect(error).toMatchObject({ rule: 'init' });
      expect(error.detail).toContain(init);
    },
  );

  test.each([true, false, null, 'gaussian', 'eva', 'orthogonal'])(
    'P6 init %s begins with B·A = 0: accepted',
    async (init) => {
      expect(scales(await read({ r: 4, init_lora_weights: init }, factors(q, 4)))).toEqual({ [q]: [4, 2] });
    },
  );

  test('P6 modules_to_save, biases and lora_bias are left out by name', async () => {
    const beside = [
      tensor('base_model.model.classifier.weight', [3, 6]),
      tensor(`base_model.model.${q}.bias`, [5]),
      tensor(`base_model.model.${q}.lora_B.bias`, [5]),
    ];
    const config = { r: 4, modules_to_save: ['classifier'], bias: 'lora_only', lora_bias: true };
    const { tensors } = await read(config, [...factors(q, 4), ...beside]);
    expect([...tensors.values()].map(({ name, leftOut }) => [name, leftOut ?? null])).toEqual([
      [q, null],
      ['classifier.weight', expect.stringMatching(/modules_to_save/)],
      [`${q}.bias`, expect.stringMatching(/bias kept beside/)],
      [`${q}.lora_B.bias`, expect.stringMatching(/lora_bias/)],
    ]);
  });
});

test('P7 only .bin is a pickle, which is not opened', async () => {
  const root = temporaryFolder();
  mkdirSync(join(root, 'a'));
  writeFileSync(join(root, 'a/adapter_config.json'), '{}');
  writeFileSync(join(root, 'a/adapter_model.bin'), 'x');
  const { models, skipped } = await Effect.runPromise(resolveSources(['a'], { cwd: root }));
  expect(models).toEqual([]);
  expect(skipped[0]!.error).toMatchObject({
    rule: 'pickle',
    detail: expect.stringMatching(/adapter_model\.bin.*safetensors/),
  });
});
