// From headers to slots: what is shared, what is left out and why, which models go, and how slots are grouped.
import { describe, expect, it } from 'vitest';
import { ConfigInvalid } from '../../configs/errors.ts';
import { chooseSlots } from '../../pipeline/choose-slots.ts';
import { groupMemory, groupSlots, solversAtOnce } from '../../pipeline/memory-plan.ts';
import { shuffled } from '../../pipeline/shuffle.ts';
import { compareNatural, matrixShape } from '../../pipeline/slot-shape.ts';
import { SourceMalformed } from '../../sources/errors.ts';
import type { TensorEntry } from '../../sources/model.ts';
import { takesAdvice } from '../../sources/page-cache.ts';
import type { PlannedModel, PlannedSlot } from '../../sources/reading-plan.ts';
import { memoryNeeds } from './memory-needs.ts';

type Tensors = Readonly<
  Record<string, readonly number[] | { readonly dtype: string; readonly shape: readonly number[] }>
>;

const model = (name: string, tensors: Tensors, id = 0): PlannedModel => {
  const entries = Object.entries(tensors).map(([tensor, given]): [string, TensorEntry] => {
    const { dtype, shape } = 'shape' in given ? given : { dtype: 'F32', shape: given };
    return [tensor, { name: tensor, dtype, shape, file: 0, offset: 0, byteLength: 0 }];
  });
  const files = [{ path: `zoo/${name}.safetensors`, size: 1, mtimeMs: 1 }];
  return { id, name, header: { files, headerDigests: [''], tensors: new Map(entries) } };
};

const models = (...all: Tensors[]): PlannedModel[] => all.map((tensors, id) => model(`m${id}`, tensors, id));

type Rules = Parameters<typeof chooseSlots>[2];
const choose = (all: readonly PlannedModel[], rules: Partial<Rules> = {}, base: PlannedModel | null = null) =>
  chooseSlots(all, base, { include: [], exclude: [], rename: [], onMismatch: 'skip-slot', ...rules });

const names = (chosen: ReturnType<typeof choose>) => chosen.slots.map(({ name }) => name);
const reasons = (chosen: ReturnType<typeof choose>) =>
  Object.fromEntries(chosen.leftOut.map(({ name, reason }) => [name, reason]));

