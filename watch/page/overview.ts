// All slots at a glance: grids of layer x module where names allow it and cells for the rest, or a table that can be sorted.
// What stands where is built when slots or the filter change; afterwards only cells whose text changed are touched, so that
// hundreds of slots can change many times a second.
import type { RunAnswer } from '../view/answers.ts';
import { evrOfKept, type Metric, metrics, rampStep } from '../view/metrics.ts';
import { type SlotStatus, type SlotView, statusOf, statusWord } from '../view/run-view.ts';
import { SETTLED_TEXT } from '../view/settled.ts';
import { layOut, type SlotGrid } from '../view/slot-grid.ts';
import { breakable, element, setText, shown } from './dom.ts';

interface Column {
  readonly title: string;
  readonly textOf: (slot: SlotView, isOver: boolean) => string;
  readonly keyOf: (slot: SlotView) => number | string | null;
}

const share = (value: number | null): string => (value === null ? '–' : value.toFixed(3));
const shareColumn = (title: string, keyOf: (slot: SlotView) => number | null): Column => ({
  title,
  keyOf,
  textOf: (slot) => share(keyOf(slot)),
});

const columns: readonly Column[] = [
  { title: 'slot', textOf: ({ name }) => shown(name), keyOf: ({ name }) => name },
  {
    title: 'shape',
    textOf: ({ rows, cols }) => (rows === null || cols === null ? '–' : `${rows}×${cols}`),
    keyOf: ({ rows, cols }) => (rows === null || cols === null ? null : rows * cols),
  },
  { title: 'models', textOf: ({ models }) => String(models), keyOf: ({ models }) => models },
  shareColumn('EVR 1', ({ evr_1 }) => evr_1),
  shareColumn('EVR 4', ({ evr_4 }) => evr_4),
  shareColumn('EVR 16', ({ evr_16 }) => evr_16),
  shareColumn('EVR k', evrOfKept),
  shareColumn('flat', ({ flat }) => flat),
  {
    title: '90% at',
    textOf: (slot) => metrics.find(({ name }) => name === 'components_90')!.format(slot),
    keyOf: (slot) => metrics.find(({ name }) => name === 'components_90')!.valueOf(slot),
  },
  shareColumn('captured', ({ captured }) => captured),
  {
    title: 'drift',
    textOf: ({ drift }) => (drift === null ? '–' : `${drift.toFixed(1)}°`),
    keyOf: ({ drift }) => drift,
  },
  { title: 'status', textOf: statusWord, keyOf: statusOf },
];

const compare = (a: number | string | null, b: number | string | null): number =>
  typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });

