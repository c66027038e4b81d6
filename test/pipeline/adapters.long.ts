// LoRA adapters from the command line to the tables. The reference for every kind of module is ΔW itself, made here in float64
// from first principles and stored as plain checkpoints: a run over adapters must find what a run over those finds.
// Tolerance: 1e-6 of the largest eigenvalue; both runs are float32 products with float64 sums, good to 3e-7.
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices } from '../operators/devices.ts';
import { normals } from '../operators/planted.ts';
import { readWithHyparquet } from '../sinks/parquet-readers.ts';
import { factorTensors, writeAdapter } from '../sources/write-adapter.ts';
import { type TensorToWrite, writeSafetensors } from '../sources/write-safetensors.ts';
import { runCli, startCli } from './cli-process.ts';
import { tableDigests } from './table-digests.ts';

const root = mkdtempSync(join(tmpdir(), 'weightspan-adapters-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const at = (...parts: string[]): string => join(root, ...parts);
const table = (run: string, name: string) => readWithHyparquet(at(run, `${name}.parquet`));

const run = async (out: string, ...args: string[]): Promise<string> => {
  const { code, stderr } = await runCli(['run', '--out', at(out), '--quiet', ...args]);
  expect(code, stderr).toBe(0);
  return out;
};

const failed = async (...args: string[]): Promise<{ readonly code: number | null; readonly stderr: string }> => {
  const { code, stderr } = await runCli(['run', '--out', at('never'), '--quiet', ...args]);
  expect(code).not.toBe(0);
  return { code, stderr };
};

/** By slot and mode. */
const spectra = async (out: string): Promise<Map<string, number[]>> => {
  const names = new Map((await table(out, 'slots')).map(({ slot_id, name }) => [slot_id, name]));
  const found = new Map<string, number[]>();
  for (const { slot_id, mode, eigenvalue } of await table(out, 'spectrum')) {
    const key = `${names.get(slot_id)} ${mode}`;
    found.set(key, [...(found.get(key) ?? []), Number(eigenvalue)]);
  }
  return found;
};

const worstDifference = (found: Map<string, number[]>, expected: Map<string, number[]>): number => {
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
  let worst = 0;
  for (const [key, values] of expected) {
    const own = found.get(key)!;
    for (let j = 0; j < Math.max(values.length, own.length); j++)
      worst = Math.max(worst, Math.abs((own[j] ?? 0) - (values[j] ?? 0)) / values[0]!);
  }
  return worst;
};

const random = (length: number, normal: () => number): Float32Array => Float32Array.from({ length }, () => normal());

/** scale · B A, rows x cols, or its transpose. */
const deltaOf = (a: Float32Array, b: Float32Array, rank: number, scale: number, turned = false): Float32Array => {
  const [rows, cols] = [b.length / rank, a.length / rank];
  const delta = new Float32Array(rows * cols);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < cols; j++) {
      let sum = 0;
      for (let l = 0; l < rank; l++) sum += b[i * rank + l]! * a[l * cols + j]!;
      delta[turned ? j * rows + i : i * cols + j] = scale * sum;
    }
  return delta;
};

const MODELS = 9;
const name = (model: number): string => `m${String(model).padStart(2, '0')}`;
const base = 'org/base';

/** Adapters of several ranks and scales, and the same changes as checkpoints. */
beforeAll(() => {
  const normal = normals(17);
  for (let m = 0; m < MODELS; m++) {
    const [r, other, alpha] = m % 3 === 0 ? [4, 2, 16] : m % 3 === 1 ? [8, 3, 8] : [4, 5, 2.5];
    const use_rslora = m % 2 === 1;
    const scaleOf = (rank: number, value = alpha): number => value / (use_rslora ? Math.sqrt(rank) : rank);
    const config = {
      base_model_name_or_path: base,
      r,
      lora_alpha: alpha,
      use_rslora,
      rank_pattern: { 'layers.0.up': other },
      alpha_pattern: { 'conv|embed': 3 },
    };
    const key = (module: string, part: string): string => `base_model.model.${module}.lora_${part}`;
    const module = (path: string, rank: number, cols: number, rows: number) => ({
      path,
      rank,
      a: random(rank * cols, normal),
      b: random(rows * rank, normal),
    });
    const q = module('layers.0.q', r, 40, 30);
    const up = module('layers.0.up', other, 24, 36);
    const conv = module('conv', r, 3 * 5 * 5, 8);
    const embed = module('embed', r, 50, 16);
    const dtype = m % 4 === 3 ? 'F64' : 'F32';
    const named = (name: string, shape: readonly number[], data: Float32Array): TensorToWrite => ({
      name,
      dtype: 'F32',
      shape,
      data,
    });
    const tensors = [
      ...factorTensors({ ...q, dtype }),
      ...factorTensors(up),
      named(key('conv', 'A.weight'), [r, 3, 5, 5], conv.a),
      named(key('conv', 'B.weight'), [8, r, 1, 1], conv.b),
      named(key('embed', 'embedding_A'), [r, 50], embed.a),
      named(key('embed', 'embedding_B'), [16, r], embed.b),
      named('base_model.model.head.weight', [4, 16], random(64, normal)),
    ];
    writeAdapter(at('adapters', name(m)), config, tensors);
    const deltas = [
      named('layers.0.q', [30, 40], deltaOf(q.a, q.b, r, scaleOf(r))),
      named('layers.0.up', [36, 24], deltaOf(up.a, up.b, other, scaleOf(other))),
      named('conv', [8, 3, 5, 5], deltaOf(conv.a, conv.b, r, scaleOf(r, 3))),
      named('embed', [50, 16], deltaOf(embed.a, embed.b, r, scaleOf(r, 3), true)),
    ];
    writeSafetensors(at('deltas', `${name(m)}.safetensors`), deltas);
    // Linear layers alone, stored as inputs x outputs.
    writeAdapter(at('turned', name(m)), { ...config, fan_in_fan_out: true }, [
      ...factorTensors(q),
      ...factorTensors(up),
    ]);
    writeSafetensors(at('turned-deltas', `${name(m)}.safetensors`), [
      named('layers.0.q', [40, 30], deltaOf(q.a, q.b, r, scaleOf(r), true)),
      named('layers.0.up', [24, 36], deltaOf(up.a, up.b, other, scaleOf(other), true)),
    ]);
  }
});

const modes = ['--mode', 'models,rows,cols', '--block', '4', '--rank', '16'];

describe.each(devices)('on $name', ({ name: device }) => {
  it.each([
    ['incremental', 'adapters', 'deltas'],
    ['exact', 'adapters', 'deltas'],
    ['exact', 'turned', 'turned-deltas'],
  ])('engine %s over %s finds what it finds over %s', async (engine, adapters, deltas) => {
    const options = [...modes, '--device', device, '--engine', engine];
    const [found, expected] = [
      await run(`${device}-${engine}-${adapters}`, at(adapters), ...options),
      await run(`${device}-${engine}-${deltas}`, at(deltas), ...options),
    ];
    // With --engine exact also whole adapters, under `*`.
    expect(worstDifference(await spectra(found), await spectra(expected))).toBeLessThan(1e-6);
    // Energies, norms and mean entries too.
    for (const [file, columns] of [
      ['energies', ['norm2', 'e_0', 'e_1']],
      ['model_slots', ['raw_norm2']],
      ['subspaces', ['total', 'total_uncentred']],
    ] as const) {
      const [own, others] = [await table(found, file), await table(expected, file)];
      expect(own).toHaveLength(others.length);
      const largest = Math.max(...others.map((row) => Number(row[columns[0]])));
      for (const [i, row] of others.entries())
        for (const column of columns)
          expect(Math.abs(Number(own[i]![column]) - Number(row[column])) / largest).toBeLessThan(5e-6);
    }
  });

  it('a gauge of condition 1,000 changes no spectrum', async () => {
    const normal = normals(23);
    const rank = 4;
    // H diag(d) H with a reflection H: of condition 1,000, and its inverse.
    const v = random(rank, normal);
    const norm2 = v.reduce((sum, x) => sum + x * x, 0);
    const reflect = (i: number, j: number): number => (i === j ? 1 : 0) - (2 * v[i]! * v[j]!) / norm2;
    const gauge = (sign: number): number[][] =>
      Array.from({ length: rank }, (_, i) =>
        Array.from({ length: rank }, (_, j) =>
          [0, 1, 2, 3].reduce((sum, l) => sum + reflect(i, l) * 10 ** (sign * (l - 1.5)) * reflect(l, j), 0),
        ),
      );
    const [m, inverse] = [gauge(1), gauge(-1)];
    for (let model = 0; model < 8; model++) {
      const a = Float64Array.from(random(rank * 20, normal));
      const b = Float64Array.from(random(30 * rank, normal));
      const ma = a.map((_, i) => m[Math.floor(i / 20)]!.reduce((sum, x, l) => sum + x * a[l * 20 + (i % 20)]!, 0));
      const bm = b.map((_, i) => inverse.reduce((sum, row, l) => sum + b[i - (i % rank) + l]! * row[i % rank]!, 0));
      for (const [set, left, right] of [
        ['plain', a, b],
        ['gauged', ma, bm],
      ] as const)
        writeAdapter(
          at(`${set}-${device}`, name(model)),
          { r: rank },
          factorTensors({ path: 'x', rank, a: left, b: right }),
        );
    }
    const options = [...modes, '--device', device, '--engine', 'exact'];
    const [plain, gauged] = [
      await run(`${device}-plain`, at(`plain-${device}`), ...options),
      await run(`${device}-gauged`, at(`gauged-${device}`), ...options),
    ];
    expect(worstDifference(await spectra(gauged), await spectra(plain))).toBeLessThan(1e-6);
  });

  const enough = ['--memory', '4GiB'];
  const little = ['--memory', '9MiB'];
  const fold = ['--rank', '3', '--block', '4', '--threads', '2', '--device', device];

  it.each(['incremental', 'exact'])(
    'engine %s: a slot too large for the memory gives the same tables',
    async (engine) => {
      const normal = normals(31);
      const source = at(`large-${device}-${engine}`);
      for (let model = 0; model < 11; model++) {
        const rank = 2 + (model % 3);
        const a = random(rank * 600, normal);
        const b = random(500 * rank, normal);
        writeAdapter(
          join(source, name(model)),
          { r: rank, lora_alpha: 2 },
          factorTensors({ path: 'wide', rank, a, b }),
        );
      }
      // By their factors adapters need no such files.
      const options = [...fold, '--engine', engine, ...(engine === 'exact' ? ['--basis', 'dense'] : [])];
      const { stdout } = await runCli(['plan', source, ...options, ...little, '--json', '--no-probe']);
      const plan = JSON.parse(stdout);
      expect(plan.groups[0].tiles_at_once).toBeGreaterThan(0);
      expect(plan.groups[0].tiles_at_once).toBeLessThan(19);
      const [large, small] = [
        await run(`${device}-${engine}-large`, source, ...options, ...enough),
        await run(`${device}-${engine}-small`, source, ...options, ...little),
      ];
      expect(tableDigests(at(small))).toEqual(tableDigests(at(large)));
    },
    240_000,
  );
});

describe('tables', () => {
  it('say what adapters are, and the rank and scale of each module', async () => {
    const out = await run('told', at('adapters'), '--rank', '4');
    const models = await table(out, 'models');
    expect(models.map(({ kind, base_model }) => [kind, base_model])).toEqual(
      Array.from({ length: MODELS }, () => ['adapter', base]),
    );
    const slots = await table(out, 'slots');
    expect(slots.map(({ name, rows, cols, status }) => [name, Number(rows), Number(cols), status])).toEqual([
      ['conv', 8, 75, 'used'],
      ['embed', 50, 16, 'used'],
      ['layers.0.q', 30, 40, 'used'],
      ['layers.0.up', 36, 24, 'used'],
      ['head.weight', 0, 0, 'left-out'],
    ]);
    expect(slots.at(-1)!.reason).toMatch(/modules_to_save/);
    const up = slots.find((slot) => slot.name === 'layers.0.up')!.slot_id;
    const told = (await table(out, 'model_slots')).filter((row) => row.slot_id === up);
    expect(told.slice(0, 3).map((row) => [Number(row.lora_rank), row.lora_scale])).toEqual([
      [2, 8],
      [3, 8 / Math.sqrt(3)],
      [5, 0.5],
    ]);
    expect(JSON.parse(readFileSync(at(out, 'run.json'), 'utf8'))).toMatchObject({ shift: 'zero' });
  });

  it('--lora factors looks at A and B as they are, and warns', async () => {
    const out = await run('factors', at('turned'), '--lora', 'factors', '--on-mismatch', 'skip-model', '--rank', '4');
    const used = (await table(out, 'slots')).filter(({ status }) => status === 'used');
    expect(used.map(({ name, rows, cols, models }) => [name, Number(rows), Number(cols), Number(models)])).toEqual([
      ['layers.0.q.lora_A', 4, 40, 6],
      ['layers.0.q.lora_B', 30, 4, 6],
    ]);
    const [warning] = (await table(out, 'warnings')).filter(({ code }) => code === 'lora-factors');
    expect(warning!.text).toMatch(/depend on the seed/);
    expect((await table('told', 'warnings')).filter(({ code }) => code === 'lora-factors')).toEqual([]);
  });
});

describe('families', () => {
  beforeAll(() => {
    for (const [set, other] of [
      ['other', 'someone/else [v2]'],
      ['unnamed', null],
    ] as const)
      for (const model of ['m00', 'm03']) {
        const path = at(set, `${set}-${model}`, 'adapter_config.json');
        cpSync(at('adapters', model), join(path, '..'), { recursive: true });
        writeFileSync(
          path,
          JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), base_model_name_or_path: other }),
        );
      }
  });

  /** The options that a message gives to be copied, as a shell would take them. */
  const filtersIn = (stderr: string): string[] =>
    [...stderr.matchAll(/--family (?:'([^']*)'|(\S+))$/gm)].map(([, quoted, plain]) => quoted ?? plain!);

  it('adapters and checkpoints are not mixed; each filter of the message takes one family', async () => {
    const sources = [at('adapters'), at('deltas')];
    const { code, stderr } = await failed(...sources, '--on-bad-source', 'skip');
    expect(code).toBe(64);
    expect(stderr).toMatch(/found 2 families of models, expected one/);
    expect(stderr).toMatch(/9 adapters of org\/base \(\S+m00, …\): --family/);
    expect(stderr).toMatch(/9 checkpoints \(\S+m00, …\): --family checkpoint/);
    const filters = filtersIn(stderr);
    expect(filters).toEqual(['adapter:org/base', 'checkpoint']);
    for (const [i, kind] of ['adapter', 'checkpoint'].entries()) {
      const out = await run(`family-${kind}`, ...sources, '--family', filters[i]!, '--rank', '2', '--no-basis');
      const models = await table(out, 'models');
      expect(models.filter(({ status }) => status === 'used').map((model) => model.kind)).toEqual(
        new Array(9).fill(kind),
      );
      const skipped = models.filter(({ status }) => status === 'skipped');
      expect(skipped).toHaveLength(9);
      expect(skipped[0]!.reason).toMatch(/which --family leaves out/);
      expect(skipped[0]!.kind).not.toBe(kind);
    }
    expect((await failed(...sources, '--family', '**')).code).toBe(64);
  });

  it('nor adapters of different bases, unless they are asked for together', async () => {
    const sources = [at('adapters'), at('other'), at('unnamed')];
    const { code, stderr } = await failed(...sources);
    expect(code).toBe(64);
    const filters = filtersIn(stderr);
    expect(filters).toEqual(['adapter:org/base', 'adapter:someone/else \\[v2\\]', 'adapter:']);
    expect(stderr).toMatch(/2 adapters of a base that is not named/);
    const counts: number[] = [];
    for (const [i, chosen] of [filters.slice(1, 2), filters.slice(2), filters.slice(0, 2), ['adapter:**']].entries()) {
      const options = chosen.flatMap((family) => ['--family', family]);
      const out = await run(`bases-${i}`, ...sources, ...options, '--rank', '2', '--no-basis');
      counts.push((await table(out, 'models')).filter(({ status }) => status === 'used').length);
    }
    expect(counts).toEqual([2, 2, 11, 13]);
  });

  it('a filter that matches nothing names the families', async () => {
    const { code, stderr } = await failed(at('adapters'), '--family', 'adapter:org/*se2');
    expect(code).toBe(64);
    expect(stderr).toMatch(/family: .*adapter:org\/\*se2, which none matches; there are --family adapter:org\/base/);
  });

  it('adapters have their origin: no --base', async () => {
    for (const path of [at('adapters', 'm00'), at('deltas', 'm00.safetensors')]) {
      const { code, stderr } = await failed(at('adapters'), '--base', path);
      expect([code, stderr]).toEqual([64, expect.stringMatching(/base: .*leave --base out/)]);
    }
  });
});

