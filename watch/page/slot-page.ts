// One slot: its spectrum beside the line without structure, how it came to be over the models, and the models in it. What has
// been is asked of the server once; what happens from then on comes with the events.
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import type { RunAnswer, SlotDetail } from '../view/answers.ts';
import { metrics } from '../view/metrics.ts';
import { type SlotView, statusWord } from '../view/run-view.ts';
import { SETTLED_DEGREES, SETTLED_TEXT } from '../view/settled.ts';
import { Chart, type Series } from './chart.ts';
import { breakable, element, setText, shown } from './dom.ts';
import { Scatter } from './scatter.ts';

type Numbers = (number | null)[];

const CUTS = ['1', '4', '16', 'k'] as const;
const MOST_ROWS = 500;
const CURVE_COLUMNS = [
  ['evr_1', 'EVR 1'],
  ['evr_4', 'EVR 4'],
  ['evr_16', 'EVR 16'],
  ['evr_k', 'EVR k'],
  ['drift', 'drift'],
  ['captured', 'captured'],
  ['mean_only', 'mean only'],
] as const;

const share = (value: number | null): string => (value === null ? '–' : value.toFixed(3));

export class SlotPage {
  readonly box = element('section', { class: 'slot-page', 'aria-label': 'slot' });
  readonly index: number;
  readonly #charts = {
    scree: new Chart('scree'),
    cumulative: new Chart('cumulative'),
    evr: new Chart('evr'),
    angles: new Chart('angles'),
    captured: new Chart('captured'),
  };
  readonly #scatter = new Scatter();
  readonly #facts = element('p', { class: 'slot-facts' });
  readonly #warnings = element('ul', { class: 'slot-warnings' });
  readonly #spectrumNote = element('p', { class: 'note' });
  readonly #modelsNote = element('p', { class: 'note' });
  readonly #numbers = element('div', { class: 'numbers' });
  readonly #curvesTable = element('details', { 'data-part': 'curves' });
  #detail: SlotDetail | null = null;
  /** By columns, as far as is known by now. */
  #curves: Record<string, Numbers> = {};
  #slot: SlotView;
  #mode = '';
  /** Blocks that came while the history was on its way. */
  #early: LoggedEvent[] = [];

  constructor(index: number, { view }: RunAnswer) {
    this.index = index;
    this.#slot = view.slots[index]!;
    this.#mode = this.#slot.mode;
    const peers = view.slots.flatMap(({ mode }, i) => (mode === this.#mode ? [i] : []));
    const at = peers.indexOf(index);
    const step = (to: number | undefined, text: string): HTMLElement =>
      to === undefined
        ? element('span', { class: 'step off' }, text)
        : element('a', { class: 'step', href: `#/slot/${to}`, title: shown(view.slots[to]!.name) }, text);
    this.box.append(
      element(
        'nav',
        { 'aria-label': 'slots' },
        element('a', { class: 'step', href: '#/' }, '← all slots'),
        step(peers[at - 1], '‹ previous'),
        step(peers[at + 1], 'next ›'),
      ),
      element('h2', { class: 'slot-name' }, breakable(this.#slot.name)),
      this.#facts,
      this.#warnings,
      element(
        'div',
        { class: 'cards' },
        card(
          'Spectrum',
          this.#charts.scree.box,
          'Share of the variance in each direction. The flat line is what each would have if the models varied alike in all directions.',
          this.#spectrumNote,
        ),
        card(
          'Cumulative',
          this.#charts.cumulative.box,
          'Share in the first directions together, beside the same without any structure. Only what lies well above the flat line is structure.',
        ),
        card(
          'EVR as models arrived',
          this.#charts.evr.box,
          'Falls while new models bring new directions, and becomes level when they do not. With few models it is high for any models.',
        ),
        card(
          'Drift',
          this.#charts.angles.box,
          `Largest principal angle of the leading directions against the block before. Below ${SETTLED_DEGREES}° they hardly turn; near 90° no direction is distinguished.`,
        ),
        card(
          'Captured, mean only',
          this.#charts.captured.box,
          'Captured: how much of the distance of new models from the mean lay in the subspace before they were folded; a model cannot vote for its own direction. Mean only: how much of their size the mean alone accounts for.',
        ),
        card(
          'Models',
          this.#scatter.box,
          'Each point is a model. Clusters may be tasks, or seeds, or who trained them: the picture does not say which.',
          this.#modelsNote,
        ),
      ),
      element('div', { class: 'numbers' }, this.#curvesTable),
      this.#numbers,
    );
    this.#curvesTable.addEventListener('toggle', () => this.#showCurvesTable());
    this.#curvesTable.append(element('summary', {}, 'Curves in numbers'), element('div', {}));
  }

  /** Asks for what has been. May be called again when that has changed. */
  async read(): Promise<void> {
    this.#early = [];
    const response = await fetch(`/api/slot?at=${this.index}`).catch(() => null);
    if (response === null || !response.ok) return;
    const detail = (await response.json()) as SlotDetail;
    this.#detail = detail;
    this.#curves = Object.fromEntries(Object.entries(detail.curves).map(([name, values]) => [name, [...values]]));
    this.#slot = detail.slot;
    for (const event of this.#early) this.#append(event);
    this.#scatter.show(detail.models);
    this.#showNumbers();
    this.update(detail.slot, detail.from === 'tables');
  }

  /** A block that was folded. */
  take(event: LoggedEvent): void {
    if (this.#mode !== 'models') return;
    this.#early.push(event);
    if (this.#early.length > 4096) this.#early.shift();
    if (this.#detail !== null) this.#append(event);
  }

  /** @param isOver the run is finished */
  update(slot: SlotView, isOver: boolean): void {
    const isFromEvents = this.#detail === null || this.#detail.from === 'events';
    this.#slot = slot;
    const of90 = metrics.find(({ name }) => name === 'components_90')!.format(slot);
    const facts = [
      slot.rows === null ? null : `${slot.rows}×${slot.cols}`,
      slot.mode === 'models' ? null : `mode ${slot.mode}`,
      slot.models === 0 ? 'not started' : `${slot.models} models`,
      slot.models === 0 ? null : statusWord(slot, isOver),
      slot.evr_1 === null ? null : `EVR at 1: ${share(slot.evr_1)}`,
      slot.evr_k === null ? null : `at k: ${share(slot.evr_k)}`,
      slot.flat === null ? null : `flat at ${slot.rank}: ${share(slot.flat)}`,
      of90 === '–' ? null : `90% at ${of90}`,
      slot.captured === null ? null : `captured ${share(slot.captured)}`,
      slot.drift === null ? null : `drift ${slot.drift.toFixed(1)}°`,
      slot.exactness === null ? null : `spectrum ${slot.exactness}`,
    ];
    setText(
      this.#facts,
      facts.flatMap((fact) => (fact === null ? [] : [fact.replaceAll(' ', '\u00a0')])).join('\u00a0· '),
    );
    this.#facts.title = SETTLED_TEXT;
    this.#showSpectrum(isFromEvents);
    this.#showCurves();
  }

  close(): void {
    for (const chart of Object.values(this.#charts)) chart.close();
    this.#scatter.close();
  }

  #append(event: LoggedEvent): void {
    if (event.type !== 'block') return;
    const seen = event.slots.find(({ slot }) => slot === this.#slot.name);
    const models = this.#curves.models_seen ?? [];
    if (seen === undefined || (models.at(-1) ?? 0) >= event.modelsSeen) return;
    const { evr_1, evr_4, evr_16, evr_k, drift, captured, mean_only } = seen;
    const point = { models_seen: event.modelsSeen, evr_1, evr_4, evr_16, evr_k, drift, captured, mean_only };
    for (const [name, value] of Object.entries(point)) {
      this.#curves[name] ??= models.map(() => null);
      this.#curves[name].push(value ?? null);
    }
  }

  #showSpectrum(isFromEvents: boolean): void {
    const detail = this.#detail;
    const points =
      isFromEvents || detail === null
        ? this.#slot.scree.map((evr) => ({ evr, low: null, high: null }))
        : detail.spectrum;
    const { flat, rank } = this.#slot;
    const x = points.map((_, i) => i + 1);
    const each = flat === null || rank === 0 ? null : flat / rank;
    let sum = 0;
    const cumulative = points.map(({ evr }) => {
      sum += evr ?? 0;
      return sum;
    });
    const hasBounds = points.some(({ low }) => low !== null);
    const bounds = hasBounds
      ? { band: { low: points.map(({ low }) => low), high: points.map(({ high }) => high) } }
      : {};
    const line = (values: readonly (number | null)[], label: string, tone: Series['tone']): Series => ({
      values,
      label,
      tone,
      isPlain: label === 'flat',
    });
    const flatLine =
      each === null
        ? []
        : [
            line(
              x.map(() => each),
              'flat',
              1,
            ),
          ];
    this.#charts.scree.show({
      xLabel: 'component',
      yLabel: 'share of variance',
      x,
      series: [
        {
          ...line(
            points.map(({ evr }) => evr),
            'EVR',
            0,
          ),
          ...bounds,
        },
        ...flatLine,
      ],
      yRange: [0, 0.05],
    });
    this.#charts.cumulative.show({
      xLabel: 'first components',
      yLabel: 'cumulative EVR',
      x,
      series: [
        line(cumulative, 'cumulative EVR', 0),
        ...(each === null
          ? []
          : [
              line(
                x.map((j) => Math.min(1, j * each)),
                'flat',
                1,
              ),
            ]),
      ],
      yRange: [0, 1],
    });
    const kind = detail?.boundKind;
    const asOf = detail?.from === 'snapshot' ? `As of ${detail.asOf} models. ` : '';
    setText(
      this.#spectrumNote,
      this.#slot.models === 0
        ? 'Nothing yet: no block of this slot has been folded.'
        : hasBounds
          ? kind === 'exact'
            ? 'Exact: nothing but rounding noise was dropped, so the band has no width.'
            : `${asOf}The band encloses each true value (${kind ?? 'bounds'}).`
          : `The first ${points.length} directions so far; bounds come with the finished tables.`,
    );
  }

  /** The newest blocks, while somebody looks at them. */
  #showCurvesTable(): void {
    if (!this.#curvesTable.open) return;
    const curves = this.#curves;
    const rows = (curves.models_seen ?? []).map((models, i) => [
      String(models),
      ...CURVE_COLUMNS.map(([name]) => {
        const value = curves[name]?.[i] ?? null;
        return name === 'drift' ? (value === null ? '–' : `${value.toFixed(1)}°`) : share(value);
      }),
    ]);
    const head = ['models seen', ...CURVE_COLUMNS.map(([, title]) => title)];
    this.#curvesTable.lastElementChild!.replaceWith(
      tableBox(`The last ${Math.min(MOST_ROWS, rows.length)} blocks`, head, rows.slice(-MOST_ROWS)),
    );
  }

  #showCurves(): void {
    this.#showCurvesTable();
    const curves = this.#curves;
    const x = (curves.models_seen ?? []).map((value) => value ?? 0);
    const xLabel = 'models seen';
    const known = (names: readonly (readonly [name: string, label: string])[]): Series[] =>
      names.flatMap(([name, label], i) => {
        const values = curves[name];
        return values?.some((value) => value !== null) ? [{ label, values, tone: i as Series['tone'] }] : [];
      });
    this.#charts.evr.show({
      xLabel,
      yLabel: 'EVR',
      x,
      series: known(CUTS.map((cut) => [`evr_${cut}`, `EVR ${cut}`])),
      yRange: [0, 1],
    });
    const angles = known(CUTS.map((cut) => [`angle_max_${cut}`, `first ${cut}`]));
    this.#charts.angles.show({
      xLabel,
      yLabel: 'degrees',
      x,
      series: [
        ...(angles.length > 0 ? angles : known([['drift', 'first 4']])),
        { label: `settled below ${SETTLED_DEGREES}°`, values: x.map(() => SETTLED_DEGREES), tone: 5, isPlain: true },
      ],
      yRange: [0, 90],
    });
    this.#charts.captured.show({
      xLabel,
      yLabel: 'share',
      x,
      series: known([
        ['captured', 'captured'],
        ['mean_only', 'mean only'],
      ]),
      yRange: [0, 1],
    });
  }

  #showNumbers(): void {
    const detail = this.#detail!;
    this.#warnings.replaceChildren(...detail.warnings.map((text) => element('li', {}, breakable(text))));
    const { models, modelsLeftOut, from, asOf } = detail;
    this.#scatter.box.hidden = models.length === 0;
    setText(
      this.#modelsNote,
      models.length === 0
        ? this.#mode === 'models'
          ? 'Coordinates come with the finished tables, or earlier with run … --snapshot-every N.'
          : 'In this mode samples are rows or columns; energies.parquet has what each model contributes.'
        : `${from === 'snapshot' ? `As of ${asOf} models. ` : ''}${modelsLeftOut > 0 ? `The first ${models.length} models; ${modelsLeftOut} more are in coefficients.parquet.` : ''}`,
    );
    const spectrum = detail.spectrum.slice(0, MOST_ROWS);
    this.#numbers.replaceChildren(
      table(
        'Spectrum in numbers',
        ['component', 'EVR', 'at least', 'at most', 'cumulative'],
        spectrum.map(({ evr, low, high, cumulative }, i) => [
          String(i + 1),
          ...[evr, low, high, cumulative].map((value) => (value === null ? '–' : value.toPrecision(4))),
        ]),
      ),
      ...(models.length === 0
        ? []
        : [
            table(
              `Models in numbers${models.length > MOST_ROWS ? ` (the first ${MOST_ROWS})` : ''}`,
              ['model', 'component 1', 'component 2', 'distance from the mean', 'captured on arrival'],
              models
                .slice(0, MOST_ROWS)
                .map(({ name, coordinates, norm2, captured }) => [
                  shown(name),
                  ...[coordinates[0], coordinates[1], norm2 === null ? undefined : Math.sqrt(norm2)].map(
                    (value) => value?.toPrecision(4) ?? '–',
                  ),
                  share(captured),
                ]),
            ),
          ]),
    );
  }
}

const card = (title: string, picture: HTMLElement, text: string, note: HTMLElement | null = null): HTMLElement =>
  element(
    'article',
    { class: 'card' },
    element('h3', {}, title),
    picture,
    element('p', { class: 'explanation' }, text),
    note,
  );

const table = (title: string, head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement =>
  element('details', {}, element('summary', {}, title), tableBox(title, head, rows));

const tableBox = (title: string, head: readonly string[], rows: readonly (readonly string[])[]): HTMLElement =>
  element(
    'div',
    { class: 'table', tabindex: 0, role: 'region', 'aria-label': title },
    element(
      'table',
      {},
      element('thead', {}, element('tr', {}, ...head.map((text) => element('th', { scope: 'col' }, text)))),
      element(
        'tbody',
        {},
        ...rows.map(([first, ...rest]) =>
          element('tr', {}, element('th', { scope: 'row' }, first!), ...rest.map((text) => element('td', {}, text))),
        ),
      ),
    ),
  );
