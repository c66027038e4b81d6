// What a finished run has to say: per slot how much a few directions explain beside what no structure would give,
// then the warnings, the files, and what to do next. Pure; fits the width it is given by leaving columns out.
import type { CoreSummary, SlotSummary, TelemetryEvent, WarningGroup } from '../pipeline/telemetry.ts';
import { formatBytes, formatCount, formatDuration, formatPlural, formatRate, formatShare } from './human-format.ts';
import { shortenNames } from './short-names.ts';
import { displayWidth, escapeControls, padEnd, padStart, painter } from './terminal-text.ts';

type Done = Extract<TelemetryEvent, { type: 'done' }>;
type Paint = ReturnType<typeof painter>;

export interface SummaryOptions {
  /** Terminal cells in a line. */
  readonly columns: number;
  readonly color: boolean;
  /** What was written, to name it with its size; without it the usual files are named. */
  readonly files?: readonly { readonly file: string; readonly bytes: number }[];
}

/** The summary as lines of text. */
export function renderSummary(done: Done, { columns, color, files = [] }: SummaryOptions): string[] {
  const paint = painter(color);
  return [
    ...renderHead(done, paint),
    '',
    ...renderTable(done.slots, columns, paint),
    ...renderLegend(done.slots, paint),
    ...renderWarnings(done.warnings, paint),
    '',
    ...renderFiles(done, files, paint),
  ];
}

function renderHead(done: Done, paint: Paint): string[] {
  const { models, slots, bytesRead, fit_s, tables_s, flops } = done;
  const rates = [
    formatRate(bytesRead / fit_s),
    ...(flops > 0 && fit_s > 0 ? [`${(flops / fit_s / 1e9).toPrecision(3)} GFLOP/s`] : []),
  ];
  return [
    `${paint('bold', `${formatPlural(models, 'model')}, ${formatPlural(new Set(slots.map(({ slot }) => slot)).size, 'slot')}`)}: ${formatBytes(bytesRead)} ` +
      `folded in ${formatDuration(fit_s)} (${rates.join(', ')}), on disk after ${formatDuration(tables_s)}`,
    paint('dim', `on ${escapeControls(done.device)}`),
  ];
}

interface Column {
  readonly title: string;
  /** Left out first where the line is too short: the larger, the earlier. 0 always stays. */
  readonly expendable: number;
  readonly left?: boolean;
  readonly text: (slot: SlotSummary) => string;
  readonly style?: (slot: SlotSummary) => 'bold' | 'dim' | 'green' | 'yellow' | null;
}

const GAP = 2;
const SHORTEST_NAME = 12;

/** Twice what no structure would show is worth a look; less than a tenth above it is not. */
function standsOut({ evr_k, flat_evr }: SlotSummary): 'green' | 'dim' | null {
  if (evr_k === null || flat_evr === null || flat_evr <= 0) return null;
  if (evr_k >= 2 * flat_evr) return 'green';
  return evr_k < 1.1 * flat_evr ? 'dim' : null;
}

function columnsFor(slots: readonly SlotSummary[]): Column[] {
  const mixed = slots.some(({ exactness }) => exactness !== slots[0]!.exactness);
  const scree = slots.reduce((most, slot) => Math.max(most, slot.scree.length), 0);
  const modes = slots.some(({ mode }) => mode !== 'models');
  return [
    ...(modes ? [{ title: 'mode', expendable: 0, left: true, text: ({ mode }: SlotSummary) => mode }] : []),
    { title: 'shape', expendable: 3, text: ({ rows, cols }) => (rows === 1 ? `${cols}` : `${rows}×${cols}`) },
    { title: 'models', expendable: 5, text: ({ models }) => formatCount(models) },
    { title: 'EVR 1', expendable: 0, text: ({ evr_1 }) => formatShare(evr_1) },
    { title: '4', expendable: 1, text: ({ evr_4 }) => formatShare(evr_4) },
    { title: '16', expendable: 2, text: ({ evr_16 }) => formatShare(evr_16) },
    { title: 'k', expendable: 0, text: ({ evr_k }) => formatShare(evr_k), style: standsOut },
    { title: 'flat', expendable: 0, text: ({ flat_evr }) => formatShare(flat_evr), style: () => 'dim' },
    {
      title: '90% at',
      expendable: 4,
      text: ({ components_90, rank, evr_k }) =>
        components_90 !== null ? formatCount(components_90) : evr_k === null ? '–' : `>${formatCount(rank)}`,
    },
    ...(slots.some(({ core }) => core !== undefined)
      ? [{ title: 'core 90%', expendable: 4, text: ({ core }: SlotSummary) => formatCore(core) }]
      : []),
    ...(slots.some(({ mode }) => mode === 'models')
      ? [{ title: 'captured', expendable: 6, text: ({ captured }: SlotSummary) => formatShare(captured) }]
      : []),
    ...(scree > 0
      ? [{ title: 'scree', expendable: 7, left: true, text: (slot: SlotSummary) => screeBar(slot.scree) }]
      : []),
    ...(mixed ? [{ title: 'exactness', expendable: 8, left: true, text: (slot: SlotSummary) => slot.exactness }] : []),
  ];
}

