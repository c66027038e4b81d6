// The page: the run's state above, below it all slots or one. Everything is drawn at most once a frame, whatever comes in.
import type { RunAnswer } from '../view/answers.ts';
import { Connection } from './connection.ts';
import { Overview } from './overview.ts';
import { RunHeader } from './run-header.ts';
import { RunNotes } from './run-notes.ts';
import { SlotPage } from './slot-page.ts';

const content = document.querySelector<HTMLElement>('#content')!;
const header = new RunHeader(document.querySelector<HTMLElement>('#run')!);
const overview = new Overview();
const notes = new RunNotes();
let answer: RunAnswer | null = null;
let page: SlotPage | null = null;
let isDue = false;
/** Where the overview was scrolled to. */
let scrolled = 0;

const draw = (): void => {
  isDue = false;
  if (answer === null) return;
  header.show(answer, page === null ? overview.mode : (answer.view.slots[page.index]?.mode ?? 'models'));
  if (page === null) {
    overview.show(answer);
    notes.show(answer);
  } else {
    const slot = answer.view.slots[page.index];
    if (slot !== undefined) page.update(slot, answer.status.state === 'finished');
  }
};

const drawSoon = (): void => {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
};

/** Shows what the address says. */
const route = (): void => {
  const at = /^#\/slot\/(\d{1,9})$/.exec(location.hash)?.[1];
  const index = at === undefined ? -1 : Number(at);
  if (answer === null) return;
  if (answer.view.slots[index] === undefined) {
    const from = page?.index;
    page?.close();
    page = null;
    if (overview.box.isConnected) return;
    content.replaceChildren(overview.box, notes.box);
    draw();
    window.scrollTo(0, scrolled);
    if (from !== undefined)
      overview.box.querySelector<HTMLElement>(`[data-slot="${from}"]`)?.focus({ preventScroll: true });
    return;
  }
  if (page?.index === index) return;
  if (page === null) scrolled = window.scrollY;
  page?.close();
  page = new SlotPage(index, answer);
  content.replaceChildren(page.box);
  window.scrollTo(0, 0);
  content.focus({ preventScroll: true });
  void page.read();
  draw();
};

const connection = new Connection({
  onState: (next) => {
    const isSameLog = answer !== null && next.id === answer.id;
    const isFirst = answer === null;
    answer = next;
    if (isFirst) route();
    else if (!isSameLog && page !== null) void page.read();
    drawSoon();
  },
  onEvent: (next, event) => {
    answer = next;
    page?.take(event);
    drawSoon();
  },
  onLink: (link) => header.showLink(link, answer?.status.state ?? null),
});

window.addEventListener('hashchange', route);
window.addEventListener('keydown', (event) => {
  const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/' && !isTyping && page === null) {
    event.preventDefault();
    overview.focusFilter();
  } else if (event.key === 'Escape' && page !== null) location.hash = '#/';
});

void connection.read();
