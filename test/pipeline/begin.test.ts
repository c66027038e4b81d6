// What a run goes on with, from what it wrote down: also from what an earlier version did, which kept the chosen engine alone.
import { expect, it } from 'vitest';
import { type Begin, configAsked } from '../../pipeline/begin.ts';

it.each([
  ['auto', { engine: 'exact', engineReason: null, engineAsked: 'auto' }],
  ['exact', { engine: 'exact', engineReason: null, engineAsked: 'exact' }],
  ['auto', { engine: 'incremental', engineReason: 'costs less than exact' }],
  ['randomized', { engine: 'randomized', engineReason: null }],
] as const)('goes on as asked for: %s of %o', (asked, { engine, ...rest }) => {
  const begin = { config: { engine, rank: 3 }, ...rest } as unknown as Begin;
  expect(configAsked(begin)).toEqual({ engine: asked, rank: 3 });
});