/** Ranks that keep 90% together; `≤` where that is what the spectra promise, and fewer may do. */
function formatCore(core: CoreSummary | undefined): string {
  if (core === undefined) return '';
  if (core.ranks === null) return '–';
  return `${core.isMeasured ? '' : '≤'}${core.ranks.join('·')}`;
}

const BLOCKS = '▁▂▃▄▅▆▇█';

/** One block a component, against the largest; a component of nothing shows as a dot. */
export function screeBar(scree: readonly number[]): string {
  const most = Math.max(0, ...scree.filter(Number.isFinite));
  return scree
    .map((value) => {
      if (!(value > 0) || most === 0) return '·';
      return BLOCKS[Math.min(BLOCKS.length - 1, Math.max(0, Math.ceil((value / most) * BLOCKS.length) - 1))];
    })
    .join('');
}

/** Cells of the widest text, or `least`. */
function widestOf(texts: readonly string[], least: number): number {
  return texts.reduce((most, text) => Math.max(most, displayWidth(text)), least);
}

function renderTable(slots: readonly SlotSummary[], width: number, paint: Paint): string[] {
  if (slots.length === 0) return ['no slot was used'];
  const names = slots.map(({ slot }) => escapeControls(slot));
  const longest = widestOf(names, 4);
  let columns = columnsFor(slots);
  let widths: number[] = [];
  for (;;) {
    widths = columns.map(({ title, text }) => widestOf(slots.map(text), displayWidth(title)));
    const taken = widths.reduce((sum, cell) => sum + cell + GAP, 0);
    const worst = Math.max(...columns.map(({ expendable }) => expendable));
    if (worst === 0 || width - taken >= Math.min(longest, worst > 5 ? 24 : SHORTEST_NAME)) break;
    columns = columns.filter(({ expendable }) => expendable !== worst);
  }
  const taken = widths.reduce((sum, cell) => sum + cell + GAP, 0);
  const nameWidth = Math.min(longest, Math.max(SHORTEST_NAME, width - taken));

  const short = shortenNames(names, nameWidth);
  const shown = widestOf(short, 4);
  const line = (name: string, cell: (column: Column, width: number) => string): string =>
    (padEnd(name, shown) + columns.map((column, i) => ' '.repeat(GAP) + cell(column, widths[i]!)).join('')).trimEnd();
  const align = (column: Column, text: string, cellWidth: number): string =>
    column.left ? padEnd(text, cellWidth) : padStart(text, cellWidth);
  return [
    paint(
      'dim',
      line('slot', (column, cellWidth) => align(column, column.title, cellWidth)),
    ),
    ...slots.map((slot, i) =>
      line(short[i]!, (column, cellWidth) => {
        const text = align(column, column.text(slot), cellWidth);
        const style = column.style?.(slot) ?? null;
        return style === null ? text : paint(style, text);
      }),
    ),
  ];
}

function renderLegend(slots: readonly SlotSummary[], paint: Paint): string[] {
  const first = slots[0];
  if (first === undefined) return [];
  const ranks = [...new Set(slots.map(({ rank }) => rank))].sort((a, b) => a - b);
  const rank = ranks.length === 1 ? `k = ${ranks[0]}` : `k = ${ranks[0]} to ${ranks.at(-1)}`;
  const same = slots.every(({ exactness }) => exactness === first.exactness);
  return [
    '',
    paint('dim', `EVR: the share of the variance that the first 1, 4, 16 and k directions explain (${rank})`),
    paint('dim', `flat: what k directions would explain without any structure, ${flatOf(slots)}`),
    ...(slots.some(({ core }) => core !== undefined)
      ? [paint('dim', 'core 90%: directions of models·rows·cols that keep 90% together, the smallest in core.parquet')]
      : []),
    ...(same ? [paint('dim', `all spectra are ${first.exactness}`)] : []),
  ];
}

