// What a cell can show: each metric with its words, its number as text, and where it stands between the ends of its colours.
// Colours are one hue from pale to deep, so that they read the same in every kind of colour vision, and the number is
// always in the cell as well.
import type { SlotView } from './run-view.ts';

export type MetricName = 'evr_k' | 'evr_1' | 'drift' | 'captured' | 'components_90' | 'mean_only';

export interface Metric {
  readonly name: MetricName;
  readonly title: string;
  readonly explanation: string;
  readonly ends: readonly [string, string];
  readonly valueOf: (slot: SlotView) => number | null;
  readonly format: (slot: SlotView) => string;
  /** 0 to 1; null where there is nothing to show. */
  readonly position: (slot: SlotView) => number | null;
}

const share = (value: number | null): string => (value === null ? '–' : value.toFixed(2).replace(/^0(?=\.)/, ''));
const clamp = (value: number): number => Math.min(1, Math.max(0, value));

/** EVR of all directions that are kept: at k, or where there are fewer, of those. */
export const evrOfKept = ({ evr_k, rank, scree }: SlotView): number | null =>
  evr_k ?? (rank > 0 && rank <= scree.length ? scree.reduce((sum, part) => sum + part, 0) : null);

const shareMetric = (
  name: 'evr_k' | 'evr_1' | 'captured' | 'mean_only',
  title: string,
  explanation: string,
  read: (slot: SlotView) => number | null = (slot) => slot[name],
): Metric => ({
  name,
  title,
  explanation,
  ends: ['0', '1'],
  valueOf: read,
  format: (slot) => share(read(slot)),
  position: (slot) => {
    const value = read(slot);
    return value === null ? null : clamp(value);
  },
});

export const metrics: readonly Metric[] = [
  shareMetric(
    'evr_k',
    'EVR at k',
    'share of the variance in the first k directions (in all there are, where fewer); compare it with the flat line',
    evrOfKept,
  ),
  shareMetric('evr_1', 'EVR at 1', 'share of the variance in the first direction'),
  {
    name: 'drift',
    title: 'drift',
    explanation: 'largest principal angle of the first 4 directions against the block before, in degrees',
    ends: ['0°', '90°'],
    valueOf: ({ drift }) => drift,
    format: ({ drift }) => (drift === null ? '–' : drift < 9.95 ? `${drift.toFixed(1)}°` : `${drift.toFixed(0)}°`),
    position: ({ drift }) => (drift === null ? null : clamp(Math.sqrt(drift / 90))),
  },
  shareMetric(
    'captured',
    'captured',
    "share of new models' distance from the mean that lay in the subspace before them",
  ),
  {
    name: 'components_90',
    title: 'components for 90%',
    explanation: 'directions that explain 90% of the variance; > means more than were kept',
    ends: ['1', 'k'],
    valueOf: ({ components_90, models, rank }) => components_90 ?? (models > 0 && rank > 0 ? rank + 1 : null),
    format: ({ components_90, models, rank }) =>
      components_90 !== null ? String(components_90) : models > 0 && rank > 0 ? `>${rank}` : '–',
    position: ({ components_90, models, rank }) =>
      models === 0 || rank === 0 ? null : components_90 === null ? 1 : clamp(components_90 / (rank + 1)),
  },
  shareMetric('mean_only', 'mean only', 'share of the sum of squares that the mean alone accounts for'),
];

/** Steps of the colour ramp; style sheets have one class for each, `q0` to `q8`. */
export const RAMP_STEPS = 9;

export const rampStep = (position: number): number => Math.min(RAMP_STEPS - 1, Math.floor(position * RAMP_STEPS));
