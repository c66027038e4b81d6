// Builds elements. Text is only ever set as text: names come from strangers.
import { escapeControls } from '../../sinks/terminal-text.ts';

type Child = Node | string | null;

/** Attributes by name; null leaves one out. */
export type Attributes = Readonly<Record<string, string | number | null>>;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, String(value));
  for (const child of children) if (child !== null) made.append(child);
  return made;
}

/** A name as it may be shown: characters that would turn the reading direction or hide others are spelled out. */
export const shown = (name: string): string => (name === '' ? '(empty name)' : escapeControls(name));

/** A name that may be broken into lines behind its dots, as it is read, and elsewhere only where that does not do. */
export function breakable(name: string): DocumentFragment {
  const made = document.createDocumentFragment();
  for (const part of shown(name).split(/(?<=[./_])(?=\D)/)) made.append(part, document.createElement('wbr'));
  return made;
}

/** Sets the text where it differs: writing it anew costs a layout. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
