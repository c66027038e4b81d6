// A curve chart by uPlot that follows its box, the colour scheme and new data. Series differ by colour and by dash, so that
// they can be told apart without colours; what is under the cursor is read from the legend.
import uPlot from 'uplot';
import { element } from './dom.ts';

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
        value: (_: uPlot, value: number | null) => digits(value),
        points: { show: isPlain !== true && this.#data!.x.length < 40, size: 5, fill: stroke },
        spanGaps: true,
      });
      if (band === undefined) continue;
      const edge = {
        stroke: 'transparent',
        width: 0,
        points: { show: false },
        value: (_: uPlot, v: number | null) => digits(v),
      };
      lines.push({ ...edge, label: `${label}, at most` }, { ...edge, label: `${label}, at least` });
      bands.push({ series: [lines.length - 1, lines.length], fill: color(`--band-${tone}`) });
    }
    this.#plot = new uPlot(
      {
        width: this.#width(),
        height: HEIGHT,
        series: [{ label: xLabel, value: (_: uPlot, value: number | null) => digits(value) }, ...lines],
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
        legend: { live: true },
      },
      this.#rows(),
      this.box,
    );
  }
}
