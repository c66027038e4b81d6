// What a terminal shows of a running fit: a state that events change, and functions from the state to lines of
// text. Pure: the clock is the events' own, the size of the terminal an argument.
import type { SlotProgress, TelemetryEvent } from '../pipeline/telemetry.ts';
import { formatBytes, formatCount, formatPlural, formatRate, formatRemaining, formatShare } from './human-format.ts';
import { shortenNames } from './short-names.ts';
import {
  displayWidth,
  escapeControls,
  padEnd,
  padStart,
  painter,
  truncateEnd,
  truncateMiddle,
} from './terminal-text.ts';

type Block = Extract<TelemetryEvent, { type: 'block' }>;
type Plan = Extract<TelemetryEvent, { type: 'plan' }>;

export interface ViewState {
  readonly block: Block | null;
  /** Seconds at the end of the group before: models are counted anew in every group. Or where a run goes on. */
  readonly groupStart: number;
  /** Models that the group had then. */
  readonly groupModels: number;
  readonly skipped: number;
  readonly warnings: number;
  readonly written: { readonly files: number; readonly bytes: number; readonly last: string | null };
}

export const emptyView: ViewState = {
  block: null,
  groupStart: 0,
  groupModels: 0,
  skipped: 0,
  warnings: 0,
  written: { files: 0, bytes: 0, last: null },
};

/** The state after an event. */
export function updateView(state: ViewState, event: TelemetryEvent): ViewState {
  switch (event.type) {
    case 'resumed':
      return { ...state, groupStart: event.seconds, groupModels: event.modelsSeen };
    case 'group':
      return state.block === null ? state : { ...state, groupStart: state.block.seconds, groupModels: 0 };
    case 'block':
      return { ...state, block: event };
    case 'skip':
      return { ...state, skipped: state.skipped + 1 };
    case 'warning':
      return { ...state, warnings: state.warnings + 1 };
    case 'write': {
      const { files, bytes } = state.written;
      return { ...state, written: { files: files + 1, bytes: bytes + event.bytes, last: event.file } };
    }
    default:
      return state;
  }
}

interface Progress {
  readonly share: number;
  readonly bytesPerSecond: number;
  readonly modelsPerSecond: number;
  /** Seconds to go, from the mean rate so far; NaN before anything was read. */
  readonly eta: number;
}

function measure({ block, groupStart, groupModels }: ViewState): Progress | null {
  if (block === null) return null;
  const { bytesRead, bytesToRead, seconds, modelsSeen } = block;
  const bytesPerSecond = seconds > 0 ? bytesRead / seconds : Number.NaN;
  const inGroup = seconds - groupStart;
  return {
    share: bytesToRead > 0 ? Math.min(1, bytesRead / bytesToRead) : 1,
    bytesPerSecond,
    modelsPerSecond: inGroup > 0 ? (modelsSeen - groupModels) / inGroup : Number.NaN,
    eta: bytesRead > 0 ? Math.max(0, bytesToRead - bytesRead) / bytesPerSecond : Number.NaN,
  };
}

/** `18.3`, `0.042`: three significant digits. */
function modelRate(rate: number): string {
  if (!Number.isFinite(rate)) return '–';
  return rate >= 99.95 ? formatCount(rate) : rate.toPrecision(3);
}

/** All weights are read some time before all results are on disk. */
function etaOf({ share, eta }: Progress): string {
  return share >= 1 ? 'writing' : `ETA ${formatRemaining(eta)}`;
}

/** Parts in lines of at most `width` cells; none is broken that fits a line. */
function fitParts(parts: readonly string[], between: string, width: number): string[] {
  const lines: string[] = [];
  for (const part of parts) {
    const last = lines.at(-1);
    const longer = `${last}${between}${part}`;
    if (last !== undefined && displayWidth(longer) <= width) lines[lines.length - 1] = longer;
    else lines.push(truncateEnd(part, width));
  }
  return lines;
}

/** Groups and blocks count from 0 in events and from 1 for people. */
function position(block: Block): string[] {
  const groups = block.groups > 1 ? [`group ${block.group + 1}/${block.groups}`] : [];
  return [...groups, `block ${formatCount(block.block + 1)}/${formatCount(block.blocks)}`];
}

function progressParts(block: Block, progress: Progress): string[] {
  return [
    `${formatBytes(block.bytesRead)} of ${formatBytes(block.bytesToRead)}`,
    formatRate(progress.bytesPerSecond),
    `${formatCount(block.modelsSeen)}/${formatCount(block.models)} models`,
    `${modelRate(progress.modelsPerSecond)}/s`,
    ...position(block),
  ];
}

function notices({ skipped, warnings, written }: ViewState): string[] {
  return [
    ...(skipped > 0 ? [`${formatCount(skipped)} skipped`] : []),
    ...(warnings > 0 ? [formatPlural(warnings, 'warning')] : []),
    ...(written.files > 0 ? [`${formatPlural(written.files, 'file')} written, ${formatBytes(written.bytes)}`] : []),
  ];
}

/** Slots that move most first; those without a drift last; names settle ties, so that lines do not dance. */
function byDrift(a: SlotProgress, b: SlotProgress): number {
  const drift = (slot: SlotProgress): number => slot.drift ?? -1;
  return drift(b) - drift(a) || (a.slot < b.slot ? -1 : a.slot > b.slot ? 1 : 0);
}

const MOST_SLOTS = 12;
/** Bar, progress, notices, a blank line, the header, and the line the cursor rests on. */
const OTHER_LINES = 6;
const EVR_COLUMNS = ['evr_1', 'evr_4', 'evr_16', 'evr_k'] as const;
const EVR_TITLES = ['EVR 1', '4', '16', 'k'] as const;
const TITLE = 'slots that move most';
const DRIFT_WIDTH = 7;
const CELL = 7;

