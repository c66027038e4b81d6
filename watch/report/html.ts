// HTML as text. Everything that comes from a file goes through `safe`, which leaves nothing that HTML or a reader's eye would
// take for more than text.
import { escapeControls } from '../../sinks/terminal-text.ts';

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

export const safe = (text: string): string => escapeControls(text).replace(/[&<>"']/g, (one) => ENTITIES[one]!);

/** A name, which may be empty. */
export const safeName = (name: string): string => (name === '' ? '(empty name)' : safe(name));

/** Long names may be broken behind their dots. */
export const breakable = (html: string): string => html.replace(/\.(?=\D)/g, '.<wbr>');

/** Numbers are shorter: what is longer is text, and may be broken into lines. */
const LONG = 24;

/** Rows of text; the first cell of a row is its head. */
export const htmlTable = (head: readonly string[], rows: readonly (readonly string[])[], caption: string): string => {
  const kinds = head.map((_, j) => (j > 0 && rows.some((row) => (row[j] ?? '').length > LONG) ? ' class="text"' : ''));
  const heads = head.map((text, j) => `<th scope="col"${kinds[j]}>${safe(text)}</th>`).join('');
  const cells = (texts: readonly string[]): string =>
    texts.map((text, j) => `<td${kinds[j + 1]}>${breakable(safe(text))}</td>`).join('');
  const body = rows.map(
    ([first, ...rest]) => `<tr><th scope="row">${breakable(safeName(first ?? ''))}</th>${cells(rest)}</tr>`,
  );
  return `<div class="table" tabindex="0" role="region" aria-label="${safe(caption)}"><table><caption>${safe(caption)}</caption><thead><tr>${heads}</tr></thead><tbody>${body.join('')}</tbody></table></div>`;
};
