// The top of the page: which run, in which state, how far, how fast, until when.
import { formatBytes, formatCount, formatDuration, formatRate, formatRemaining } from '../../sinks/human-format.ts';
import type { RunAnswer } from '../view/answers.ts';
import { RateMeter } from '../view/rate-meter.ts';
import { type RunState, type SlotView, statusOf } from '../view/run-view.ts';
import type { Link } from './connection.ts';
import { element, setText, shown } from './dom.ts';

const STATES: Readonly<Record<RunState, readonly [mark: string, word: string]>> = {
  waiting: ['◌', 'waiting'],
  empty: ['◔', 'starting'],
  running: ['▶', 'running'],
  finished: ['✓', 'finished'],
  failed: ['✕', 'failed'],
  interrupted: ['❚❚', 'interrupted'],
};

export class RunHeader {
  readonly #title = element('a', { href: '#/', class: 'run-name' });
  readonly #state = element('span', { class: 'state', role: 'status' });
  readonly #link = element('span', { class: 'link' });
  readonly #text = element('p', { class: 'state-text' });
  readonly #bar = element('div', {
    class: 'bar',
    role: 'progressbar',
    'aria-label': 'weights read',
    'aria-valuemin': 0,
    'aria-valuemax': 100,
  });
  readonly #full = element('div', { class: 'full' });
  readonly #facts = element('dl', { class: 'facts' });
  readonly #values = new Map<string, HTMLElement>();
  readonly #meter = new RateMeter();

  constructor(box: HTMLElement) {
    this.#bar.append(this.#full);
    box.replaceChildren(
      element(
        'div',
        { class: 'title' },
        element('h1', {}, element('span', { class: 'brand' }, 'weightspan'), ' ', this.#title),
        this.#state,
        this.#link,
      ),
      this.#text,
      this.#bar,
      this.#facts,
    );
  }

  showLink(link: Link, state: RunState | null): void {
    // A run that is over has nothing more to say.
    const isOver = state === 'finished' || state === 'failed' || state === 'interrupted';
    setText(
      this.#link,
      link === 'open'
        ? ''
        : isOver && link === 'lost'
          ? 'server closed; what is shown stays'
          : link === 'lost'
            ? 'connection lost, trying again …'
            : 'connecting …',
    );
    document.documentElement.dataset.link = link;
  }

  show({ name, run, now, status, view }: RunAnswer, mode: string): void {
    const [mark, word] = STATES[status.state];
    setText(this.#title, shown(name));
    this.#title.title = shown(run);
    document.title = `${word} · ${shown(name)} · weightspan`;
    document.documentElement.dataset.state = status.state;
    setText(this.#state, `${mark} ${word}`);
    this.#state.className = `state ${status.state}`;
    setText(this.#text, shown(status.text));

    const { progress, plan, checkpoint } = view;
    const isDone = status.state === 'finished';
    const share = isDone
      ? 1
      : progress === null || progress.bytesToRead === 0
        ? 0
        : progress.bytesRead / progress.bytesToRead;
    const percent = Math.floor(Math.min(1, share) * 100);
    this.#bar.setAttribute('aria-valuenow', String(percent));
    this.#bar.hidden = status.state === 'waiting';
    this.#full.style.width = `${share * 100}%`;

    const rates = this.#meter.measure(view.progress);
    const isRunning = status.state === 'running';
    const slots = view.slots.filter((slot) => slot.mode === mode);
    this.#fact(
      'models',
      progress === null
        ? plan === null
          ? null
          : formatCount(plan.models)
        : isDone
          ? formatCount(progress.models)
          : `${formatCount(progress.modelsSeen)} of ${formatCount(progress.models)}`,
    );
    this.#fact(
      'group',
      isRunning && progress !== null && progress.groups > 1 ? `${progress.group + 1} of ${progress.groups}` : null,
    );
    this.#fact(
      'read',
      progress === null
        ? plan === null
          ? null
          : `0 of ${formatBytes(plan.bytesToRead)}`
        : isDone
          ? formatBytes(progress.bytesRead)
          : `${formatBytes(progress.bytesRead)} of ${formatBytes(progress.bytesToRead)} (${percent}%)`,
    );
    this.#fact(
      'rate',
      rates === null
        ? null
        : `${formatRate(rates.bytes)}${Number.isFinite(rates.models) ? `, ${Number(rates.models.toPrecision(3))} models/s` : ''}`,
    );
    const left =
      progress === null || rates === null ? Number.NaN : (progress.bytesToRead - progress.bytesRead) / rates.bytes;
    this.#fact('time left', isRunning && Number.isFinite(left) ? formatRemaining(left) : null);
    this.#fact('time', progress === null ? null : formatDuration(progress.seconds));
    this.#fact('settled', countSettled(slots));
    this.#fact(
      'memory',
      plan === null
        ? null
        : status.memory === null
          ? `budget ${formatBytes(plan.memory)}`
          : `${formatBytes(status.memory)}, budget ${formatBytes(plan.memory)}`,
    );
    this.#fact(
      'checkpoint',
      checkpoint === null || isDone
        ? null
        : `${formatDuration(Math.max(0, Date.parse(now) - Date.parse(checkpoint.time)) / 1e3)} ago`,
    );
    // The library is what people ask for; its file and kernel stand below, in the configuration.
    this.#fact('device', plan === null ? null : shown(plan.device.replace(/,[^()]*\)$/, ')')));
    this.#fact(
      'warnings',
      view.warnings.length === 0 ? null : String(view.warnings.reduce((sum, { count }) => sum + count, 0)),
    );
    this.#fact('skipped', view.skipped === 0 ? null : formatCount(view.skipped));
  }

  #fact(name: string, value: string | null): void {
    let shownValue = this.#values.get(name);
    if (shownValue === undefined) {
      shownValue = element('dd', { 'data-fact': name });
      this.#values.set(name, shownValue);
      this.#facts.append(element('div', {}, element('dt', {}, name), shownValue));
    }
    shownValue.parentElement!.hidden = value === null;
    if (value !== null) setText(shownValue, value);
  }
}

const countSettled = (slots: readonly SlotView[]): string | null => {
  if (slots.length === 0) return null;
  const settled = slots.filter((slot) => statusOf(slot) === 'settled').length;
  return `${settled} of ${slots.length} slots`;
};
