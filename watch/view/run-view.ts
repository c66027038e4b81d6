// What is known of a run: the state that its events change. The server and the page fold the same events by this one
// function, so a page that has read the server's state goes on from it by itself. Pure, for Node and browsers.
import type {
  EvrAtCuts,
  LoggedEvent,
  RunProgress,
  SlotProgress,
  SlotSummary,
  TelemetryEvent,
  WarningGroup,
} from '../../pipeline/telemetry.ts';
import { type Calm, calmAfter, isSettled, restless } from './settled.ts';

export type RunState = 'waiting' | 'empty' | 'running' | 'finished' | 'failed' | 'interrupted';

/** One slot in one mode. What is not known, or not yet, is null. */
export interface SlotView extends EvrAtCuts {
  readonly name: string;
  readonly mode: string;
  readonly rows: number | null;
  readonly cols: number | null;
  readonly models: number;
  /** Directions reported, at most k; 0 before any. */
  readonly rank: number;
  /** k over the most directions there can be. */
  readonly flat: number | null;
  readonly drift: number | null;
  readonly captured: number | null;
  readonly mean_only: number | null;
  readonly components_90: number | null;
  readonly exactness: string | null;
  readonly scree: readonly number[];
  readonly calm: Calm;
}

export interface Note {
  readonly time: string;
  readonly text: string;
}

export interface RunView {
  /** Of the last event; -1 before any. */
  readonly seq: number;
  readonly time: string | null;
  readonly plan: Extract<TelemetryEvent, { type: 'plan' }> | null;
  readonly progress: RunProgress | null;
  readonly checkpoint: { readonly number: number; readonly time: string } | null;
  /** How the log ends, where it does. */
  readonly end: { readonly type: 'done' | 'stopped' | 'failed'; readonly text: string } | null;
  readonly skipped: number;
  readonly warnings: readonly WarningGroup[];
  /** The newest things worth a line. */
  readonly notes: readonly Note[];
  readonly slots: readonly SlotView[];
}

export const emptyRun: RunView = {
  seq: -1,
  time: null,
  plan: null,
  progress: null,
  checkpoint: null,
  end: null,
  skipped: 0,
  warnings: [],
  notes: [],
  slots: [],
};

const MOST_NOTES = 100;
const MOST_NAMES = 5;

export const unseenSlot = (name: string, mode: string, rows: number | null, cols: number | null): SlotView => ({
  name,
  mode,
  rows,
  cols,
  models: 0,
  rank: 0,
  evr_1: null,
  evr_4: null,
  evr_16: null,
  evr_k: null,
  flat: null,
  drift: null,
  captured: null,
  mean_only: null,
  components_90: null,
  exactness: null,
  scree: [],
  calm: restless,
});

export type SlotStatus = 'not started' | 'moving' | 'settled';

export const statusOf = (slot: SlotView): SlotStatus =>
  slot.models === 0 ? 'not started' : isSettled(slot.calm, slot.models) ? 'settled' : 'moving';

/** For people: of a run that is over nothing moves any more. */
export const statusWord = (slot: SlotView, isOver: boolean): string => {
  const status = statusOf(slot);
  return isOver && status === 'moving' ? 'not settled' : status;
};

const noted = (view: RunView, time: string, text: string): readonly Note[] => [
  ...view.notes.slice(1 - MOST_NOTES),
  { time, text },
];

/** The indices of slots by mode and name; kept as long as no slot is added. */
const indices = new WeakMap<readonly SlotView[], Map<string, number>>();
const keyOf = (mode: string, name: string): string => `${mode} ${name}`;

const indexOf = (slots: readonly SlotView[]): Map<string, number> => {
  let index = indices.get(slots);
  if (index === undefined) {
    index = new Map(slots.map(({ mode, name }, i) => [keyOf(mode, name), i]));
    indices.set(slots, index);
  }
  return index;
};

/** Changes the slots that are named, adding those not seen before. */
const changeSlots = <C>(
  slots: readonly SlotView[],
  changes: readonly C[],
  nameOf: (change: C) => { readonly mode: string; readonly name: string },
  change: (slot: SlotView, by: C) => SlotView,
): readonly SlotView[] => {
  let index = indexOf(slots);
  const next = slots.slice();
  for (const by of changes) {
    const { mode, name } = nameOf(by);
    let at = index.get(keyOf(mode, name));
    if (at === undefined) {
      // The slots before keep an index of their own.
      if (next.length === slots.length) index = new Map(index);
      at = next.length;
      index.set(keyOf(mode, name), at);
      next.push(unseenSlot(name, mode, null, null));
    }
    next[at] = change(next[at]!, by);
  }
  indices.set(next, index);
  return next;
};

