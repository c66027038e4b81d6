// Which models are told apart, by a slot or by their contents, on numbers made by hand.
import { describe, expect, it } from 'vitest';
import type { Subspace } from '../../operators/subspace.ts';
import { emptySubspace, type SubspaceState } from '../../operators/subspace-state.ts';
import type { ModelInPlan } from '../../pipeline/plan.ts';
import { alikeInPages, alikeInSlot, duplicatesOf, sameModelFindings } from '../../pipeline/same-models.ts';
import type { SlotModels } from '../../pipeline/slot-results.ts';

const model = (id: number, pages = '') => ({ id, name: `m${id}`, pages }) as unknown as ModelInPlan;

const subspace = (change: Partial<SubspaceState> = {}): Subspace => {
  const state = { ...emptySubspace, models: 6, total: 10, totalUncentred: 20, largestNorm2: 4, ...change };
  const eigenvalues = Float64Array.of(6, 4);
  const spec = { features: 100, rank: 2, center: true, shiftIsOrigin: false };
  return { state: { ...state, eigenvalues }, spec, rank: 2, slot: { id: 0, name: 's' } } as unknown as Subspace;
};

/** Six models that are equal in all that is measured, but for what is given. */
const measured = (change: Partial<Record<'rawNorm2' | 'meanEntry' | 'norm2' | 'coordinates', number[]>> = {}) => {
  const of = (key: keyof typeof change, width = 1) => Float64Array.from(change[key] ?? new Array(6 * width).fill(1));
  return {
    ...{ modelIds: Int32Array.from({ length: 6 }, (_, i) => i), rawNorm2: of('rawNorm2'), meanEntry: of('meanEntry') },
    ...{ norm2: of('norm2'), coordinates: of('coordinates', 2), captured2: new Float64Array(6) },
  } satisfies SlotModels;
};

it('candidates share all pages', () => {
  expect(alikeInPages(['x', 'y', 'x', 'z', 'y', 'x'].map((pages, id) => model(id, pages)))).toEqual([
    [0, 2, 5],
    [1, 4],
  ]);
  expect(alikeInPages([model(0, 'x'), model(1, 'y')])).toEqual([]);
});

describe('a slot tells apart', () => {
  const all = [[0, 1, 2, 3, 4, 5]];
  const rounding = [1, 1 + 1e-6, 1, 1 - 1e-6, 1, 1];
  const halves = [
    [0, 2, 4],
    [1, 3, 5],
  ];
  const other = [1, 2, 1, 2, 1, 2];
  it.each([
    ['nothing where all is equal', {}, {}, all],
    ['nothing by rounding', {}, { rawNorm2: rounding, norm2: rounding }, all],
    ['by norms', {}, { rawNorm2: other }, halves],
    ['by mean entries', {}, { meanEntry: other }, halves],
    ['by distances', {}, { norm2: other }, halves],
    ['by coordinates', {}, { coordinates: [1, 0, 1, 3, 1, 0, 1, 3, 1, 0, 1, 3] }, halves],
    ['not by distances where truncation blurs them', { lost: 1 }, { norm2: other }, all],
    ['by norms also there', { lost: 1 }, { rawNorm2: other }, halves],
    ['not by the distances of a frozen slot', { total: 1e-20 }, { norm2: other }, all],
    [
      'two by two',
      {},
      { rawNorm2: [1, 2, 3, 1, 2, 4] },
      [
        [0, 3],
        [1, 4],
      ],
    ],
    ['all', {}, { rawNorm2: [1, 2, 3, 4, 5, 6] }, []],
  ] as const)('%s', (_, state, models, expected) => {
    const changed = models as unknown as Parameters<typeof measured>[0];
    expect(alikeInSlot(all, subspace(state), measured(changed))).toEqual(expected);
  });

  it('only those that were alike, and models that it has', () => {
    expect(
      alikeInSlot(
        [
          [0, 1],
          [2, 3],
        ],
        subspace(),
        measured(),
      ),
    ).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect(
      alikeInSlot(
        [
          [0, 1, 9],
          [2, 7],
        ],
        subspace(),
        measured(),
      ),
    ).toEqual([[0, 1]]);
    expect(alikeInSlot([], subspace(), measured())).toEqual([]);
  });
});

it('what contents prove is not said twice', () => {
  const models = [0, 1, 2, 3, 4].map((id) => model(id));
  const duplicates = duplicatesOf(
    models,
    new Map([
      [0, 'a'],
      [1, 'b'],
      [2, 'a'],
      [3, 'c'],
      [4, 'a'],
    ]),
  );
  expect([...duplicates]).toEqual([
    [2, 0],
    [4, 0],
  ]);
  const found = sameModelFindings(duplicates, [[0, 2, 3, 4]], new Map(), (id) => models[id]!);
  expect(found.map(({ code, modelId, value }) => [code, modelId, value])).toEqual([
    ['identical-models', 2, 0],
    ['identical-models', 4, 0],
    ['indistinguishable-models', 3, 0],
  ]);
  expect(sameModelFindings(duplicates, [[0, 2, 4]], new Map(), (id) => models[id]!)).toHaveLength(2);
});
