// Below the slots: what the run warned about, what happened on the way, and what was asked of it.
import type { RunAnswer } from '../view/answers.ts';
import { element, shown } from './dom.ts';

export class RunNotes {
  readonly box = element('section', { class: 'run-notes', 'aria-label': 'the run' });
  #drawn = '';

  show({ view, settings, run, status }: RunAnswer): void {
    const drawn = JSON.stringify([view.warnings, view.notes.length, view.notes.at(-1), settings, status.owner]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const open = new Set(
      [...this.box.querySelectorAll('details')].filter((one) => one.open).map((one) => one.dataset.part),
    );
    const part = (name: string, title: string, content: HTMLElement): HTMLElement => {
      const details = element('details', { 'data-part': name }, element('summary', {}, title), content);
      details.open = open.has(name);
      return details;
    };
    const count = view.warnings.reduce((sum, warning) => sum + warning.count, 0);
    const warnings = view.warnings.map(({ code, text, of, count, names }) => {
      const who =
        of === null
          ? ''
          : ` (${count} ${of}${count === 1 ? '' : 's'}: ${names.map(shown).join(', ')}${count > names.length ? ', …' : ''})`;
      return element('li', {}, element('strong', {}, shown(code)), `: ${shown(text)}${who}`);
    });
    const notes = view.notes
      .toReversed()
      .map(({ time, text }) => element('li', {}, element('time', {}, shown(time)), ` ${shown(text)}`));
    const facts: (readonly [string, unknown])[] = [
      ['run', run],
      ['run_id', settings?.runId ?? null],
      ['written by', status.owner],
      ...Object.entries(settings?.device ?? {}).map(([name, value]) => [`device ${name}`, value] as const),
      ...Object.entries(settings?.config ?? {}),
    ];
    const config = facts
      .filter(([, value]) => value !== null && value !== undefined && !(Array.isArray(value) && value.length === 0))
      .map(([name, value]) =>
        element(
          'div',
          {},
          element('dt', {}, shown(name)),
          element('dd', {}, shown(typeof value === 'string' ? value : JSON.stringify(value))),
        ),
      );
    this.box.replaceChildren(
      ...(warnings.length === 0 ? [] : [part('warnings', `Warnings (${count})`, element('ul', {}, ...warnings))]),
      ...(notes.length === 0 ? [] : [part('notes', 'What happened', element('ul', {}, ...notes))]),
      ...(settings === null ? [] : [part('config', 'Configuration', element('dl', { class: 'config' }, ...config))]),
    );
  }
}