const afterBlock = (slot: SlotView, seen: SlotProgress, modelsSeen: number): SlotView => ({
  ...slot,
  models: modelsSeen,
  rank: seen.rank ?? 0,
  evr_1: seen.evr_1,
  evr_4: seen.evr_4,
  evr_16: seen.evr_16,
  evr_k: seen.evr_k,
  drift: seen.drift,
  // Logs of earlier versions have no more than the above.
  captured: seen.captured ?? null,
  mean_only: seen.mean_only ?? null,
  components_90: seen.components_90 ?? null,
  scree: seen.scree ?? [],
  exactness: null,
  flat: slot.rows === null || slot.cols === null ? null : flatOf(seen.rank ?? 0, modelsSeen, slot.rows * slot.cols),
  calm: calmAfter(modelsSeen > slot.models ? slot.calm : restless, modelsSeen, seen.drift),
});

/** What the directions would explain if all of them varied alike. */
const flatOf = (rank: number, models: number, features: number): number | null => {
  const most = Math.min(models - 1, features);
  return most < 1 || rank < 1 ? null : Math.min(1, rank / most);
};

const summarised = (slot: SlotView, by: SlotSummary): SlotView => ({
  ...slot,
  rows: by.rows,
  cols: by.cols,
  models: by.models,
  rank: by.rank,
  evr_1: by.evr_1,
  evr_4: by.evr_4,
  evr_16: by.evr_16,
  evr_k: by.evr_k,
  flat: by.flat_evr,
  captured: by.captured,
  mean_only: by.mean_only,
  components_90: by.components_90,
  exactness: by.exactness,
  scree: by.scree,
});

const addWarning = (groups: readonly WarningGroup[], { code, text, slot, model }: Warned): readonly WarningGroup[] => {
  const of = slot !== null ? 'slot' : model !== null ? 'model' : null;
  const name = slot ?? model;
  const at = groups.findIndex((group) => group.code === code && group.text === text && group.of === of);
  if (at < 0) return [...groups, { code, text, of, count: 1, names: name === null ? [] : [name] }];
  const group = groups[at]!;
  const names = name === null || group.names.length >= MOST_NAMES ? group.names : [...group.names, name];
  return groups.with(at, { ...group, count: group.count + 1, names });
};

type Warned = Extract<TelemetryEvent, { type: 'warning' }>['warning'];

/** The view after an event. One that is in it already changes nothing. */
export function applyEvent(view: RunView, event: LoggedEvent): RunView {
  if (event.seq <= view.seq) return view;
  const { seq, time } = event;
  const next: RunView = { ...view, seq, time };
  const note = (text: string): RunView => ({ ...next, notes: noted(view, time, text) });
  switch (event.type) {
    case 'plan':
      return { ...next, plan: event, end: null };
    case 'group':
      return event.groups > 1 ? note(`group ${event.group + 1} of ${event.groups}: ${event.slots} slots`) : next;
    case 'block': {
      const { slots, type: _, seq: __, time: ___, ...progress } = event;
      return {
        ...next,
        progress,
        slots: changeSlots(
          view.slots,
          slots,
          ({ slot }) => ({ mode: 'models', name: slot }),
          (slot, by) => afterBlock(slot, by, event.modelsSeen),
        ),
      };
    }
    case 'skip': {
      const what = event.slot === null ? event.model : `${event.model} in ${event.slot}`;
      return { ...note(`skipped ${what}: ${event.reason}`), skipped: view.skipped + 1 };
    }
    case 'warning':
      return { ...next, warnings: addWarning(view.warnings, event.warning) };
    case 'snapshot':
      return note(`tables after ${event.modelsSeen} models in ${event.folder}`);
    case 'resumed':
      return { ...note(`resumed from checkpoint ${event.checkpoint}`), end: null };
    case 'checkpoint':
      return { ...next, checkpoint: { number: event.checkpoint, time } };
    case 'stopped':
      return { ...next, end: { type: 'stopped', text: `stopped by ${event.signal}` } };
    case 'failed':
      return { ...next, end: { type: 'failed', text: `${event.error}: ${event.message}` } };
    case 'done':
      return {
        ...next,
        end: { type: 'done', text: '' },
        warnings: event.warnings,
        slots: changeSlots(view.slots, event.slots, ({ mode, slot }) => ({ mode, name: slot }), summarised),
      };
    default:
      return next;
  }
}
