// A value as an error message may show it: one short line, with nothing in it that a terminal would obey.
import { escapeControls } from '../sinks/terminal-text.ts';

/** `"text"`, a number, `true`, `a list`, `a mapping`, `nothing`. */
export function showValue(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (typeof value !== 'string') return String(value);
  const short = value.length > 60 ? `${value.slice(0, 57)}...` : value;
  return `"${escapeControls(short)}"`;
}
