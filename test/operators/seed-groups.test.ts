// Shared starts, found from sketches of raw A factors. A start is uniform noise, as PEFT draws it; training adds something of
// about its size, so that two adapters of one start keep a cosine near 0.5 (0.42 to 0.75 in really trained ones).
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AdapterSketch, addModule, emptySketch, SKETCH_SIZE } from '../../operators/adapter-sketch.ts';
import { ConnectedComponents } from '../../operators/linalg/connected-components.ts';
import { seedGroups } from '../../operators/seed-groups.ts';
import { normals } from './planted.ts';

const MODULES = ['0.query', '0.value', '1.query', '1.value', '2.query', '2.value'];

/** An A a module, r x 64, of one start. */
const startOf = (seed: number, rank: number): Float32Array[] => {
  const normal = normals(seed);
  return MODULES.map(() => Float32Array.from({ length: rank * 64 }, () => normal()));
};

/** What training makes of a start: it moves by `moved` of the start's norm. */
const sketchOf = (start: readonly Float32Array[], rank: number, seed: number, moved = 0.9): AdapterSketch => {
  const normal = normals(seed);
  return MODULES.reduce(
    (sketch, module, m) =>
      addModule(
        sketch,
        module,
        start[m]!.map((value) => value + moved * normal()),
        rank,
      ),
    emptySketch,
  );
};

/** Adapters of rank 4; those with the same number share a start, null stands alone. */
const streamOf = (starts: readonly (number | null)[], seed: number): AdapterSketch[] =>
  starts.map((start, i) =>
    sketchOf(startOf(start ?? 100_000 * seed + 7919 * i + 13, 4), 4, 31 * seed + 104_729 * i + 1),
  );

const membersOf = (starts: readonly (number | null)[]): number[][] =>
  [...new Set(starts)]
    .filter((start) => start !== null)
    .map((start) => starts.flatMap((other, i) => (other === start ? [i] : [])))
    .filter((members) => members.length > 1);

const alone = (count: number): null[] => Array(count).fill(null);

describe('the sketch of an adapter', () => {
  const a = (seed: number, length = 4096): Float32Array => {
    const normal = normals(seed);
    return Float32Array.from({ length }, () => normal());
  };
  const cosine = (s: AdapterSketch, t: AdapterSketch): number => {
    const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
    return dot(s.sums, t.sums) / Math.sqrt(dot(s.sums, s.sums) * dot(t.sums, t.sums));
  };

  it('keeps norms and cosines up to its own noise', () => {
    const x = a(1, 65_536);
    const y = a(2, 65_536).map((value, i) => 0.6 * x[i]! + 0.8 * value);
    const [s, t] = [x, y].map((values) => addModule(emptySketch, 'm', values, 16));
    // 1 / sqrt(2,048) = 0.022 a deviation; four of them.
    expect(Math.abs(cosine(s!, t!) - 0.6)).toBeLessThan(0.09);
    expect(Math.abs(s!.sums.reduce((sum, value) => sum + value * value, 0) / 65_536 - 1)).toBeLessThan(0.13);
    // Every number of it is used, and signs are even.
    expect(s!.sums.filter((value) => value !== 0).length).toBe(SKETCH_SIZE);
    const ones = addModule(emptySketch, 'm', new Float32Array(65_536).fill(1), 16);
    expect(Math.abs(ones.sums.reduce((sum, value) => sum + value, 0))).toBeLessThan(4 * 256);
  });

  it('knows modules apart, and does not mind their order', () => {
    const [x, y] = [a(1), a(2)];
    const one = addModule(addModule(emptySketch, 'q', x, 4), 'v', y, 4);
    const other = addModule(addModule(emptySketch, 'v', y, 4), 'q', x, 4);
    expect(other.signature).toBe(one.signature);
    expect(cosine(one, other)).toBeCloseTo(1, 6);
    const swapped = addModule(addModule(emptySketch, 'q', y, 4), 'v', x, 4);
    expect(Math.abs(cosine(one, swapped))).toBeLessThan(0.12);
  });

  it.each([
    ['rank', () => addModule(emptySketch, 'q', a(1), 8)],
    ['module', () => addModule(emptySketch, 'v', a(1), 4)],
    ['number of modules', () => addModule(addModule(emptySketch, 'q', a(1), 4), 'v', a(2), 4)],
    ['width', () => addModule(emptySketch, 'q', a(1, 2048), 4)],
  ])('has another signature where the %s differs', (_, make) => {
    expect(make().signature).not.toBe(addModule(emptySketch, 'q', a(1), 4).signature);
  });

  it('is never changed, and takes nothing that is no number', () => {
    const before = addModule(emptySketch, 'q', a(1), 4);
    const copy = before.sums.slice();
    addModule(before, 'v', a(2), 4);
    expect(before.sums).toEqual(copy);
    expect(emptySketch.sums.every((value) => value === 0)).toBe(true);
    expect(() => addModule(before, 'v', Float32Array.of(1, Number.NaN), 1)).toThrow(/v: .*not finite/);
    expect(() => addModule(before, 'v', new Float32Array(6), 4)).toThrow(/v: expected an A of rank 4, found 6/);
    expect(() => addModule(before, 'v', new Float32Array(0), 0)).toThrow(RangeError);
  });
});

