// Shows a run on a terminal: redrawn in place, at most five times a second, where there is one; a line every few
// seconds in logs and pipes. NO_COLOR turns colours off; CI and TERM=dumb the redrawing. Ends in the summary.
import type { Writable } from 'node:stream';
import type { TelemetryEvent } from '../pipeline/telemetry.ts';
import { renderSummary } from './summary.ts';
import { displayWidth, escapeControls } from './terminal-text.ts';
import {
  emptyView,
  renderPlanLine,
  renderProgressLine,
  renderResumedLines,
  renderView,
  updateView,
  type ViewState,
} from './terminal-view.ts';
import { openTextStream, type TextStream } from './text-stream.ts';

const REDRAW_MS = 200;
const LINE_MS = 5_000;
const MOST_SKIP_LINES = 10;
/** Where there is no terminal to ask, as in a file: wide enough for every column of the summary. */
const PIPE_COLUMNS = 132;

/** A stream that may be a terminal, as process.stdout and process.stderr. */
export type TerminalStream = Writable & { isTTY?: boolean; columns?: number; rows?: number };

export interface TerminalOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Milliseconds; for tests. */
  readonly now?: () => number;
  /** Called once when the reader goes (EPIPE). */
  readonly onClosed?: (cause: Error) => void;
}

/** The terminal sink. `show` takes telemetry and returns at once; `close` ends the live view. */
export class Terminal {
  readonly #stream: TerminalStream;
  readonly #text: TextStream;
  readonly #live: boolean;
  readonly #color: boolean;
  readonly #now: () => number;
  #state: ViewState = emptyView;
  #files: { file: string; bytes: number }[] = [];
  #skipLines = 0;
  #lastShown = Number.NEGATIVE_INFINITY;
  #unshown = false;
  #drawn: readonly string[] = [];
  #timer: NodeJS.Timeout | null = null;

  constructor(
    stream: TerminalStream,
    { env = process.env, now = () => performance.now(), onClosed }: TerminalOptions = {},
  ) {
    this.#stream = stream;
    this.#text = openTextStream(stream, onClosed);
    const set = (name: string): boolean => (env[name] ?? '') !== '';
    const terminal = stream.isTTY === true && env.TERM !== 'dumb';
    this.#live = terminal && (!set('CI') || env.CI === 'false');
    this.#color = terminal && !set('NO_COLOR');
    this.#now = now;
  }

  show(event: TelemetryEvent): void {
    this.#state = updateView(this.#state, event);
    switch (event.type) {
      case 'plan':
        this.#print([renderPlanLine(event)]);
        return;
      case 'skip':
        this.#showSkip(event.model, event.slot, event.reason);
        return;
      case 'notice':
        this.#print([`weightspan: ${escapeControls(event.text)}`]);
        return;
      case 'resumed':
        this.#print(renderResumedLines(event));
        return;
      case 'write':
        this.#files.push({ file: event.file, bytes: event.bytes });
        if (this.#live) this.#progress();
        return;
      case 'block':
        this.#progress();
        return;
      case 'done':
        this.#finish(this.#live);
        this.#print(renderSummary(event, { columns: this.#columns(), color: this.#color, files: this.#files }));
        return;
      case 'stopped':
      case 'failed':
        // The error itself is the caller's to report, once.
        this.#finish();
        return;
      default:
        return;
    }
  }

  /** Ends the live view where it stands. Resolves when all text has left the process, or the reader has gone. */
  close(): Promise<void> {
    this.#finish();
    return this.#text.flush();
  }

  #columns(): number {
    const { isTTY, columns } = this.#stream;
    return isTTY === true && columns !== undefined && columns > 0 ? columns : PIPE_COLUMNS;
  }

  #showSkip(model: string, slot: string | null, reason: string): void {
    this.#skipLines++;
    if (this.#skipLines > MOST_SKIP_LINES + 1) return;
    const what = slot === null ? model : `${model}, ${slot}`;
    this.#print([
      this.#skipLines > MOST_SKIP_LINES
        ? 'more is skipped: see models.parquet and model_slots.parquet'
        : escapeControls(`skipped ${what}: ${reason}`),
    ]);
  }

  #progress(): void {
    this.#unshown = true;
    const wait = this.#lastShown + (this.#live ? REDRAW_MS : LINE_MS) - this.#now();
    if (wait <= 0) {
      this.#showProgress();
    } else if (this.#live && this.#timer === null) {
      // Unreferenced: a view that waits to be drawn must not keep a finished process alive.
      this.#timer = setTimeout(() => this.#showProgress(), wait).unref();
    }
  }

  #showProgress(): void {
    this.#stopTimer();
    this.#lastShown = this.#now();
    this.#unshown = false;
    if (this.#live) {
      this.#redraw();
      return;
    }
    const line = renderProgressLine(this.#state);
    if (line !== null) this.#text.write(`${line}\n`);
  }

  /** Shows the last block, however soon it came. The view stays, or makes room for the summary. */
  #finish(replaced = false): void {
    if (replaced) this.#text.write(this.#erase());
    else if (this.#unshown) this.#showProgress();
    this.#unshown = false;
    this.#stopTimer();
    this.#drawn = [];
  }

  /** Prints lines that stay, above the live view. */
  #print(lines: readonly string[]): void {
    const above = lines.map((line) => `${line}\n`).join('');
    this.#text.write(`${this.#erase()}${above}${this.#drawn.map((line) => `${line}\n`).join('')}`);
  }

  #redraw(): void {
    const size = { columns: this.#columns(), rows: this.#stream.rows ?? 24, color: this.#color };
    const erase = this.#erase();
    this.#drawn = renderView(this.#state, size);
    this.#text.write(erase + this.#drawn.map((line) => `${line}\n`).join(''));
  }

  /** To the first line of the view and clear from there, counting lines that wrap since the window shrank. */
  #erase(): string {
    if (this.#drawn.length === 0) return '';
    const columns = this.#columns();
    const up = this.#drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(plainWidth(line) / columns)), 0);
    return `\x1b[${up}A\r\x1b[J`;
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

function plainWidth(line: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the colours we added ourselves
  return displayWidth(line.replace(/\x1b\[\d+m/g, ''));
}