export interface ViewSize {
  readonly columns: number;
  readonly rows: number;
  readonly color: boolean;
}

/** The live view: no line is wider than `columns - 1`, all fit into `rows`. Empty before the first block. */
export function renderView(state: ViewState, { columns, rows, color }: ViewSize): string[] {
  const progress = measure(state);
  const { block } = state;
  if (block === null || progress === null) return [];
  const paint = painter(color);
  const width = Math.max(10, columns - 1);

  const share = `${Math.floor(progress.share * 100)}%`.padStart(4);
  const eta = etaOf(progress);
  const barWidth = Math.max(0, Math.min(40, width - share.length - eta.length - 5));
  const full = Math.round(progress.share * barWidth);
  const bar = `${paint('cyan', '█'.repeat(full))}${paint('dim', '░'.repeat(barWidth - full))}`;
  const lines = [
    width > share.length + eta.length + 3
      ? `${bar} ${share}   ${paint('bold', eta)}`
      : truncateEnd(share.trim(), width),
    fitParts(progressParts(block, progress), '  ', width)[0]!,
  ];
  const notice = notices(state).join('  ');
  if (notice !== '') lines.push(paint('yellow', truncateEnd(notice, width)));

  const room = Math.min(MOST_SLOTS, rows - OTHER_LINES, block.slots.length);
  if (room < 1) return lines.slice(0, Math.max(1, rows - 1));
  lines.push('', ...renderSlots([...block.slots].sort(byDrift).slice(0, room), width, paint));
  return lines;
}

function renderSlots(slots: readonly SlotProgress[], width: number, paint: ReturnType<typeof painter>): string[] {
  // The narrower the terminal, the fewer cuts: first 16 goes, then 4, then k.
  const cuts = [0, 1, 2, 3];
  for (const drop of [2, 1, 3]) {
    if (width - cuts.length * CELL - DRIFT_WIDTH - 1 >= 16) break;
    cuts.splice(cuts.indexOf(drop), 1);
  }
  const names = slots.map(({ slot }) => escapeControls(slot));
  const most = Math.max(4, width - cuts.length * CELL - DRIFT_WIDTH - 1);
  const nameWidth = Math.min(most, Math.max(displayWidth(TITLE), ...names.map(displayWidth)));
  const short = shortenNames(names, nameWidth);
  const shown = Math.max(Math.min(nameWidth, displayWidth(TITLE)), ...short.map(displayWidth));
  const row = (name: string, cells: readonly string[], drift: string): string =>
    truncateEnd(
      padEnd(name, shown) + cells.map((cell) => padStart(cell, CELL)).join('') + padStart(drift, DRIFT_WIDTH + 1),
      width,
    );
  const header = row(
    truncateEnd(TITLE, shown),
    cuts.map((cut) => EVR_TITLES[cut]!),
    'drift',
  );
  return [
    paint('dim', header),
    ...slots.map((slot, i) =>
      row(
        short[i]!,
        cuts.map((cut) => formatShare(slot[EVR_COLUMNS[cut]!])),
        slot.drift === null ? '–' : `${slot.drift.toFixed(1)}°`,
      ),
    ),
  ];
}

/** The state as one line, for logs. Null before the first block. */
export function renderProgressLine(state: ViewState): string | null {
  const progress = measure(state);
  if (state.block === null || progress === null) return null;
  const share = `${Math.floor(progress.share * 100)}%`.padStart(4);
  const moved = [...state.block.slots].sort(byDrift)[0];
  const drift =
    moved === undefined || moved.drift === null
      ? []
      : [`largest drift ${moved.drift.toFixed(1)}° (${truncateMiddle(escapeControls(moved.slot), 40)})`];
  const parts = progressParts(state.block, progress);
  return [share, ...parts, etaOf(progress), ...drift].join('  ');
}

/** What the plan comes to, in lines of at most `width` cells. */
export function renderPlanLines(plan: Plan, width: number): readonly string[] {
  const parts = [
    formatPlural(plan.models, 'model'),
    `${formatPlural(plan.slots, 'slot')}${plan.groups > 1 ? ` in ${formatPlural(plan.groups, 'group')}` : ''}`,
    ...(plan.leftOut > 0 ? [`${formatPlural(plan.leftOut, 'slot')} left out`] : []),
    ...(plan.skipped > 0 ? [`${formatPlural(plan.skipped, 'model')} skipped`] : []),
    `${formatBytes(plan.bytesToRead)} to read`,
    escapeControls(plan.device),
    formatPlural(plan.threads, 'thread'),
    `${formatBytes(plan.memory)} memory`,
  ];
  return fitParts(parts, ' · ', width);
}

/** Where a run goes on, and what of it is done again. */
export function renderResumedLines(event: Extract<TelemetryEvent, { type: 'resumed' }>): readonly string[] {
  const { checkpoint, group, groups, block, modelsSeen, lost, damages } = event;
  const where = [
    ...(groups > 1 ? [`group ${group + 1} of ${groups}`] : []),
    block > 0 ? `${formatPlural(modelsSeen, 'model')} in ${formatPlural(block, 'block')}` : 'from its beginning',
  ];
  const again = lost > 0 ? `; ${formatPlural(lost, 'block')} after it ${lost === 1 ? 'is' : 'are'} done again` : '';
  return [
    ...damages.map((damage) => escapeControls(`a newer checkpoint cannot be used: ${damage}`)),
    `resumed from checkpoint ${checkpoint}: ${where.join(', ')}${again}`,
  ];
}
