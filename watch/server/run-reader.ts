// A run folder as the page shows it, live or finished, here or copied: folds its events, reads what its first checkpoint says
// of what is to come, and looks whether somebody still writes it. Changes nothing. A look costs what was appended since
// the one before.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describeOwner, isAlive, newestLease } from '../../pipeline/lease-owner.ts';
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import { EventTail, type LogLine } from '../../sinks/event-tail.ts';
import type { RunSettings, RunStatus, SlotDetail } from '../view/answers.ts';
import { applyEvent, emptyRun, type RunView, type SlotView, unseenSlot } from '../view/run-view.ts';
import { calmAfter, restless } from '../view/settled.ts';
import { type Row, RunTables } from './run-tables.ts';
import { SlotCurves } from './slot-curves.ts';
import { detailFromEvents, detailFromTables } from './slot-detail.ts';

/** How long an owner on another machine may be silent. Its lease is renewed every ten seconds. */
const SILENCE_MS = 35_000;

const WHILE_EXACT =
  'Models are being read. The engine exact knows nothing of a slot before it is done: all of them are shown at the end.';

export class RunReader {
  readonly run: string;
  readonly #tail: EventTail;
  readonly #curves = new SlotCurves();
  readonly #now: () => number;
  view: RunView = emptyRun;
  settings: RunSettings | null = null;
  #tables: RunTables | null = null;
  #isPlanned = false;
  #hasBegun = false;
  #logExists = false;
  /** The log says that the run is done, and its tables were not looked at yet. */
  #isDone = false;
  #lease: { readonly path: string; readonly stamp: number; readonly since: number } | null = null;

  constructor(run: string, now: () => number = () => performance.now()) {
    this.run = run;
    this.#now = now;
    this.#tail = new EventTail(join(run, 'events.ndjson'));
  }

