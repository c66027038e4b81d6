// What `weightspan compare` says on a terminal: a line a slot, the chance level beside the overlap, and what did not match.
import type { Comparison } from '../pipeline/compare-runs.ts';
import { degrees, largestAngle, meanAngle } from '../pipeline/compare-runs.ts';
import { formatPlural } from './human-format.ts';
import { shortenNames } from './short-names.ts';
import { displayWidth, escapeControls, padEnd, padStart, painter } from './terminal-text.ts';

const GAP = '  ';
/** Slots named below the table. */
const NAMED = 10;
const SHORTEST_NAME = 16;
/** Degrees; what lies below is the rounding of float32 files. */
const LEAST_ANGLE = 0.0001;

export const renderComparison = (
  { mode, runs, slots, unmatched }: Comparison,
  { columns, color }: { readonly columns: number; readonly color: boolean },
): string[] => {
  const paint = painter(color);
  const fixed = (value: number, digits = 3): string => value.toFixed(digits);
  const angle = (radians: number): string => {
    const value = degrees(radians);
    return value < LEAST_ANGLE ? `<${LEAST_ANGLE}°` : `${value.toPrecision(3)}°`;
  };
  const titles = ['shape', 'k', 'overlap', 'chance', '± 3 sd', 'angle max', 'mean', 'Grassmann', 'chordal'];
  const cells = slots.map((slot) => [
    slot.rows === 1 ? `${slot.cols}` : `${slot.rows}×${slot.cols}`,
    slot.ranks[0] === slot.ranks[1] ? `${slot.ranks[0]}` : `${slot.ranks[0]}, ${slot.ranks[1]}`,
    fixed(slot.overlap),
    slot.chance.mean.toPrecision(3),
    (3 * slot.chance.deviation).toPrecision(2),
    angle(largestAngle(slot)),
    angle(meanAngle(slot)),
    fixed(slot.grassmann),
    fixed(slot.chordal),
  ]);
  const widths = titles.map((title, i) => Math.max(displayWidth(title), ...cells.map((row) => displayWidth(row[i]!))));
  const room = columns - widths.reduce((sum, width) => sum + width + GAP.length, 0);
  const names = slots.map(({ slot }) => escapeControls(slot));
  const short = shortenNames(names, Math.max(SHORTEST_NAME, room));
  const longest = short.reduce((most, name) => Math.max(most, displayWidth(name)), 4);
  const line = (name: string, row: readonly string[]): string =>
    [padEnd(name, longest), ...row.map((cell, i) => padStart(cell, widths[i]!))].join(GAP);
  // Beyond what independent subspaces show: worth a look.
  const isMore = (i: number): boolean => slots[i]!.overlap > slots[i]!.chance.high;
  return [
    `${paint('bold', formatPlural(slots.length, 'slot'))} in mode ${mode}: ${runs.map(({ run }) => escapeControls(run)).join(' and ')}`,
    '',
    paint('dim', line('slot', titles)),
    ...short.map((name, i) => (isMore(i) ? paint('green', line(name, cells[i]!)) : line(name, cells[i]!))),
    '',
    paint('dim', 'overlap: mean squared cosine of the principal angles, 1 for one and the same subspace'),
    paint('dim', 'chance: its mean for independent subspaces of these dimensions, k_a k_b / D over the smaller k'),
    ...(unmatched.length === 0
      ? []
      : [
          '',
          paint('bold', `${formatPlural(unmatched.length, 'slot')} not compared`),
          ...unmatched
            .slice(0, NAMED)
            .map(({ slot, reason }) => `  ${escapeControls(slot)}: ${escapeControls(reason)}`),
          ...(unmatched.length > NAMED ? [`  and ${unmatched.length - NAMED} more`] : []),
        ]),
  ];
};
