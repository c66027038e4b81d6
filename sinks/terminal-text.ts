// Text for a terminal that holds names from strangers: what could move the cursor, change colours or turn the
// reading direction is shown as an escape, widths are counted in terminal cells, long names lose their middle.

/** Controls, invisible formatting (reading direction among it), lone surrogates, line and paragraph separators. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** Shows every character that a terminal would obey instead of print: ESC → `\x1b`. */
export function escapeControls(text: string): string {
  return text.replace(UNSAFE, (character) => {
    const code = character.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const COMBINING = /\p{M}/u;

function cellsOf(character: string): number {
  if (COMBINING.test(character)) return 0;
  return WIDE.test(character) ? 2 : 1;
}

/** Terminal cells that `text` takes; it must hold no escapes. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of text) width += cellsOf(character);
  return width;
}

/** Takes whole characters from the start (or, with `fromEnd`, the end) up to `width` cells. */
function take(characters: readonly string[], width: number, fromEnd: boolean): string {
  const taken: string[] = [];
  let used = 0;
  for (let i = 0; i < characters.length; i++) {
    const character = characters[fromEnd ? characters.length - 1 - i : i]!;
    used += cellsOf(character);
    if (used > width) break;
    taken.push(character);
  }
  return (fromEnd ? taken.reverse() : taken).join('');
}

/** Shortens to `width` cells by an ellipsis in the middle: both ends of a tensor name say which one it is. */
export function truncateMiddle(text: string, width: number): string {
  if (displayWidth(text) <= width) return text;
  if (width <= 1) return width === 1 ? '…' : '';
  const characters = Array.from(text);
  const end = Math.floor((width - 1) / 2);
  return `${take(characters, width - 1 - end, false)}…${take(characters, end, true)}`;
}

/** Shortens to `width` cells by an ellipsis at the end. */
export function truncateEnd(text: string, width: number): string {
  if (displayWidth(text) <= width) return text;
  return width < 1 ? '' : `${take(Array.from(text), width - 1, false)}…`;
}

export function padEnd(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - displayWidth(text)));
}

export function padStart(text: string, width: number): string {
  return ' '.repeat(Math.max(0, width - displayWidth(text))) + text;
}

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan';

const CODES: Record<Style, number> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 };

/** Paints text where `color` is on; pad and shorten before painting. */
export function painter(color: boolean): (style: Style, text: string) => string {
  return color ? (style, text) => `\x1b[${CODES[style]}m${text}\x1b[0m` : (_, text) => text;
}