export class Overview {
  readonly box = element('section', { class: 'overview', 'aria-label': 'slots' });
  readonly #metric = element('select', { id: 'metric' });
  readonly #filter = element('input', {
    id: 'filter',
    type: 'search',
    placeholder: 'name, or: settled, moving',
    autocomplete: 'off',
  });
  readonly #mode = element('select', { id: 'mode' });
  readonly #modeLabel = element('label', { for: 'mode' }, 'mode');
  readonly #view = {
    grid: element('button', { type: 'button' }, 'Grid'),
    table: element('button', { type: 'button' }, 'Table'),
  };
  readonly #counts = element('p', { class: 'counts', 'aria-live': 'polite' });
  readonly #explanation = element('p', { class: 'explanation' });
  readonly #legend = element('div', { class: 'legend', 'aria-hidden': 'true' });
  readonly #slots = element('div', { class: 'slots' });
  #cells = new Map<number, HTMLElement[]>();
  #drawn = new Map<number, string>();
  #isTable = false;
  #sort = { column: 0, isDown: false };
  #structure = '';
  #answer: RunAnswer | null = null;

  constructor() {
    for (const { name, title } of metrics) this.#metric.append(element('option', { value: name }, title));
    const again = (): void => this.#rebuild();
    this.#metric.addEventListener('change', () => {
      this.#drawn.clear();
      this.#update();
    });
    this.#filter.addEventListener('input', again);
    this.#mode.addEventListener('change', again);
    this.#view.grid.addEventListener('click', () => this.#switch(false));
    this.#view.table.addEventListener('click', () => this.#switch(true));
    this.#slots.addEventListener('keydown', (event) => moveBetweenCells(event, this.#slots));
    const tools = element(
      'div',
      { class: 'tools' },
      element('span', { class: 'tool' }, element('label', { for: 'metric' }, 'colour'), this.#metric),
      element('span', { class: 'tool' }, element('label', { for: 'filter' }, 'filter'), this.#filter),
      element('span', { class: 'tool', 'data-tool': 'mode' }, this.#modeLabel, this.#mode),
      element('span', { class: 'tool switch', role: 'group', 'aria-label': 'view' }, this.#view.grid, this.#view.table),
      this.#legend,
    );
    this.box.append(tools, this.#explanation, this.#counts, this.#slots);
    this.#switch(false);
  }

  get mode(): string {
    return this.#mode.value === '' ? 'models' : this.#mode.value;
  }

  get #isOver(): boolean {
    return this.#answer?.status.state === 'finished';
  }

  focusFilter(): void {
    this.#filter.focus();
  }

  show(answer: RunAnswer): void {
    this.#answer = answer;
    const modes = [...new Set(answer.view.slots.map(({ mode }) => mode))];
    if (modes.join() !== [...this.#mode.options].map(({ value }) => value).join())
      this.#mode.replaceChildren(...modes.map((mode) => element('option', { value: mode }, mode)));
    this.#modeLabel.parentElement!.hidden = modes.length < 2;
    // Statuses belong to the structure only where they are filtered or sorted by.
    const isByValue = this.#isTable || statusNamed(this.#filter.value) !== null;
    const structure = `${answer.view.slots.length} ${modes.join()} ${isByValue ? answer.view.seq : ''} ${this.#isOver}`;
    if (structure !== this.#structure) {
      this.#structure = structure;
      this.#rebuild();
    } else this.#update();
  }

  #switch(isTable: boolean): void {
    this.#isTable = isTable;
    this.#view.grid.setAttribute('aria-pressed', String(!isTable));
    this.#view.table.setAttribute('aria-pressed', String(isTable));
    this.#legend.hidden = isTable;
    this.#explanation.hidden = isTable;
    this.#metric.parentElement!.hidden = isTable;
    this.#rebuild();
  }

  #wanted(): readonly number[] {
    if (this.#answer === null) return [];
    const text = this.#filter.value.trim().toLowerCase();
    const status = statusNamed(text);
    return this.#answer.view.slots.flatMap((slot, i) => {
      if (slot.mode !== this.mode) return [];
      const fits = status === null ? text === '' || slot.name.toLowerCase().includes(text) : statusOf(slot) === status;
      return fits ? [i] : [];
    });
  }

  #rebuild(): void {
    if (this.#answer === null) return;
    const { slots } = this.#answer.view;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.slot : undefined;
    this.#cells = new Map();
    this.#drawn.clear();
    const wanted = this.#wanted();
    const parts: Node[] = [];
    if (wanted.length === 0 && slots.length > 0)
      parts.push(element('p', { class: 'notice' }, 'No slot fits the filter.'));
    else if (this.#isTable) parts.push(this.#table(wanted));
    else {
      const { grids, others } = layOut(wanted.map((i) => slots[i]!.name));
      for (const grid of grids) parts.push(this.#grid(grid, wanted));
      if (others.length > 0)
        parts.push(
          this.#list(
            others.map((at) => wanted[at]!),
            grids.length > 0,
          ),
        );
    }
    this.#slots.replaceChildren(...parts);
    if (focused !== undefined) this.#slots.querySelector<HTMLElement>(`[data-slot="${focused}"]`)?.focus();
    this.#update();
  }

  #grid({ prefix, layers, modules }: SlotGrid, wanted: readonly number[]): HTMLElement {
    const head = element('tr', {}, element('td', { class: 'corner' }, 'layer'));
    for (const layer of layers) head.append(element('th', { scope: 'col' }, String(layer)));
    const body = modules.map(({ name, cells }) => {
      const row = element('tr', {}, element('th', { scope: 'row', title: shown(name) }, moduleName(name)));
      for (const at of cells)
        row.append(at === null ? element('td', { class: 'none' }) : element('td', {}, this.#cell(wanted[at]!, null)));
      return row;
    });
    return element(
      'div',
      { class: 'grid', tabindex: -1, 'data-layers': layers.length > 24 ? 'many' : layers.length > 8 ? 'some' : 'few' },
      element(
        'table',
        {},
        element('caption', {}, prefix === '' ? 'layers' : shown(prefix)),
        element('thead', {}, head),
        element('tbody', {}, ...body),
      ),
    );
  }

  #list(wanted: readonly number[], isRest: boolean): HTMLElement {
    const { slots } = this.#answer!.view;
    return element(
      'div',
      { class: 'list' },
      element('h2', {}, isRest ? 'outside the layers' : 'slots'),
      element(
        'ul',
        {},
        ...wanted.map((i) =>
          element('li', {}, this.#cell(i, null), element('span', { class: 'name' }, breakable(slots[i]!.name))),
        ),
      ),
    );
  }

  #cell(i: number, text: string | Node | null): HTMLElement {
    const cell = element(
      'a',
      { href: `#/slot/${i}`, class: text === null ? 'cell' : 'slot-link', 'data-slot': i },
      text,
    );
    if (text === null) this.#cells.set(i, [...(this.#cells.get(i) ?? []), cell]);
    return cell;
  }

  #table(wanted: readonly number[]): HTMLElement {
    const { slots } = this.#answer!.view;
    const { column, isDown } = this.#sort;
    const { keyOf } = columns[column]!;
    const sorted = wanted.toSorted((a, b) => {
      const [x, y] = [keyOf(slots[a]!), keyOf(slots[b]!)];
      // What is not known stands last either way.
      if (x === null || y === null) return Number(x === null) - Number(y === null);
      return (isDown ? -1 : 1) * compare(x, y);
    });
    const head = element('tr', {});
    columns.forEach(({ title }, i) => {
      const button = element('button', { type: 'button' }, title, i === column ? (isDown ? ' ▼' : ' ▲') : '');
      button.addEventListener('click', () => {
        this.#sort = { column: i, isDown: this.#sort.column === i ? !this.#sort.isDown : i > 0 };
        this.#rebuild();
        this.#slots.querySelectorAll<HTMLElement>('thead button')[i]?.focus();
      });
      const sort = i !== column ? null : isDown ? 'descending' : 'ascending';
      head.append(element('th', { scope: 'col', 'aria-sort': sort }, button));
    });
    const rows = sorted.map((i) =>
      element(
        'tr',
        { class: statusOf(slots[i]!).replace(' ', '-') },
        ...columns.map(({ textOf }, j) => {
          const text = textOf(slots[i]!, this.#isOver);
          return j === 0
            ? element('th', { scope: 'row' }, this.#cell(i, breakable(slots[i]!.name)))
            : element('td', {}, text);
        }),
      ),
    );
    return element(
      'div',
      { class: 'table', tabindex: 0, role: 'region', 'aria-label': 'slots as a table' },
      element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows)),
    );
  }

  #update(): void {
    if (this.#answer === null) return;
    const { slots } = this.#answer.view;
    const metric = metrics.find(({ name }) => name === this.#metric.value)!;
    for (const [i, cells] of this.#cells) {
      const slot = slots[i]!;
      const status = statusOf(slot);
      const text = status === 'not started' ? '' : metric.format(slot);
      const position = metric.position(slot);
      const step = status === 'not started' ? 'unseen' : position === null ? 'unknown' : `q${rampStep(position)}`;
      const drawn = `${text} ${step} ${status}`;
      if (this.#drawn.get(i) === drawn) continue;
      this.#drawn.set(i, drawn);
      for (const cell of cells) {
        cell.className = `cell ${step} ${status.replace(' ', '-')}`;
        setText(cell, text);
        const label = `${shown(slot.name)}: ${status === 'not started' ? status : `${metric.title} ${text}, ${statusWord(slot, this.#isOver)}`}`;
        cell.setAttribute('aria-label', label);
        cell.title = label;
      }
    }
    const counted = slots.filter(({ mode }) => mode === this.mode).map(statusOf);
    const count = (status: SlotStatus): number => counted.filter((one) => one === status).length;
    setText(
      this.#counts,
      counted.length === 0
        ? 'No slots are known yet.'
        : [
            `${count('settled')} settled`,
            `${count('moving')} ${this.#isOver ? 'not settled' : 'moving'}`,
            ...(this.#isOver ? [] : [`${count('not started')} not started`]),
          ].join(' · '),
    );
    this.#counts.title = SETTLED_TEXT;
    this.#showLegend(metric);
  }

  #showLegend({ title, explanation, ends, name }: Metric): void {
    setText(this.#explanation, `${title}: ${explanation}. ✓ ${SETTLED_TEXT}.`);
    if (this.#legend.dataset.metric === name) return;
    this.#legend.dataset.metric = name;
    const steps = Array.from({ length: 9 }, (_, i) => element('span', { class: `q${i}` }));
    this.#legend.replaceChildren(
      element('span', { class: 'end' }, ends[0]),
      ...steps,
      element('span', { class: 'end' }, ends[1]),
      element('span', { class: 'unseen' }),
      element('span', { class: 'end' }, 'not started'),
    );
  }
}

/** The filter says a status instead of a name. */
const statusNamed = (text: string): SlotStatus | null => {
  const word = text.trim().toLowerCase();
  if (word === 'not settled') return 'moving';
  return word === 'settled' || word === 'moving' || word === 'not started' ? word : null;
};

/** `.weight` says nothing where all modules have it. */
const moduleName = (name: string): string => shown(name.replace(/(?<=.)\.weight$/, '') || 'weight');

/** Arrow keys go to the nearest cell in that direction. */
const moveBetweenCells = (event: KeyboardEvent, within: HTMLElement): void => {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if ((dx === 0 && dy === 0) || !(event.target instanceof HTMLElement) || event.target.dataset.slot === undefined)
    return;
  event.preventDefault();
  const middle = (node: HTMLElement): readonly [number, number] => {
    const { left, top, width, height } = node.getBoundingClientRect();
    return [left + width / 2, top + height / 2];
  };
  const [x, y] = middle(event.target);
  let best: HTMLElement | null = null;
  let least = Number.POSITIVE_INFINITY;
  for (const cell of within.querySelectorAll<HTMLElement>('[data-slot]')) {
    const [cx, cy] = middle(cell);
    const along = (cx - x) * dx! + (cy - y) * dy!;
    const across = Math.abs((cx - x) * dy!) + Math.abs((cy - y) * dx!);
    if (along < 2) continue;
    const distance = along + 3 * across;
    if (distance < least) [best, least] = [cell, distance];
  }
  best?.focus();
};
