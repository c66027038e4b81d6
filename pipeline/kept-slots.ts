// Whether a finished run kept what more models can be folded into: the state of each of its slots, once.
import { displayName } from '../sources/display-name.ts';
import type { Begin } from './begin.ts';
import type { RunContent } from './checkpoints.ts';

/** Slots that a problem names. */
const NAMED = 5;

/** What is wrong with the states that a run kept in mode models; null where all of them are there. */
export const keptProblem = (
  { slots }: Pick<Begin, 'slots'>,
  { kept }: { readonly kept: readonly Pick<RunContent['kept'][number], 'first' | 'slots'>[] },
): string | null => {
  if (kept.length === 0) return 'its state was not kept (--drop-state)';
  const times = slots.map(() => 0);
  for (const { first, slots: count } of kept) for (let id = first; id < first + count; id++) times[id]!++;
  const wrong = times.flatMap((count, id) =>
    count === 1 ? [] : [`${displayName(slots[id]!.name)} ${count === 0 ? 'is missing' : `is there ${count} times`}`],
  );
  if (wrong.length === 0) return null;
  const more = wrong.length > NAMED ? ` and ${wrong.length - NAMED} more` : '';
  return `its state was not kept as a whole: ${wrong.slice(0, NAMED).join(', ')}${more}`;
};
