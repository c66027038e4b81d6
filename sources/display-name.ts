// Names from strangers made fit to show: in messages, logs and tables on a terminal. What moves a cursor, hides or reverses
// text (control, format and private characters, line separators, lone surrogates) becomes \u{…}, so two names that differ
// look different; long names keep their start and end. Never use the result as a key or a path.

const unfit = /[\p{C}\p{Zl}\p{Zp}\\]/gu;

const escaped = (text: string): string =>
  text.replace(unfit, (c) => (c === '\\' ? '\\\\' : `\\u{${c.codePointAt(0)!.toString(16)}}`));

/**
 * The name of a tensor, a shard or a model as it may be shown.
 *
 * @param cap characters of the name (before escaping) that are shown at most
 */
export function displayName(name: string, cap = 120): string {
  if (name === '') return '""';
  if (name.length <= cap) return escaped(name);
  const head = Math.ceil(cap * 0.75);
  return `${escaped(name.slice(0, head))}…${escaped(name.slice(head - cap))} (${name.length} characters)`;
}

/** A path as it may be shown; backslashes stay single, since they are part of Windows paths. */
export const displayPath = (path: string): string => displayName(path, 4096).replaceAll('\\\\', '\\');
