// What the page knows, kept up to date: reads the state once, follows the stream of events from there, and reads the state
// anew when the server says that it is behind. A connection that is lost comes back by itself, from the last event seen.
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import type { RunAnswer } from '../view/answers.ts';
import { applyEvent } from '../view/run-view.ts';

export type Link = 'connecting' | 'open' | 'lost';

export interface ConnectionListener {
  /** The state as a whole is new. */
  readonly onState: (answer: RunAnswer) => void;
  /** One event later. */
  readonly onEvent: (answer: RunAnswer, event: LoggedEvent) => void;
  readonly onLink: (link: Link) => void;
}

/** The server speaks every five seconds. */
const SILENCE_MS = 16_000;
const RETRY_MS = 1_500;
const HIDDEN_MS = 60_000;

export class Connection {
  readonly #listener: ConnectionListener;
  #answer: RunAnswer | null = null;
  #lastId = '';
  #source: EventSource | null = null;
  /** Events that came while the state was being read. */
  #waiting: LoggedEvent[] | null = null;
  #isAskedAgain = false;
  #heard = 0;
  #hiding = 0;

  constructor(listener: ConnectionListener) {
    this.#listener = listener;
    setInterval(() => {
      if (this.#source !== null && performance.now() - this.#heard > SILENCE_MS) this.#reopen();
    }, 2_000);
    // A page nobody sees needs no connection: a browser has six for one server.
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.#hiding);
      if (document.hidden) this.#hiding = window.setTimeout(() => this.#close(), HIDDEN_MS);
      else if (this.#source === null && this.#answer !== null) this.#open();
    });
  }

  /** Reads the state, and opens the stream where it is not open. */
  async read(): Promise<void> {
    if (this.#waiting !== null) {
      this.#isAskedAgain = true;
      return;
    }
    this.#waiting = [];
    try {
      const response = await fetch('/api/run');
      if (!response.ok) throw new Error(await response.text());
      const answer = (await response.json()) as RunAnswer;
      this.#lastId = answer.id;
      this.#answer = answer;
      this.#listener.onState(answer);
      const waited: readonly LoggedEvent[] = this.#waiting;
      this.#waiting = null;
      for (const event of waited) this.#take(event);
      if (this.#source === null) this.#open();
    } catch {
      this.#waiting = null;
      this.#listener.onLink('lost');
      setTimeout(() => void this.read(), RETRY_MS);
      return;
    }
    if (this.#isAskedAgain) {
      this.#isAskedAgain = false;
      setTimeout(() => void this.read(), RETRY_MS / 3);
    }
  }

  #open(): void {
    this.#heard = performance.now();
    const source = new EventSource(`/api/events?after=${encodeURIComponent(this.#lastId)}`);
    this.#source = source;
    source.onopen = () => {
      this.#heard = performance.now();
      this.#listener.onLink('open');
    };
    source.onerror = () => {
      this.#listener.onLink('lost');
      // Refused, not cut: the browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.#reopen(), RETRY_MS);
    };
    source.onmessage = ({ data, lastEventId }: MessageEvent<string>) => {
      this.#heard = performance.now();
      this.#lastId = lastEventId;
      const event = JSON.parse(data) as LoggedEvent;
      if (this.#waiting === null) this.#take(event);
      else this.#waiting.push(event);
    };
    source.addEventListener('behind', ({ lastEventId }: MessageEvent<string>) => {
      this.#heard = performance.now();
      this.#lastId = lastEventId;
      void this.read();
    });
    source.addEventListener('status', ({ data }: MessageEvent<string>) => {
      this.#heard = performance.now();
      if (this.#answer === null) return;
      const { now, ...status } = JSON.parse(data) as RunAnswer['status'] & { readonly now: string };
      // The first word of a run that begins tells more than its status.
      const isNew = status.state !== this.#answer.status.state;
      this.#answer = { ...this.#answer, now, status };
      this.#listener.onState(this.#answer);
      if (isNew) void this.read();
    });
  }

  #take(event: LoggedEvent): void {
    if (this.#answer === null || event.seq <= this.#answer.view.seq) return;
    this.#answer = { ...this.#answer, view: applyEvent(this.#answer.view, event) };
    this.#listener.onEvent(this.#answer, event);
  }

  #close(): void {
    this.#source?.close();
    this.#source = null;
  }

  #reopen(): void {
    this.#close();
    this.#listener.onLink('lost');
    this.#open();
  }
}
