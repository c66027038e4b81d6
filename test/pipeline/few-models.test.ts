// When a run is so small that its spectra could not come out otherwise.
import { expect, it } from 'vitest';
import { fewModels } from '../../pipeline/few-models.ts';
import type { Plan } from '../../pipeline/plan.ts';

const said = (models: number, rank: number, center = true, mode = ['models']): string | null =>
  fewModels({ config: { mode, rank, center }, models: Array(models) } as unknown as Plan);

it.each([
  ['one model', said(1, 8), /^there is one model/],
  ['as many directions as are asked for', said(9, 8), /^9 models have 8 directions at most, .* a --rank below 8 /],
  ['uncentred, one direction more', said(8, 8, false), /^8 models have 8 directions at most/],
  ['two models', said(2, 8), /^2 models have 1 direction at most/],
])('says so of %s', (_, text, expected) => expect(text).toMatch(expected));

it.each([
  ['one model more than that', said(10, 8)],
  ['uncentred', said(9, 8, false)],
  ['other modes', said(3, 8, true, ['rows', 'cols'])],
])('says nothing of %s', (_, text) => expect(text).toBeNull());