/** k over the most directions there can be. */
function flatOf(slots: readonly SlotSummary[]): string {
  const parts = [
    ...(slots.some(({ mode }) => mode === 'models') ? ['k/(N - 1)'] : []),
    ...(slots.some(({ mode }) => mode === 'rows') ? ['k/cols in mode rows'] : []),
    ...(slots.some(({ mode }) => mode === 'cols') ? ['k/rows in mode cols'] : []),
  ];
  return parts.join(', ');
}

/** Different things said under one code. */
const MOST_OF_A_CODE = 3;
const LONGEST_NAME = 36;

function renderWarnings(groups: readonly WarningGroup[], paint: Paint): string[] {
  if (groups.length === 0) return [];
  const byCode = new Map<string, WarningGroup[]>();
  for (const group of groups) {
    const known = byCode.get(group.code);
    if (known === undefined) byCode.set(group.code, [group]);
    else known.push(group);
  }
  const lines = [...byCode].flatMap(([code, all]) => {
    const shown = [...all].sort((a, b) => b.count - a.count).slice(0, MOST_OF_A_CODE);
    const more = countOf(all) - countOf(shown);
    return [...shown.map(renderGroup), ...(more > 0 ? [`and ${formatCount(more)} more`] : [])].map(
      (text) => `  ${paint('yellow', escapeControls(code))}  ${text}`,
    );
  });
  return ['', paint('bold', formatPlural(countOf(groups), 'warning')), ...lines];
}

function countOf(groups: readonly WarningGroup[]): number {
  return groups.reduce((sum, { count }) => sum + count, 0);
}

function renderGroup({ text, of, count, names }: WarningGroup): string {
  if (of === null) return escapeControls(text);
  const more = count - names.length;
  const short = shortenNames(names.map(escapeControls), LONGEST_NAME);
  const named = `${short.join(', ')}${more > 0 ? ` and ${formatCount(more)} more` : ''}`;
  return `${formatPlural(count, of)} (${named}): ${escapeControls(text)}`;
}

/** `basis/` and `mean/` hold a file a slot: named once, with how many. */
function renderFiles({ out, slots }: Done, files: NonNullable<SummaryOptions['files']>, paint: Paint): string[] {
  const streamed = slots.length === 0 || slots.some(({ mode }) => mode === 'models');
  const groups = new Map<string, { count: number; bytes: number }>();
  for (const { file, bytes } of files) {
    const slash = file.indexOf('/');
    const name = slash < 0 ? file : file.slice(0, slash + 1);
    const group = groups.get(name) ?? { count: 0, bytes: 0 };
    groups.set(name, { count: group.count + 1, bytes: group.bytes + bytes });
  }
  const named = [...groups].map(([name, { count, bytes }]) => ({
    name: escapeControls(name),
    size: `${formatBytes(bytes)}${name.endsWith('/') ? ` in ${formatPlural(count, 'file')}` : ''}`,
  }));
  named.unshift({
    name: '*.parquet',
    size: 'tables: spectrum, subspaces, models, slots, warnings and more; run.json says what was run',
  });
  const width = Math.max(0, ...named.map(({ name }) => displayWidth(name)));
  const folder = out.endsWith('/') ? out : `${out}/`;
  return [
    `${paint('bold', escapeControls(folder))}`,
    ...named.map(({ name, size }) => `  ${padEnd(name, width)}  ${paint('dim', size)}`),
    '',
    paint('dim', 'next'),
    ...hints(folder, streamed).map((hint) => `  ${hint}`),
  ];
}

/** Commands to paste: a path that a shell or SQL would read otherwise is left for the reader to fill in. */
function hints(folder: string, streamed: boolean): string[] {
  const path = /^[\w./+@=:-]+$/.test(folder) && !folder.startsWith('-') ? folder : 'RUN/';
  const [table, columns] = streamed
    ? ['convergence', "['slot_id', 'models_seen', 'evr_1', 'evr_4', 'angle_max_4']"]
    : ['subspaces', "['slot_id', 'mode', 'n_models', 'rank', 'components_90']"];
  return [
    `duckdb -c "select name, mode, component, evr from '${path}spectrum.parquet' join '${path}slots.parquet' using (slot_id) where component < 4 order by all"`,
    `python -c "import pandas; print(pandas.read_parquet('${path}${table}.parquet')[${columns}])"`,
  ];
}
