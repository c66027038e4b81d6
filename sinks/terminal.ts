// Shows a run on a terminal: redrawn in place, at most five times a second, where there is one. In logs (a pipe, a file, Slurm's)
// a line every five seconds, and of a run that goes on ever fewer, so that a night's log can be read. NO_COLOR turns colours
// off, CI the redrawing, TERM=dumb both. Ends in the summary.
import type { Writable } from 'node:stream';
import type { TelemetryEvent } from '../pipeline/telemetry.ts';
import { renderSummary } from './summary.ts';
import { displayWidth, escapeControls } from './terminal-text.ts';
import {
  emptyView,
  renderPlanLines,
  renderProgressLine,
  renderResumedLines,
  renderView,
  updateView,
  type ViewState,
} from './terminal-view.ts';
import { openTextStream, type TextStream } from './text-stream.ts';

const REDRAW_MS = 200;
const LINE_MS = 5_000;
const MOST_LINE_MS = 300_000;
/** Of the time so far, between two lines. */
const LINE_SHARE = 0.05;
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
  #started: number | null = null;
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
    const ci = env.CI ?? '';
    this.#live = stream.isTTY === true && env.TERM !== 'dumb' && (ci === '' || ci === 'false');
    this.#color = wantsColor(stream, env);
    this.#now = now;
  }

  show(event: TelemetryEvent): void {
    this.#state = updateView(this.#state, event);
    switch (event.type) {
      case 'plan':
        // A log has one line for one thing.
        this.#print(
          renderPlanLines(event, this.#stream.isTTY === true ? this.#columns() - 1 : Number.POSITIVE_INFINITY),
        );
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
        this.#draw(renderSummary(event, { columns: this.#columns(), color: this.#color, files: this.#files }), []);
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
    const now = this.#now();
    this.#started ??= now;
    const pace = this.#live ? REDRAW_MS : Math.min(MOST_LINE_MS, Math.max(LINE_MS, LINE_SHARE * (now - this.#started)));
    const wait = this.#lastShown + pace - now;
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
    if (!replaced && this.#unshown) this.#showProgress();
    this.#unshown = false;
    this.#stopTimer();
    if (!replaced) this.#drawn = [];
  }

  /** Prints lines that stay, above the live view. */
  #print(lines: readonly string[]): void {
    this.#draw(lines, this.#drawn);
  }

  #redraw(): void {
    const size = { columns: this.#columns(), rows: this.#stream.rows ?? 24, color: this.#color };
    this.#draw([], renderView(this.#state, size));
  }

  /**
   * Puts lines that stay, and below them a view, over the view that stood there. Line by line: a screen that is cleared as a
   * whole flickers, and some terminals keep all of it in their history each time.
   */
  #draw(above: readonly string[], view: readonly string[]): void {
    const lines = [...above, ...view];
    const up = this.#height();
    this.#drawn = view;
    if (up === 0) this.#text.write(lines.map((line) => `${line}\n`).join(''));
    else this.#text.write(`\x1b[${up}A\r${lines.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J`);
  }

  /** Rows of the view on the screen, counting lines that wrap since the window shrank. */
  #height(): number {
    const columns = this.#columns();
    return this.#drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(plainWidth(line) / columns)), 0);
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Whether colours are of use there, and wanted. */
export const wantsColor = (stream: TerminalStream, env: TerminalOptions['env'] = process.env): boolean =>
  stream.isTTY === true && env.TERM !== 'dumb' && (env.NO_COLOR ?? '') === '';

function plainWidth(line: string): number {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the colours we added ourselves
  return displayWidth(line.replace(/\x1b\[\d+m/g, ''));
}