  /**
   * Reads on, a piece of the log at most: a log may be larger than the memory. `isAnew`: who followed the events has to begin
   * again. `hasMore`: another look has more to say already.
   */
  async look(): Promise<{ readonly isAnew: boolean; readonly lines: readonly LogLine[]; readonly hasMore: boolean }> {
    const look = await this.#tail.look();
    this.#logExists = look.exists;
    if (look.isAnew) {
      this.view = emptyRun;
      this.#curves.clear();
      this.#tables = null;
      this.#isPlanned = false;
    }
    if (look.exists || existsSync(join(this.run, 'run.json'))) this.#hasBegun = true;
    if (!this.#isPlanned && this.#hasBegun) this.#readPlan();
    const lines = look.lines.filter(({ event }) => this.#take(event));
    for (const { event } of lines) {
      if (event.type === 'done') this.#isDone = true;
      else if (event.type === 'plan' || event.type === 'resumed') {
        this.#tables = null;
        this.#isDone = false;
      }
    }
    if (look.hasMore) return { isAnew: look.isAnew, lines, hasMore: true };
    const isDone = this.#isDone;
    this.#isDone = false;
    const isFinished = this.view.end?.type === 'done' || (!look.exists && existsSync(join(this.run, 'run.json')));
    if (isFinished && this.#tables === null) {
      this.#tables = new RunTables(this.run);
      await this.#addTables(this.#tables);
      return { isAnew: look.isAnew || isDone, lines, hasMore: false };
    }
    return { isAnew: look.isAnew, lines, hasMore: false };
  }

  /** False for an event that is not what its type says: the folder may be a stranger's. */
  #take(event: LoggedEvent): boolean {
    try {
      this.view = applyEvent(this.view, event);
      this.#curves.add(event);
      return true;
    } catch {
      return false;
    }
  }

  status(): RunStatus {
    const none = { owner: null, memory: null };
    const { end, progress } = this.view;
    if (!this.#hasBegun)
      return {
        ...none,
        state: 'waiting',
        text: `Waiting for the run to begin: there are no events in ${this.run} yet.`,
      };
    if (!this.#logExists && this.#tables === null)
      return {
        ...none,
        state: 'failed',
        text: `${this.run} is gone. A run that fails before its first checkpoint takes its folder away; its own output says why.`,
      };
    if (end?.type === 'failed') return { ...none, state: 'failed', text: end.text };
    const goOn = `Go on with: weightspan resume ${this.run}`;
    if (end?.type === 'stopped') return { ...none, state: 'interrupted', text: `It was ${end.text}. ${goOn}` };
    if (this.#tables !== null)
      return { ...none, state: 'finished', text: 'All models are folded and all tables written.' };
    const owner = this.#owner();
    if (owner.isAlive) {
      const { name, memory } = owner;
      return progress === null
        ? { state: 'empty', text: 'The run has begun. No block of models has been folded yet.', owner: name, memory }
        : {
            state: 'running',
            text: this.settings?.config.engine === 'exact' ? WHILE_EXACT : 'Models are being folded.',
            owner: name,
            memory,
          };
    }
    if (existsSync(join(this.run, 'run.json')) && this.#isComplete())
      return { ...none, state: 'finished', text: 'All models are folded and all tables written.' };
    return {
      ...none,
      state: 'interrupted',
      text: `${owner.name === null ? 'Nobody writes it any more' : `${owner.name} gives no sign of life`}, and it did not say why it ended: killed, or the machine went down. ${goOn}`,
    };
  }

  /** @param index of the slot in `view.slots` */
  async detail(index: number): Promise<SlotDetail | null> {
    const slot = this.view.slots[index];
    if (slot === undefined) return null;
    const found = this.#tables === null ? null : await detailFromTables(this.#tables, slot, 'tables');
    if (found !== null && (found.curves.models_seen?.length ?? 0) > 0) return found;
    const curves = slot.mode === 'models' ? this.#curves.of(slot.name) : null;
    if (found !== null) return { ...found, curves: curves ?? found.curves };
    return detailFromEvents(this.run, slot, curves ?? { models_seen: [] });
  }

  /** What the run's tables were made of, all blocks told, although the last word is missing. */
  #isComplete(): boolean {
    const { progress, plan } = this.view;
    return plan === null || (progress !== null && progress.bytesRead >= progress.bytesToRead);
  }

  #owner(): { readonly isAlive: boolean; readonly name: string | null; readonly memory: number | null } {
    const gone = { isAlive: false, name: null, memory: null };
    try {
      const found = newestLease(join(this.run, 'checkpoints'));
      if (found === null) return gone;
      // Being written right now.
      if (found.owner === null) return { ...gone, isAlive: true };
      const name = describeOwner(found.owner);
      const alive = isAlive(found.owner);
      if (alive === false) return { ...gone, name };
      if (alive === true) return { isAlive: true, name, memory: residentBytes(found.owner.pid) };
      const stamp = statSync(found.path).mtimeMs;
      const isKnown = this.#lease?.path === found.path && this.#lease.stamp === stamp;
      if (!isKnown) this.#lease = { path: found.path, stamp, since: this.#now() };
      return { isAlive: this.#now() - this.#lease!.since < SILENCE_MS, name, memory: null };
    } catch {
      return gone;
    }
  }

  /** What the run is going to do, from its first checkpoint, or from what it left. */
  #readPlan(): void {
    const begin = this.#readBegin();
    const settings = new RunTables(this.run).readSettings();
    const config = asRecord(begin?.config ?? settings?.config);
    if (config === null) return;
    this.#isPlanned = true;
    this.settings = {
      config,
      device: asRecord(begin?.device ?? settings?.device) ?? {},
      runId: typeof settings?.run_id === 'string' ? settings.run_id : null,
    };
    const modes = Array.isArray(config.mode) ? config.mode.map(String) : ['models'];
    const planned = Array.isArray(begin?.slots) ? begin.slots : [];
    const known = new Set(this.view.slots.map(({ mode, name }) => `${mode} ${name}`));
    const slots: SlotView[] = [...this.view.slots];
    for (const mode of modes) {
      for (const slot of planned) {
        const { name, rows, cols } = slot as Record<string, unknown>;
        if (typeof name !== 'string' || known.has(`${mode} ${name}`)) continue;
        slots.push(unseenSlot(name, mode, numberOrNull(rows), numberOrNull(cols)));
      }
    }
    this.view = { ...this.view, slots };
  }

  #readBegin(): Record<string, unknown> | null {
    try {
      const folder = join(this.run, 'checkpoints');
      const newest = readdirSync(folder)
        .filter((name) => /^manifest-\d+\.json$/.test(name))
        .toSorted()
        .at(-1);
      if (newest === undefined) return null;
      const { manifest } = JSON.parse(readFileSync(join(folder, newest), 'utf8')) as {
        readonly manifest: { readonly content: { readonly begin: string } };
      };
      // Named by a file that may be a stranger's.
      if (!/^begin-[0-9a-f]+\.json$/.test(manifest.content.begin)) return null;
      return asRecord(JSON.parse(readFileSync(join(folder, manifest.content.begin), 'utf8')));
    } catch {
      return null;
    }
  }

  /** What the events lack: all of it in a folder without them, the drift of engine exact in others. */
  async #addTables(tables: RunTables): Promise<void> {
    const settings = tables.readSettings();
    if (settings !== null && this.settings !== null && typeof settings.run_id === 'string')
      this.settings = { ...this.settings, runId: settings.run_id };
    const isMissing = ({ models, calm }: SlotView): boolean => models === 0 || calm.blocks + calm.lastMoved === 0;
    if (this.view.slots.length > 0 && !this.view.slots.some(isMissing)) return;
    const names = new Map<Row[string], Row>();
    for (const row of await tables.rows('slots')) if (row.status !== 'left-out') names.set(row.slot_id!, row);
    const slots = [...this.view.slots];
    const index = new Map(slots.map(({ mode, name }, i) => [`${mode} ${name}`, i]));
    const scree = new Map<string, number[]>();
    for (const { slot_id, mode, component, evr } of await tables.rows('spectrum', [
      'slot_id',
      'mode',
      'component',
      'evr',
    ])) {
      const key = `${mode} ${slot_id}`;
      const shares = scree.get(key) ?? [];
      scree.set(key, shares);
      if (typeof component === 'number' && component < 16) shares[component] = typeof evr === 'number' ? evr : 0;
    }
    const moves = new Map<string, Row[]>();
    const wanted = ['slot_id', 'mode', 'models_seen', 'angle_max_4', 'evr_1', 'evr_4', 'evr_16', 'evr_k'];
    for (const row of await tables.rows('convergence', wanted)) {
      const key = `${row.mode} ${row.slot_id}`;
      const rows = moves.get(key) ?? [];
      moves.set(key, rows);
      rows.push(row);
    }
    for (const row of await tables.rows('subspaces')) {
      const of = names.get(row.slot_id!);
      if (of === undefined) continue;
      const [mode, name] = [String(row.mode), String(of.name)];
      const key = `${mode} ${row.slot_id}`;
      const at = index.get(`${mode} ${name}`) ?? slots.length;
      const before = slots[at] ?? unseenSlot(name, mode, numberOrNull(of.rows), numberOrNull(of.cols));
      const models = numberOrNull(row.n_models) ?? 0;
      const blocks = (moves.get(key) ?? []).toSorted((a, b) => Number(a.models_seen) - Number(b.models_seen));
      const last = blocks.at(-1);
      const shares = scree.get(key) ?? before.scree;
      const sum = (count: number): number | null =>
        shares.length >= count ? shares.slice(0, count).reduce((all, share) => all + share, 0) : null;
      slots[at] = {
        ...before,
        models,
        rank: numberOrNull(row.rank) ?? 0,
        evr_1: before.evr_1 ?? sum(1),
        evr_4: before.evr_4 ?? sum(4),
        evr_16: before.evr_16 ?? sum(16),
        evr_k: before.evr_k ?? numberOrNull(last?.evr_k),
        flat: numberOrNull(row.flat_evr),
        captured: numberOrNull(row.captured),
        mean_only: numberOrNull(row.mean_only),
        components_90: numberOrNull(row.components_90),
        exactness: typeof row.exactness === 'string' ? row.exactness : null,
        scree: shares,
        drift: numberOrNull(last?.angle_max_4) ?? before.drift,
        calm: blocks.reduce(
          (calm, { models_seen, angle_max_4 }) => calmAfter(calm, Number(models_seen), numberOrNull(angle_max_4)),
          restless,
        ),
      };
    }
    this.view = { ...this.view, slots };
  }
}

const asRecord = (value: unknown): Record<string, unknown> | null =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;

const numberOrNull = (value: unknown): number | null =>
  typeof value === 'number' && Number.isFinite(value) ? value : null;

const residentBytes = (pid: number): number | null => {
  try {
    const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return line === null ? null : Number(line[1]) * 1024;
  } catch {
    return null;
  }
};
