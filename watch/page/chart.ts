// A curve chart by uPlot that follows its box, the colour scheme and new data. Series differ by colour and by dash, so that
// they can be told apart without colours; what is under the cursor stands in a box beside it.
import uPlot from 'uplot';
import { type Attributes, element } from './dom.ts';

export interface Series {
  readonly label: string;
  /** Which of the six series colours; `band` edges have none of their own. */
  readonly tone: 0 | 1 | 2 | 3 | 4 | 5;
  readonly values: readonly (number | null)[];
  /** The band between two other rows of values. */
  readonly band?: { readonly low: readonly (number | null)[]; readonly high: readonly (number | null)[] };
  /** A line to compare with: no points on it. */
  readonly isPlain?: boolean;
}

export interface ChartData {
  readonly xLabel: string;
  readonly yLabel: string;
  readonly x: readonly number[];
  readonly series: readonly Series[];
  /** Least range of the y axis. */
  readonly yRange: readonly [number, number];
  readonly isLog?: boolean;
}

const DASHES: readonly (readonly number[])[] = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2], [1, 4]];
const HEIGHT = 230;
/** Components and models are counted. */
const WHOLE_STEPS = Array.from({ length: 8 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();

const color = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const digits = (value: number | null): string =>
  value === null || value === undefined
    ? '–'
    : Math.abs(value) >= 100
      ? value.toFixed(0)
      : String(Number(value.toPrecision(3)));

export class Chart {
  readonly box: HTMLElement;
  #plot: uPlot | null = null;
  #data: ChartData | null = null;
  #shape = '';
  readonly #watch: ResizeObserver;
  readonly #scheme = matchMedia('(prefers-color-scheme: dark)');
  readonly #onScheme = (): void => this.#make();

  constructor(name: string) {
    this.box = element('div', { class: 'chart', 'data-chart': name });
    this.#watch = new ResizeObserver(() => {
      if (this.#plot === null) this.#make();
      else this.#plot.setSize({ width: this.#width(), height: HEIGHT });
    });
    this.#watch.observe(this.box);
    this.#scheme.addEventListener('change', this.#onScheme);
  }

  show(data: ChartData): void {
    this.#data = data;
    this.box.dataset.points = String(data.x.length);
    const shape = JSON.stringify([data.series.map(({ label, band }) => [label, band !== undefined]), data.isLog]);
    if (this.#plot === null || shape !== this.#shape) {
      this.#shape = shape;
      this.#make();
    } else this.#plot.setData(this.#rows());
  }

  close(): void {
    this.#watch.disconnect();
    this.#scheme.removeEventListener('change', this.#onScheme);
    this.#plot?.destroy();
  }

  #width(): number {
    return Math.max(200, this.box.clientWidth);
  }

  #rows(): uPlot.AlignedData {
    const { x, series } = this.#data!;
    return [
      [...x],
      ...series.flatMap(({ values, band }) =>
        band === undefined ? [[...values]] : [[...values], [...band.high], [...band.low]],
      ),
    ] as uPlot.AlignedData;
  }

  #make(): void {
    if (this.#data === null || this.box.clientWidth === 0) return;
    this.#plot?.destroy();
    this.box.replaceChildren();
    const { series, xLabel, yLabel, yRange, isLog } = this.#data;
    const axis = {
      stroke: color('--muted'),
      grid: { stroke: color('--line'), width: 1 },
      ticks: { stroke: color('--line'), width: 1 },
      font: '12px system-ui, sans-serif',
      labelFont: '12px system-ui, sans-serif',
      labelSize: 18,
    };
    const lines: uPlot.Series[] = [];
    const bands: uPlot.Band[] = [];
    for (const { label, tone, band, isPlain } of series) {
      const stroke = color(`--series-${tone}`);
      lines.push({
        label,
        stroke,
        width: 2,
        dash: [...DASHES[tone]!],
        points: { show: isPlain !== true && this.#data!.x.length < 40, size: 5, fill: stroke },
        spanGaps: true,
      });
      if (band === undefined) continue;
      const edge = { stroke: 'transparent', width: 0, points: { show: false } };
      lines.push({ ...edge, label: `${label}, at most` }, { ...edge, label: `${label}, at least` });
      bands.push({ series: [lines.length - 1, lines.length], fill: color(`--band-${tone}`) });
    }
    const readout = element('div', { class: 'readout', hidden: '' });
    this.#plot = new uPlot(
      {
        width: this.#width(),
        height: HEIGHT,
        series: [{ label: xLabel }, ...lines],
        bands,
        scales: {
          x: { time: false },
          y:
            isLog === true
              ? { distr: 3, range: (_, low, high) => [Math.max(low / 1.5, 1e-6), Math.max(high * 1.5, 1e-5)] }
              : {
                  range: (_, low, high) => {
                    const least = Math.min(yRange[0], low ?? yRange[0]);
                    const most = Math.max(yRange[1], high ?? yRange[1]);
                    return [least, most === least ? least + 1 : most];
                  },
                },
        },
        axes: [
          { ...axis, label: xLabel, size: 30, incrs: WHOLE_STEPS },
          { ...axis, label: yLabel, size: 56 },
        ],
        cursor: { drag: { x: false, y: false } },
        legend: { show: false },
        hooks: { init: [(plot) => void plot.over.append(readout)], setCursor: [(plot) => showReadout(plot, readout)] },
      },
      this.#rows(),
      this.box,
    );
    this.box.append(element('p', { class: 'keys' }, ...series.map(({ label, tone }) => keyOf(label, tone))));
  }
}

/** A piece of the line as it is drawn, with its dashes, and what it is. */
const keyOf = (label: string, tone: Series['tone']): HTMLElement => {
  const svg = (name: string, attributes: Attributes): SVGElement => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    return made;
  };
  const picture = svg('svg', { class: `key t${tone}`, viewBox: '0 0 28 8', 'aria-hidden': 'true' });
  picture.append(svg('line', { x1: 0, x2: 28, y1: 4, y2: 4, 'stroke-dasharray': DASHES[tone]!.join(' ') }));
  return element('span', {}, picture, label);
};

/** What stands at the cursor's place along x, on the side of the cursor where there is room. */
const showReadout = ({ cursor, series, data, over }: uPlot, readout: HTMLElement): void => {
  const { idx, left } = cursor;
  const isShown = idx != null && left !== undefined && left >= 0;
  readout.hidden = !isShown;
  if (!isShown) return;
  readout.replaceChildren(
    ...series.flatMap(({ label, show }, i) => {
      const value = data[i]?.[idx] ?? null;
      return show === false || (value === null && i > 0)
        ? []
        : [element('div', {}, `${String(label)}: `, element('strong', {}, digits(value)))];
    }),
  );
  const isRight = left > over.clientWidth / 2;
  readout.style.left = isRight ? 'auto' : `${left + 12}px`;
  readout.style.right = isRight ? `${over.clientWidth - left + 12}px` : 'auto';
};