const caught = (what: () => unknown): Error => {
  try {
    what();
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
};

const common: Tensors = { a: [4, 4], b: [4, 8], c: [8, 4] };

describe('slots that all models share', () => {
  it('are numbered in natural order, with their matrix shape', () => {
    const tensors = { 'l.10.w': [2, 3, 4], 'l.2.w': [1, 17, 64], bias: [8], conv: [64, 3, 7, 7] };
    const chosen = choose(models(tensors, tensors));
    expect(chosen.slots.map(({ id, name, rows, cols, features }) => [id, name, rows, cols, features])).toEqual([
      [0, 'conv', 64, 147, 64 * 147],
      [1, 'l.2.w', 17, 64, 17 * 64],
      [2, 'l.10.w', 6, 4, 24],
    ]);
    expect(chosen.leftOut).toEqual([
      { name: 'bias', shape: [8], dtypes: ['F32'], models: 2, reason: 'fewer than two dims' },
    ]);
    expect(chosen.skipped.size).toBe(0);
  });

  it('may differ in dtype, as long as each is floating', () => {
    const chosen = choose(models({ w: [2, 2] }, { w: { dtype: 'BF16', shape: [2, 2] } }));
    expect(chosen.slots[0]!.dtypes).toEqual(['F32', 'BF16']);
  });

  it('quantised ones are left out by name, and do not count as disagreement', () => {
    const chosen = choose(models({ ...common, q: { dtype: 'I8', shape: [4, 4] } }), { onMismatch: 'error' });
    expect(names(chosen)).toEqual(['a', 'b', 'c']);
    expect(reasons(chosen).q).toMatch(/^dtype I8: not floating weights \(quantised/);
  });

  it('empty ones are left out', () => {
    expect(reasons(choose(models({ ...common, e: [0, 4] }))).e).toBe('no entries');
  });
});

describe('models that disagree', () => {
  const odd = models(common, common, { ...common, b: [9, 9] }, { a: [4, 4], b: [4, 8] }, common);

  it('skip-slot leaves the slots out, and says who disagrees', () => {
    const chosen = choose(odd.slice(0, 3));
    expect(names(chosen)).toEqual(['a', 'c']);
    expect(reasons(chosen)).toEqual({ b: 'shape [4, 8] in 2 (m0, …), shape [9, 9] in 1 (m2)' });
    expect(reasons(choose(odd.filter(({ id }) => id !== 2)))).toEqual({ c: 'missing in 1 of 4 models (m3)' });
  });

  it('a dtype that cannot be read, in some models', () => {
    const chosen = choose(models(common, common, { ...common, b: { dtype: 'I8', shape: [4, 8] } }));
    expect(reasons(chosen)).toEqual({ b: 'shape [4, 8] in 2 (m0, …), dtype I8 in 1 (m2)' });
  });

  it('skip-model leaves the models out', () => {
    const chosen = choose(odd, { onMismatch: 'skip-model' });
    expect(names(chosen)).toEqual(['a', 'b', 'c']);
    expect(chosen.leftOut).toEqual([]);
    expect([...chosen.skipped].map(([{ name }, reason]) => [name, reason])).toEqual([
      ['m2', 'slot b has shape [9, 9], most have shape [4, 8]'],
      ['m3', 'slot c is missing'],
    ]);
  });

  it('skip-model: a slot that only few have goes, not the models', () => {
    const chosen = choose(models(common, common, { ...common, extra: [4, 4] }), { onMismatch: 'skip-model' });
    expect(names(chosen)).toEqual(['a', 'b', 'c']);
    expect(chosen.skipped.size).toBe(0);
    expect(reasons(chosen)).toEqual({ extra: 'missing in 2 of 3 models (m0, …)' });
  });

  it('error stops, and names the file and the tensor', () => {
    const error = caught(() => choose(odd, { onMismatch: 'error' }));
    expect(error).toBeInstanceOf(SourceMalformed);
    expect(error).toMatchObject({ rule: 'mismatch', tensor: 'b', path: 'zoo/m2.safetensors' });
    expect(error.message).toContain('--on-mismatch skip-slot or skip-model');
  });

  it('fewer than half of the slots shared: an error that names the odd models', () => {
    const other = { x: [2, 2], y: [2, 2], z: [2, 2] };
    const error = caught(() => choose(models(common, common, other, common, { ...other, a: [4, 4] })));
    expect(error).toBeInstanceOf(SourceMalformed);
    expect(error).toMatchObject({ rule: 'few-common-slots', path: 'zoo/m2.safetensors' });
    expect(error.message).toContain('only 0 of 6 slots are common to all 5 models: 3 agree (m0, …), 2 differ (m2, m4)');
    expect(error.message).not.toContain('--rename');
  });

  it('names three odd models and counts the others', () => {
    const others = Array.from({ length: 5 }, (_, i) => ({ [`x${i}`]: [2, 2], [`y${i}`]: [2, 2] }));
    const error = caught(() => choose(models(common, common, ...others)));
    expect(error.message).toContain('5 differ (m2, m3, m4 and 2 more)');
  });

  it.each(['model.', 'module.', '_orig_mod.'])('hints at the prefix %s when it alone keeps them apart', (prefix) => {
    const wrapped = Object.fromEntries(Object.entries(common).map(([name, shape]) => [prefix + name, shape]));
    const mixed = models(common, wrapped, common);
    const error = caught(() => choose(mixed));
    expect(error.message).toContain(`without the prefix ${prefix} they would agree: --rename ${prefix}=`);
    const chosen = choose(mixed, { rename: [{ from: prefix, to: '' }] });
    expect(names(chosen)).toEqual(['a', 'b', 'c']);
    expect(mixed.map((m) => chosen.slots[0]!.tensorIn(m).name)).toEqual(['a', `${prefix}a`, 'a']);
  });

  it('a base that lacks a slot, or has another shape', () => {
    const base = model('base', { a: [4, 4], b: [5, 5] });
    const two = models({ ...common, d: [2, 2], e: [2, 2] }, { ...common, d: [2, 2], e: [2, 2] });
    const full = model('base', { a: [4, 4], b: [5, 5], d: [2, 2], e: [2, 2] });
    expect(() => choose(models(common, common), {}, base)).toThrow(
      'base: expected the model that these began at, found one that has 1 of their 3 slots ' +
        '(slot b: shape [5, 5] in the base (base), shape [4, 8] in the models)',
    );
    // Where the models themselves disagree it is not the base's fault.
    const apart = models(
      { ...common, d: [1, 2], e: [1, 2] },
      { ...common, b: [4, 9], c: [3, 3], d: [2, 2], e: [2, 2] },
    );
    expect(() => choose(apart, {}, base)).toThrow('few-common-slots');
    expect(reasons(choose(two, {}, full))).toEqual({
      b: 'shape [5, 5] in the base (base)',
      c: 'missing in the base (base)',
    });
  });
});

describe('include, exclude, rename', () => {
  const two = models(
    { 'l.0.q': [2, 2], 'l.1.q': [2, 2], 'l.1.k': [2, 2], head: [2, 2] },
    { 'l.0.q': [2, 2], 'l.1.q': [2, 2], 'l.1.k': [2, 2], head: [3, 3] },
  );

  it('include, then exclude; what is not asked for is no disagreement', () => {
    const chosen = choose(two, { include: ['*.q', '*.k'], exclude: ['l.0.*'], onMismatch: 'error' });
    expect(names(chosen)).toEqual(['l.1.k', 'l.1.q']);
    expect(reasons(chosen)).toEqual({ head: 'not included', 'l.0.q': 'excluded' });
  });

  it('the first rename that fits holds, and the globs see the new name', () => {
    const rename = [
      { from: 'l.1.', to: 'one.' },
      { from: 'l.', to: 'layer.' },
    ];
    expect(names(choose(two, { rename, exclude: ['head'] }))).toEqual(['layer.0.q', 'one.k', 'one.q']);
    expect(names(choose(two, { rename, include: ['one.*'] }))).toEqual(['one.k', 'one.q']);
  });

  it('a rename only takes the beginning of a name', () => {
    expect(names(choose(two, { rename: [{ from: 'q', to: 'z' }], exclude: ['head'] }))).toContain('l.0.q');
  });

  it('a rename that folds two tensors into one', () => {
    const error = caught(() => choose(two, { rename: [{ from: 'l.1.', to: 'l.0.' }] }));
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect((error as ConfigInvalid).issues).toEqual(['rename: l.0.q and l.1.q of m0 both become l.0.q']);
  });
});

describe('matrixShape', () => {
  it.each<[readonly number[], readonly [number, number] | null]>([
    [[], null],
    [[64], null],
    [
      [64, 32],
      [64, 32],
    ],
    [
      [1, 64],
      [1, 64],
    ],
    [
      [1, 1, 64],
      [1, 64],
    ],
    [
      [1, 17, 64],
      [17, 64],
    ],
    [
      [1, 1, 17, 64],
      [17, 64],
    ],
    [
      [2, 3, 4],
      [6, 4],
    ],
    [
      [1, 2, 3, 4],
      [6, 4],
    ],
    [
      [64, 3, 7, 7],
      [64, 147],
    ],
    [
      [1, 3, 7, 7],
      [21, 7],
    ],
    [
      [2, 3, 4, 5, 6],
      [2, 360],
    ],
    [
      [0, 4],
      [0, 4],
    ],
  ])('%j is %j', (shape, wanted) => {
    expect(matrixShape(shape)).toEqual(wanted === null ? null : { rows: wanted[0], cols: wanted[1] });
  });
});

describe('compareNatural', () => {
  it('numbers as numbers, the rest by code', () => {
    const sorted = ['a', 'layer.2', 'layer.2.b', 'layer.10', 'layer.10.a', 'layer.x', 'z1y2', 'z1y10'];
    expect([...sorted].reverse().sort(compareNatural)).toEqual(sorted);
  });

  it('is an order: opposite when turned round, 0 only for equals', () => {
    const all = ['', '1', '01', '001', 'a', 'a1', 'a01', 'a1b', 'a01b', '10', '9', 'B', 'b'];
    for (const a of all) {
      for (const b of all) {
        expect(Math.sign(compareNatural(a, b)) + Math.sign(compareNatural(b, a)), `${a} ${b}`).toBe(0);
        expect(compareNatural(a, b) === 0, `${a} ${b}`).toBe(a === b);
      }
    }
  });
});

describe('shuffled', () => {
  const items = Array.from({ length: 100 }, (_, i) => i);

  it.each([0, 1, 42, 2 ** 32 - 1])(
    'seed %i: a permutation, the same each time, that leaves its input alone',
    (seed) => {
      const before = [...items];
      const out = shuffled(items, seed);
      expect(items).toEqual(before);
      expect(out).not.toEqual(items);
      expect([...out].sort((a, b) => a - b)).toEqual(items);
      expect(shuffled(items, seed)).toEqual(out);
      expect(shuffled(items, seed + 1)).not.toEqual(out);
    },
  );

  it('stays as it is from version to version', () => {
    expect(shuffled([0, 1, 2, 3, 4, 5, 6, 7], 42)).toEqual([2, 7, 1, 0, 6, 5, 3, 4]);
  });

  it('of none and of one', () => {
    expect([shuffled([], 3), shuffled(['a'], 3)]).toEqual([[], ['a']]);
  });

  it('reaches every place about equally often', () => {
    const counts = new Array<number>(5).fill(0);
    for (let seed = 0; seed < 5000; seed++) counts[shuffled([0, 1, 2, 3, 4], seed).indexOf(0)]!++;
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });
});

describe('groupSlots', () => {
  const tensors = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`layer.${i}.w`, [64 + i, 512]]));
  const zoo = models(...Array.from({ length: 20 }, () => tensors));
  const { slots } = choose(zoo);
  const needs = (memory: number) => ({
    ...memoryNeeds,
    engine: 'incremental' as const,
    models: zoo,
    block: 4,
    rank: 8,
    memory,
    basis: true,
  });
  /** Where the system fetches what it is told will be read. */
  const inFiles: { readonly inFiles?: true } = takesAdvice() ? { inFiles: true } : {};
  const bytes = (slots: readonly PlannedSlot[]): number => {
    const { state, staging, rest } = groupMemory(needs(0), { index: 0, slots });
    return state + staging + rest;
  };
  const all = slots.reduce((sum, slot) => sum + bytes([slot]), 0);
  const largest = Math.max(...slots.map((slot) => bytes([slot])));

  it('with enough memory, one group', () => {
    expect(groupSlots(slots, needs(all))).toEqual([{ index: 0, slots }]);
  });

  it('weights stay in their files, unless a block has too many, or somebody else reads them too', () => {
    // Files that are there, on a disk of this machine.
    const files = [{ path: import.meta.filename, size: 1, mtimeMs: 1 }];
    const many = models(...Array.from({ length: 300 }, () => tensors)).map((model) => ({
      ...model,
      header: { ...model.header, files },
    }));
    const flags = (more: object): readonly (true | undefined)[] => {
      const groups = groupSlots(slots, { ...needs(2 ** 33), models: many, ...more });
      return [...new Set(groups.map(({ inFiles: left }) => left))];
    };
    expect(flags({})).toEqual([inFiles.inFiles]);
    expect(flags({ block: 300 })).toEqual([undefined]);
    expect(flags({ engine: 'exact' })).toEqual([undefined]);
    expect(flags({ engine: 'exact', models: many.slice(0, 20) })).toEqual([inFiles.inFiles]);
    expect(flags({ sides: ['rows'] })).toEqual([undefined]);
    expect(flags({ models: zoo })).toEqual([undefined]);
    // A tile's rows for each of many threads would be more than two blocks of a small slot: those are read as before.
    const small = groupSlots(slots, { ...needs(largest), models: many.slice(0, 20), threads: 64 });
    for (const group of small) {
      const { state, staging, rest } = groupMemory({ ...needs(largest), threads: 64 }, group);
      expect(state + staging + rest).toBeLessThanOrEqual(largest);
    }
  });

  it('left in their files, they take a tile a thread of memory, not two blocks', () => {
    const [staged, left] = [{}, { inFiles: true as const }].map((how) =>
      groupMemory(needs(0), { index: 0, slots, ...how }),
    );
    expect(staged!.staging).toBe(2 * 4 * slots.reduce((sum, { features }) => sum + features * 4, 0));
    expect(left!.staging).toBe(2 * 4 * 16_384 * 4);
    expect(left!.state).toBe(staged!.state);
  });

  it('less memory, more groups; each fits, and all slots come once and in order', () => {
    let before = 0;
    for (const memory of [all, all - 1, all / 2, all / 3, largest]) {
      const groups = groupSlots(slots, needs(memory));
      expect(groups.length).toBeGreaterThanOrEqual(before);
      before = groups.length;
      expect(groups.map(({ index }) => index)).toEqual(groups.map((_, i) => i));
      expect(groups.flatMap((group) => group.slots)).toEqual(slots);
      for (const group of groups) expect(bytes(group.slots)).toBeLessThanOrEqual(memory);
    }
    expect(before).toBe(8);
  });

  it('too little for one slot: an error that names the largest, with the figure that suffices for all', () => {
    const error = caught(() => groupSlots(slots, needs(2 ** 20))) as ConfigInvalid;
    expect(error).toBeInstanceOf(ConfigInvalid);
    expect(error.issues).toHaveLength(1);
    expect(error.message).toMatch(/^memory: slot layer\.7\.w \(71 x 512\) needs .* found 1\.05 MB; /);
    const needed = Number(error.message.match(/--memory (\d+)MiB/)![1]) * 2 ** 20;
    expect(groupSlots(slots, needs(needed)).length).toBeGreaterThan(1);
    expect(() => groupSlots(slots, needs(needed - 2 ** 20))).toThrow(ConfigInvalid);
  });

  describe('of the engine exact, whose weights stay in their files', () => {
    const files = [{ path: import.meta.filename, size: 1, mtimeMs: 1 }];
    const [name, rows, cols, count] = ['w', 1024, 1024, 40];
    const local = models(...Array.from({ length: count }, () => ({ [name]: [rows, cols] }))).map((model) => ({
      ...model,
      header: { ...model.header, files },
    }));
    const { slots: wide } = choose(local);
    const weights = rows * cols * 4 * count;
    const exact = (memory: number, more: object = {}) => ({
      ...needs(memory),
      engine: 'exact' as const,
      models: local,
      ...more,
    });
    const fitting = (memory: number, more: object = {}) => groupSlots(wide, exact(memory, more));

    it.skipIf(inFiles.inFiles === undefined)('a part takes what its weights take, once', () => {
      expect(fitting(weights + 2 ** 27)).toEqual([{ index: 0, slots: wide, inFiles: true }]);
      const [group] = fitting(weights);
      expect(group!.tilesAtOnce).toBe(32);
      // Where others read the same weights they are in memory, one part in use and one being read.
      const [shared] = fitting(weights + 2 ** 27, {
        models: local.map(({ header, ...model }) => ({
          ...model,
          header: { ...header, files: [{ ...files[0]!, path: 'm' }] },
        })),
      });
      expect(shared).toMatchObject({ tilesAtOnce: 32 });
    });

    it('read in place, they take a matrix a thread for all slots, as wide as is read at once, and a buffer as large', () => {
      const group = (of: readonly PlannedSlot[]) => ({ index: 0, slots: of, inFiles: true as const });
      const alone = { inPlace: true, basis: false };
      const { state, staging } = groupMemory(exact(0, alone), group(wide));
      // The spare panel, and (3 + N) rows whose lengths are no powers of two.
      const spare = 2 * (2048 + 16) * 4;
      expect(state).toBe(spare + 2 * (3 + count) * (8192 + 16) * 4);
      expect(staging).toBe(2 * count * 8192 * 4);
      const more = groupMemory(exact(0, { ...alone, models: Array(4).fill(local).flat() }), group(wide));
      expect(more.staging).toBe(2 * 4 * count * 4096 * 4);
      const twice = groupMemory(exact(0, alone), group([...wide, ...wide]));
      expect([twice.state, twice.staging]).toEqual([state + spare, staging]);
      // Slots of a tile each are dealt to all threads.
      const narrow: PlannedSlot = { ...wide[0]!, rows: 20, cols: 100, features: 2000 };
      const small = (of: number) => groupMemory(exact(0, alone), group(Array(of).fill(narrow)));
      expect(small(2).state - small(1).state).toBe((1 + 3 + count) * 2000 * 4);
      expect(small(3).state - small(2).state).toBe(2000 * 4);
      // Not of weights in memory, nor of others than float32.
      const [tile, panel] = [2 * count * 16_384 * 4, spare + 2 * (3 + count) * (2048 + 16) * 4];
      expect(groupMemory(exact(0, { ...alone, inPlace: false }), group(wide))).toMatchObject({
        state: panel,
        staging: tile,
      });
      const [slot] = wide;
      const tensorIn = (model: PlannedModel): TensorEntry =>
        model === local[1] ? { ...slot!.tensorIn(model), dtype: 'BF16' } : slot!.tensorIn(model);
      const mixed = groupMemory(exact(0, alone), group([{ ...slot!, tensorIn }]));
      expect([mixed.state, mixed.staging]).toEqual([panel, tile * 1.5]);
    });

    it.each([
      ['with a basis', {}],
      ['without', { basis: false }],
      ['on a card', { rowBuffers: 2 }],
      ['read in place', { inPlace: true }],
    ])('%s: too little is told with a figure that suffices', (_, more) => {
      const error = caught(() => fitting(2 ** 20, more)) as ConfigInvalid;
      const needed = Number(error.message.match(/--memory (\d+)MiB/)![1]) * 2 ** 20;
      const [group] = fitting(needed, more);
      const { state, staging, rest } = groupMemory(exact(needed, more), group!);
      expect(state + staging + rest).toBeLessThanOrEqual(needed);
    });
  });

  it('of the engine exact, as many prefixes are solved at once as the groups leave room for', () => {
    const exact = (memory: number) => ({ ...needs(memory), engine: 'exact' as const, threads: 4 });
    const memoryWith = (solvers?: number) => {
      const of = groupMemory({ ...exact(0), ...(solvers === undefined ? {} : { solvers }) }, { index: 0, slots });
      return { of, total: of.state + of.staging + of.rest };
    };
    const alone = memoryWith();
    expect(memoryWith(1)).toEqual(alone);
    // N x N float64 numbers, five of them, N = 20.
    const each = memoryWith(2).total - alone.total;
    expect(each).toBe(5 * 20 * 20 * 8);
    for (const [memory, solvers] of [
      [0, 1],
      [alone.total, 1],
      [alone.total + each - 1, 1],
      [alone.total + each, 2],
      [alone.total + 3 * each, 4],
      [2 ** 40, 4],
    ] as const) {
      expect(solversAtOnce(exact(memory), [alone.of])).toBe(solvers);
      if (memory >= alone.total) expect(memoryWith(solvers).total).toBeLessThanOrEqual(memory);
    }
    expect(solversAtOnce(exact(2 ** 40), [])).toBe(1);
    expect(solversAtOnce({ ...exact(2 ** 40), block: 10 }, [alone.of])).toBe(2);
    // The group that leaves least decides.
    expect(solversAtOnce(exact(alone.total + each), [{ state: 0, staging: 0, rest: 0 }, alone.of])).toBe(2);
  });

  it('no slots, no groups', () => {
    expect(groupSlots([], needs(1))).toEqual([]);
  });

  it('does not depend on how many models there are, once a block is full', () => {
    const many = { ...needs(0), models: [...zoo, ...zoo, ...zoo] };
    expect(groupMemory(many, { index: 0, slots })).toEqual(groupMemory(needs(0), { index: 0, slots }));
  });
});
