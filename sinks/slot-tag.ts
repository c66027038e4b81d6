// A slot's name as part of a TensorBoard tag or as a Prometheus label. Both show it as text, but names come from strangers:
// controls are spelled out, and a name of a megabyte is cut, since it is repeated with every number. Whatever was changed
// gets a digest of the name, so that no two slots share a tag.
import { createHash } from 'node:crypto';
import { escapeControls, truncateMiddle } from './terminal-text.ts';

const LONGEST = 200;

export function slotTag(name: string): string {
  const shown = truncateMiddle(escapeControls(name), LONGEST);
  if (shown === name && name !== '') return name;
  // JSON spells lone surrogates out, which UTF-8 would make the same.
  const digest = createHash('sha256').update(JSON.stringify(name)).digest('hex').slice(0, 8);
  return `${shown}~${digest}`;
}