describe('bad adapters', () => {
  it('P5 shapes that do not match leave the slot out, or the model', async () => {
    const source = at('shapes');
    const normal = normals(41);
    for (let model = 0; model < 5; model++) {
      const cols = model === 4 ? 12 : 10;
      const other = { path: 'y', rank: 8, a: random(80, normal), b: random(48, normal) };
      const own = { path: 'x', rank: 8, a: random(8 * cols, normal), b: random(56, normal) };
      writeAdapter(join(source, name(model)), {}, [...factorTensors(own), ...factorTensors(other)]);
    }
    const [, x] = await table(await run('p5', source, '--rank', '2'), 'slots');
    expect(x).toMatchObject({
      name: 'x',
      status: 'left-out',
      reason: expect.stringMatching(/shape \[7, 10\] in 4 .*shape \[7, 12\] in 1/),
    });
    const models = await table(await run('p5-skip', source, '--rank', '2', '--on-mismatch', 'skip-model'), 'models');
    expect(models.map(({ status }) => status)).toEqual(['used', 'used', 'used', 'used', 'skipped']);
    expect((await failed(source, '--on-mismatch', 'error')).code).toBe(65);
  });

  it('P6, P7 what is refused ends the run, or is skipped with its reason', async () => {
    const source = at('refused');
    cpSync(at('adapters'), source, { recursive: true });
    const config = (model: string, change: Record<string, unknown>): void => {
      const path = join(source, model, 'adapter_config.json');
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }));
    };
    config('m01', { use_dora: true });
    config('m02', { init_lora_weights: 'pissa' });
    config('m03', { lora_alpha: 'NaN' });
    config('m04', { rank_pattern: { '(?=x)': 2 } });
    rmSync(join(source, 'm05/adapter_model.safetensors'));
    writeFileSync(join(source, 'm05/adapter_model.bin'), 'x');
    rmSync(join(source, 'm06/adapter_config.json'));
    const { code, stderr } = await failed(source);
    expect(code).toBe(65);
    expect(stderr).toMatch(/found /);
    const out = await run('refused-run', source, '--on-bad-source', 'skip', '--rank', '2');
    const models = await table(out, 'models');
    expect(
      models.map(({ name, status, reason }) => [name, status, String(reason).match(/\[([\w-]+)\]$/)?.[1] ?? null]),
    ).toEqual([
      ['m00', 'used', null],
      ['m01', 'skipped', 'dora'],
      ['m02', 'skipped', 'init'],
      ['m03', 'skipped', 'number'],
      ['m04', 'skipped', 'pattern'],
      ['m06', 'skipped', 'config-missing'],
      ['m07', 'used', null],
      ['m08', 'used', null],
      ['m05', 'skipped', 'pickle'],
    ]);
  });

  /** `value` in place of the first number of a tensor. */
  const poison = (path: string, tensor: string, value: number): void => {
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
    bytes.writeFloatLE(value, 8 + length + header[tensor].data_offsets[0]);
    writeFileSync(path, bytes);
  };

  it.each(['incremental', 'exact'])('a NaN in a factor, engine %s: that model is out of that slot', async (engine) => {
    const source = at(`nan-${engine}`);
    cpSync(at('turned'), source, { recursive: true });
    const up = 'base_model.model.layers.0.up.lora_B.weight';
    poison(join(source, 'm04/adapter_model.safetensors'), up, Number.NaN);
    poison(join(source, 'm05/adapter_model.safetensors'), up.replace('_B', '_A'), 1e30);
    const options = [...modes, '--engine', engine];
    for (const more of [[], ['--verify']]) {
      const { code, stderr } = await failed(source, ...options, ...more);
      expect([code, stderr]).toEqual([
        65,
        expect.stringMatching(
          /m04\/adapter_model\.safetensors: tensor base_model\S+up\.lora_B\.weight: entry 0 is NaN/,
        ),
      ]);
    }
    const out = await run(`nan-${engine}-run`, source, ...options, '--on-bad-source', 'skip');
    const slots = (await table(out, 'slots')).map(({ slot_id, name }) => [slot_id, name] as const);
    const id = slots.find(([, slot]) => slot === 'layers.0.up')![0];
    const rows = await table(out, 'model_slots');
    const skipped = rows.filter(({ status }) => status === 'skipped');
    expect(skipped.map(({ slot_id, model_id }) => [slot_id, model_id])).toEqual([
      [id, 4],
      [id, 5],
    ]);
    expect(skipped.map(({ reason }) => String(reason))).toEqual([
      expect.stringMatching(/up\.lora_B\.weight: entry 0 is NaN/),
      expect.stringMatching(/up\.lora_A\.weight: entry 0 is 1/),
    ]);
    // The slot is what it is without these models.
    const without = at(`without-${engine}`);
    for (const model of readdirSync(source).filter((entry) => entry !== 'm04' && entry !== 'm05'))
      cpSync(join(source, model), join(without, model), { recursive: true });
    const others = await spectra(await run(`without-${engine}-run`, without, ...options));
    const own = (all: Map<string, number[]>) => new Map([...all].filter(([key]) => key.startsWith('layers.0.up ')));
    expect(worstDifference(own(await spectra(out)), own(others))).toBeLessThan(1e-6);
  });

  it('factors whose product is too large, and a file that was cut off', async () => {
    const source = at('large-product');
    const normal = normals(51);
    for (let model = 0; model < 4; model++) {
      const size = model === 2 ? 1e10 : 1;
      const a = random(16, normal).map((value) => value * size);
      const b = random(16, normal).map((value) => value * size);
      writeAdapter(join(source, name(model)), { r: 4 }, factorTensors({ path: 'x', rank: 4, a, b }));
    }
    expect((await failed(source)).stderr).toMatch(
      /m02\S+: tensor \S+lora_B\.weight: found scale · B·A as large as .*1e17/,
    );
    truncateSync(join(source, 'm02/adapter_model.safetensors'), 700);
    expect((await failed(source)).code).toBe(65);
    const models = await table(await run('cut', source, '--on-bad-source', 'skip', '--rank', '2'), 'models');
    expect(models.map(({ status }) => status)).toEqual(['used', 'used', 'skipped', 'used']);
  });

  it('--verify reads the factors and the config whole, and gives their sha256', async () => {
    const models = await table(await run('verified', at('turned'), '--verify', '--rank', '2'), 'models');
    expect(new Set(models.map(({ content_sha256 }) => content_sha256)).size).toBe(MODELS);
  });
});

