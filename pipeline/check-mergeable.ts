// May some runs be merged into one? Everything that stands against it, at once, with the names and what can be done.
import type { DeviceInfo } from '../operators/devices/device.ts';
import { isFollowed, sideOf } from '../operators/mode-scatter.ts';
import { displayName } from '../sources/display-name.ts';
import { type Begin, deviceDifference } from './begin.ts';
import type { RunContent } from './checkpoints.ts';
import { largestSideOf, sideModesOf } from './choose-engine.ts';
import { keptProblem } from './kept-slots.ts';

export interface RunToMerge {
  /** As it was called. */
  readonly run: string;
  readonly begin: Begin;
  readonly content: RunContent;
}

/** Models or slots that a problem names. */
const NAMED = 5;

const named = (names: readonly string[]): string => {
  const more = names.length - NAMED;
  return `${names
    .slice(0, NAMED)
    .map((name) => displayName(name))
    .join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
};

/**
 * @param here the device that would multiply; null where a difference was allowed (`--allow-inexact`)
 * @returns nothing where they may
 */
export const findMergeProblems = (runs: readonly RunToMerge[], here: DeviceInfo | null): readonly string[] => [
  ...runs.flatMap((run) => ownProblems(run).map((problem) => `${run.run}: ${problem}`)),
  ...runs.slice(1).flatMap((run) => differences(runs[0]!, run).map((problem) => `${run.run}: ${problem}`)),
  ...overlaps(runs),
  ...(here === null ? [] : deviceProblems(runs, here)),
];

/** What a run lacks by itself. */
const ownProblems = ({ begin, content }: RunToMerge): readonly string[] => {
  const { config, slots, listed } = begin;
  const { engine, mode, passes } = config;
  const sides = mode.filter((name) => name !== 'models').join(' and ');
  if (listed.some(({ location }) => location.layout === 'adapter'))
    return [
      'it is over LoRA adapters, of which a state does not tell who shares a start; fold all of them in one run, or add to ' +
        'one with: weightspan extend',
    ];
  if (!mode.includes('models'))
    return [
      `it has only the modes ${mode.join(' and ')}, which read for themselves and leave no scatter matrices behind; ` +
        'merge runs that have mode models too and share the pass (--mode models,rows,cols), or run once over all models',
    ];
  if (engine === 'exact')
    return [
      'engine exact keeps no state that could be merged: the inner products of its models with those of another run need ' +
        'the weights; read all of them again with: weightspan run SOURCES --engine exact --out RUN',
    ];
  if (engine === 'randomized' && passes === 2)
    return ['it had two passes (--passes 2), which leave no state that could be merged; run it again with one'];
  const problem = keptProblem(begin, content);
  if (problem !== null) return [`${problem}; run it again, without --drop-state`];
  const wide = slots.filter((slot) =>
    sideModesOf(config).some((name) => isFollowed(sideOf(name, slot), { largestSide: largestSideOf(config) })),
  );
  if (wide.length > 0)
    return [
      `its modes ${sides} followed sides that are too wide for a scatter matrix (${named(wide.map(({ name }) => name))}), ` +
        'and those cannot be merged; run it again without these modes or slots',
    ];
  if (sides !== '' && content.kept.some((saved) => saved.sides === null))
    return [
      `its modes ${sides} did not share the pass of mode models, and left no scatter matrices behind; run it again with ` +
        'more --memory (weightspan plan says whether they share), or without these modes',
    ];
  return [];
};

/** What sets a run apart from the first. */
const differences = (first: RunToMerge, { begin }: RunToMerge): readonly string[] => {
  const other = first.begin;
  const problems: string[] = [];
  const differ = (what: string, found: unknown, expected: unknown): void => {
    if (JSON.stringify(found) !== JSON.stringify(expected))
      problems.push(`${what} ${shown(found)}, expected ${shown(expected)} as in ${first.run}`);
  };
  for (const key of ['engine', 'mode', 'rank', 'center', 'rename'] as const)
    differ(key, begin.config[key], other.config[key]);
  // Their signs are drawn from it.
  if (other.config.engine === 'randomized') differ('seed', begin.config.seed, other.config.seed);
  const baseOf = ({ base }: Begin): string =>
    base === null ? 'none' : `${displayName(base.location.name)} (fingerprint ${base.fingerprint.slice(0, 12)})`;
  const slotsOf = ({ slots }: Begin): string => slots.map(({ name }) => name).join('\n');
  // Fingerprints are of the slots' pages, so those of other slots say nothing of each other.
  const areComparable = begin.base === null || other.base === null || slotsOf(begin) === slotsOf(other);
  if (areComparable && (begin.base?.fingerprint ?? null) !== (other.base?.fingerprint ?? null))
    problems.push(`base ${baseOf(begin)}, expected ${baseOf(other)} as in ${first.run}`);
  const known = new Map(other.slots.map((slot) => [slot.name, slot]));
  const own = new Map(begin.slots.map((slot) => [slot.name, slot]));
  const foreign = begin.slots.filter(({ name }) => !known.has(name)).map(({ name }) => name);
  const missing = other.slots.filter(({ name }) => !own.has(name)).map(({ name }) => name);
  if (foreign.length > 0) problems.push(`slots that are not in ${first.run}: ${named(foreign)}`);
  if (missing.length > 0) problems.push(`without slots that are in ${first.run}: ${named(missing)}`);
  for (const { name, rows, cols } of begin.slots) {
    const there = known.get(name);
    if (there !== undefined && (there.rows !== rows || there.cols !== cols))
      problems.push(
        `slot ${displayName(name)}: ${rows} x ${cols}, expected ${there.rows} x ${there.cols} as in ${first.run}`,
      );
  }
  return problems;
};

const shown = (value: unknown): string =>
  Array.isArray(value) ? (value.length === 0 ? 'none' : value.map(shown).join(', ')) : displayName(textOf(value));

const textOf = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value));

/** Models that are in more than one run. */
const overlaps = (runs: readonly RunToMerge[]): readonly string[] => {
  const first = new Map<string, string>();
  const shared = new Map<string, string[]>();
  for (const { run, begin } of runs) {
    const names = new Map(begin.listed.map(({ id, location }) => [id, location.name]));
    for (const { id, fingerprint } of begin.used) {
      const where = first.get(fingerprint);
      if (where === undefined) first.set(fingerprint, run);
      else if (where !== run) {
        const key = `${run}: models that are in ${where} too`;
        shared.set(key, [...(shared.get(key) ?? []), names.get(id)!]);
      }
    }
  }
  return [...shared].map(
    ([what, names]) => `${what}, by fingerprint: ${named(names)}; a model counts once, so merge runs over others`,
  );
};

const deviceProblems = (runs: readonly RunToMerge[], here: DeviceInfo): readonly string[] =>
  runs.flatMap(({ run, begin }) => {
    const difference = deviceDifference(begin.device, here);
    if (difference === null) return [];
    return [`${run}: device: ${difference}; give --allow-inexact to merge all the same, whose last bits may differ`];
  });
