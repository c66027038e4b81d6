// Pictures as inline SVG, for a file that is opened without a network. Colours are the style sheet's, by class, so that they
// follow light and dark; curves differ by dash as well.
import { safe, safeName } from './html.ts';

type Values = readonly (number | null)[];

export interface Curve {
  readonly label: string;
  /** Class `t0` to `t5` of the style sheet. */
  readonly tone: number;
  readonly values: Values;
  readonly band?: { readonly low: Values; readonly high: Values };
  /** Of many: thin and pale, and not in the legend. */
  readonly isOneOfMany?: boolean;
}

export interface CurveChart {
  /** What the picture is, for who cannot see it. */
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly x: readonly number[];
  readonly curves: readonly (Curve & { readonly x?: readonly number[] })[];
  readonly yRange: readonly [number, number];
}

const WIDTH = 420;
const HEIGHT = 230;
const BOX = { left: 46, right: 410, top: 12, bottom: 190 };
/** A chart is 364 units wide; of many curves the run of all is what is seen. */
const MOST_POINTS = 180;
const MOST_OF_MANY = 60;

/** Evenly chosen, the first and the last among them. */
const thinned = <A>(points: readonly A[], most: number): readonly A[] =>
  points.length <= most
    ? points
    : Array.from({ length: most }, (_, i) => points[Math.round((i * (points.length - 1)) / (most - 1))]!);

const short = (value: number): string => String(Number(value.toPrecision(3)));
const at = (value: number): string => value.toFixed(1).replace(/\.0$/, '');

/** About `count` round numbers between two. */
export const ticks = (low: number, high: number, count: number): readonly number[] => {
  const raw = (high - low) / count;
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= raw * 0.99)!;
  const found: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
};

const extent = (values: readonly number[], [least, most]: readonly [number, number]): readonly [number, number] => {
  let [low, high] = [least, most];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high === low ? low + 1 : high];
};

const known = (values: Values): number[] =>
  values.filter((value) => value !== null && Number.isFinite(value)) as number[];

export function curveChart({ title, xLabel, yLabel, x, curves, yRange }: CurveChart): string {
  const xs = [...x, ...curves.flatMap((curve) => curve.x ?? [])];
  if (xs.length === 0) return '<p class="note">Nothing to draw.</p>';
  const first = xs.reduce((a, b) => Math.min(a, b));
  const [left, right] = extent(xs, [first, first]);
  const [low, high] = extent(
    curves.flatMap(({ values, band }) => [...known(values), ...known(band?.high ?? [])]),
    yRange,
  );
  const toX = (value: number): number => BOX.left + ((value - left) / (right - left)) * (BOX.right - BOX.left);
  const toY = (value: number): number => BOX.bottom - ((value - low) / (high - low)) * (BOX.bottom - BOX.top);
  const parts: string[] = [];
  for (const tick of ticks(low, high, 5))
    parts.push(
      `<line class="grid" x1="${BOX.left}" x2="${BOX.right}" y1="${at(toY(tick))}" y2="${at(toY(tick))}"/><text x="${BOX.left - 6}" y="${at(toY(tick) + 4)}" text-anchor="end">${short(tick)}</text>`,
    );
  for (const tick of ticks(left, right, 6).filter(Number.isInteger))
    parts.push(`<text x="${at(toX(tick))}" y="${BOX.bottom + 16}" text-anchor="middle">${short(tick)}</text>`);
  parts.push(
    `<text x="${(BOX.left + BOX.right) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${safe(xLabel)}</text>`,
    `<text transform="translate(11 ${(BOX.top + BOX.bottom) / 2}) rotate(-90)" text-anchor="middle">${safe(yLabel)}</text>`,
  );
  for (const { values, tone, band, isOneOfMany, x: own } of curves) {
    const place = own ?? x;
    if (band !== undefined) parts.push(bandOf(place, band, tone, toX, toY));
    const points = thinned(
      values.flatMap((value, i) => (value === null ? [] : [`${at(toX(place[i]!))},${at(toY(value))}`])),
      isOneOfMany === true ? MOST_OF_MANY : MOST_POINTS,
    );
    if (points.length === 1) {
      const [cx, cy] = points[0]!.split(',');
      parts.push(`<circle class="dot t${tone}" cx="${cx}" cy="${cy}" r="3"/>`);
    } else if (points.length > 0)
      parts.push(`<polyline class="${isOneOfMany === true ? 'many ' : ''}t${tone}" points="${points.join(' ')}"/>`);
  }
  const named = curves.filter(({ isOneOfMany }) => isOneOfMany !== true);
  const legend = named
    .map(
      ({ label, tone }) =>
        `<span><svg class="key" viewBox="0 0 26 8" aria-hidden="true"><line class="t${tone}" x1="0" x2="26" y1="4" y2="4"/></svg>${safe(label)}</span>`,
    )
    .join(' ');
  return `<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${safe(title)}">${parts.join('')}</svg><p class="legend">${legend}</p>`;
}

const bandOf = (
  x: readonly number[],
  { low, high }: NonNullable<Curve['band']>,
  tone: number,
  toX: (value: number) => number,
  toY: (value: number) => number,
): string => {
  const edge = (values: Values): string[] =>
    values.flatMap((value, i) => (value === null ? [] : [`${at(toX(x[i]!))},${at(toY(value))}`]));
  return `<polygon class="band b${tone}" points="${[...edge(high), ...edge(low).reverse()].join(' ')}"/>`;
};

export interface ScatterPoint {
  readonly name: string;
  readonly x: number;
  readonly y: number;
}

/** One scale for both axes: coordinates are distances. */
export function scatterChart(title: string, xLabel: string, yLabel: string, points: readonly ScatterPoint[]): string {
  const reach = (values: readonly number[], half: number): number =>
    half / (values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1);
  const [cx, cy] = [WIDTH / 2, 115];
  const scale = Math.min(
    reach(
      points.map(({ x }) => x),
      185,
    ),
    reach(
      points.map(({ y }) => y),
      95,
    ),
  );
  const circles = points.map(
    ({ name, x, y }) =>
      `<circle class="dot t0" cx="${at(cx + x * scale)}" cy="${at(cy - y * scale)}" r="4"><title>${safeName(name)}</title></circle>`,
  );
  return `<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${safe(title)}"><line class="grid" x1="10" x2="410" y1="${cy}" y2="${cy}"/><line class="grid" x1="${cx}" x2="${cx}" y1="8" y2="222"/><text x="410" y="${cy - 6}" text-anchor="end">${safe(xLabel)} →</text><text x="${cx + 6}" y="16">${safe(yLabel)} ↑</text>${circles.join('')}</svg>`;
}
