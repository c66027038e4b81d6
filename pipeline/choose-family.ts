// Which models belong together. A LoRA adapter is a change of its base, so adapters of different bases, or adapters and full
// weights, have nothing to be compared by: a run folds one family, and says how to choose it where it finds several.
import { ConfigInvalid } from '../configs/errors.ts';
import { formatPlural } from '../sinks/human-format.ts';
import { displayName, displayPath } from '../sources/display-name.ts';
import { globMatcher } from '../sources/glob.ts';
import type { ModelHeader } from '../sources/model.ts';
import type { PlannedModel } from '../sources/reading-plan.ts';
import { quoted } from './quoted.ts';

/** `checkpoint`, or `adapter:` and its base as the adapter names it. */
export const familyOf = ({ adapter }: ModelHeader): string =>
  adapter === undefined ? 'checkpoint' : `adapter:${adapter.baseModel ?? ''}`;

const FAMILIES_SHOWN = 8;

/**
 * The models that `--family` lets in, all of them where it says nothing.
 * @returns why the others are out
 * @throws ConfigInvalid where those that are in are of several families: adapters and checkpoints, or, unless `--family` takes
 *   them together, adapters of several bases
 */
export const chooseFamily = <M extends PlannedModel>(
  models: readonly M[],
  globs: readonly string[],
): ReadonlyMap<M, string> => {
  const out = new Map<M, string>();
  const matchers = globs.map(globMatcher);
  const families = new Map<string, M[]>();
  for (const model of models) {
    const family = familyOf(model.header);
    if (matchers.length > 0 && !matchers.some((matches) => matches(family))) {
      out.set(model, `of the family ${displayName(family)}, which --family leaves out`);
      continue;
    }
    const known = families.get(family);
    if (known === undefined) families.set(family, [model]);
    else known.push(model);
  }
  if (families.size === 0 && models.length > 0) {
    const all = [...new Set(models.map(({ header }) => familyOf(header)))].map(filterOf);
    const shown = all.slice(0, FAMILIES_SHOWN).join(', ');
    throw new ConfigInvalid({
      issues: [
        `family: expected a glob of families, found ${globs.map((glob) => displayName(glob)).join(', ')}, which none matches; there are ${shown}`,
      ],
    });
  }
  const kinds = new Set([...families.keys()].map((family) => family === 'checkpoint'));
  if (kinds.size > 1 || (families.size > 1 && globs.length === 0)) throw mixed(families, kinds.size > 1);
  return out;
};

const mixed = (families: ReadonlyMap<string, readonly PlannedModel[]>, kinds: boolean): ConfigInvalid => {
  const sorted = [...families].sort((a, b) => b[1].length - a[1].length);
  const lines = sorted.slice(0, FAMILIES_SHOWN).map(([family, models]) => {
    const what = family === 'checkpoint' ? 'checkpoint' : 'adapter';
    const base = family === 'checkpoint' ? '' : ` of ${baseOf(family)}`;
    return `${formatPlural(models.length, what)}${base} (${displayName(models[0]!.name)}${models.length > 1 ? ', …' : ''}): ${filterOf(family)}`;
  });
  const more = sorted.length > FAMILIES_SHOWN ? [`and ${sorted.length - FAMILIES_SHOWN} more`] : [];
  const advice = kinds ? '' : '; names of one and the same base may be given together';
  return new ConfigInvalid({
    issues: [
      `sources: found ${families.size} families of models, expected one; give the filter of one${advice}`,
      ...lines.map((line) => `sources: ${line}`),
      ...more.map((line) => `sources: ${line}`),
    ],
  });
};

const baseOf = (family: string): string => {
  const base = family.slice('adapter:'.length);
  return base === '' ? 'a base that is not named' : displayName(base);
};

/** The option that takes this family alone, to be copied. */
const filterOf = (family: string): string => displayPath(`--family ${quoted(family.replace(/[*?[\]{}\\]/g, '\\$&'))}`);