describe('a run over adapters that goes on', () => {
  const options = ['--rank', '3', '--block', '2', '--device', 'tfjs'];

  it('extend folds more, as if they had been there; equal adapters are left out', async () => {
    const whole = await run('whole', at('turned'), ...options);
    const first = at('first');
    for (const model of ['m00', 'm01', 'm02', 'm03'])
      cpSync(at('turned', model), join(first, model), { recursive: true });
    const out = await run('extended', first, ...options);
    const { code, stderr } = await runCli(['extend', at(out), at('turned')]);
    expect(code, stderr).toBe(0);
    const [own, expected] = [await spectra(out), await spectra(whole)];
    expect(worstDifference(own, expected)).toBeLessThan(1e-6);
    const { stderr: mixed } = await runCli(['extend', at(out), at('deltas')]);
    expect(mixed).toMatch(/found 2 families/);
  }, 240_000);

  it('resume leaves the bytes of a run that was not stopped, and sees that a config has changed', async () => {
    const source = at('many');
    const normal = normals(61);
    for (let model = 0; model < 60; model++) {
      const modules = ['a', 'b'].map((path) => ({
        path,
        rank: 8,
        a: random(8 * 150, normal),
        b: random(8 * 140, normal),
      }));
      writeAdapter(join(source, `m${model}`), {}, modules.flatMap(factorTensors));
    }
    const whole = await run('many-whole', source, ...options);
    const { child, ended, seen } = startCli([
      'run',
      source,
      '--out',
      at('stopped'),
      ...options,
      '--checkpoint-every',
      '2',
      '--json',
    ]);
    await seen('stdout', '"checkpoint":4');
    child.kill('SIGTERM');
    expect((await ended).code).toBe(75);
    cpSync(at('stopped'), at('changed'), { recursive: true });
    const { code, stderr } = await runCli(['resume', at('stopped')]);
    expect(code, stderr).toBe(0);
    expect(tableDigests(at('stopped'))).toEqual(tableDigests(at(whole)));
    const path = join(source, 'm59/adapter_config.json');
    writeFileSync(path, readFileSync(path, 'utf8').replace('}', ',"lora_alpha":9}'));
    const changed = await runCli(['resume', at('changed')]);
    expect([changed.code, changed.stderr]).toEqual([65, expect.stringMatching(/m59: its files have changed/)]);
  }, 240_000);
});