describe('seed groups', () => {
  it.each<[string, readonly (number | null)[]]>([
    ['none', alone(40)],
    ['two fifths share one start', [...Array<number>(20).fill(1), ...alone(30)]],
    ['one pair', [...alone(10), 1, ...alone(10), 1, ...alone(5)]],
    ['four fifths share one start', [...Array<number>(40).fill(1), ...alone(10)]],
    ['two equal halves', Array.from({ length: 40 }, (_, i) => 1 + (i % 2))],
    ['seven groups of different sizes', Array.from({ length: 60 }, (_, i) => Math.floor(Math.sqrt(i)))],
    ['all share one start', Array<number>(30).fill(1)],
    ['two models', [1, 1]],
    ['one model', [null]],
    ['no model', []],
  ])('are those that were planted: %s', (_, starts) => {
    const { groups, pairs, threshold } = seedGroups(streamOf(starts, 3));
    expect(groups).toEqual(membersOf(starts));
    expect(pairs).toBe(starts.reduce<number>((sum, _start, i) => sum + i, 0));
    expect(threshold).toBe(0.3);
  });

  it('are found where one start was drawn at two ranks: each rank is another draw', () => {
    const start = startOf(5, 8);
    const shorter = start.map((a) => a.slice(0, 4 * 64));
    const sketches = [0, 1, 2, 3].map((i) => (i % 2 === 0 ? sketchOf(start, 8, 50 + i) : sketchOf(shorter, 4, 50 + i)));
    const { groups, pairs } = seedGroups(sketches);
    expect(groups).toEqual([
      [0, 2],
      [1, 3],
    ]);
    expect(pairs).toBe(2);
  });

  it('are never found among independent adapters, over 100 seeds', () => {
    for (let seed = 1; seed <= 100; seed++) expect(seedGroups(streamOf(alone(40), seed)).groups).toEqual([]);
  });

  it('need more than the noise of factors so small that independent ones look alike', () => {
    // 12 numbers: cosines of independent starts reach 0.9.
    const normal = normals(4);
    const tiny = Array.from({ length: 60 }, () =>
      addModule(
        emptySketch,
        'q',
        Float32Array.from({ length: 12 }, () => normal()),
        2,
      ),
    );
    const { groups, threshold } = seedGroups(tiny);
    expect(threshold).toBeGreaterThan(0.9);
    expect(groups).toEqual([]);
  });

  it('leave out adapters without any module, and those whose A is zero', () => {
    const zero = addModule(emptySketch, 'q', new Float32Array(64), 1);
    expect(seedGroups([emptySketch, zero, emptySketch, zero])).toEqual({ groups: [], threshold: 0.3, pairs: 0 });
  });
});

it('components are those of plain label propagation', () => {
  const graph = fc
    .integer({ min: 1, max: 30 })
    .chain((nodes) =>
      fc.tuple(fc.constant(nodes), fc.array(fc.tuple(fc.nat(nodes - 1), fc.nat(nodes - 1)), { maxLength: 40 })),
    );
  fc.assert(
    fc.property(graph, ([nodes, edges]) => {
      const components = new ConnectedComponents(nodes);
      for (const [a, b] of edges) components.join(a, b);
      const label = Array.from({ length: nodes }, (_, i) => i);
      for (let round = 0; round < nodes; round++)
        for (const [a, b] of edges) label[a] = label[b] = Math.min(label[a]!, label[b]!);
      expect(Array.from({ length: nodes }, (_, i) => components.firstOf(i))).toEqual(label);
    }),
  );
});
