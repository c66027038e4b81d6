// Tensor names in a narrow column. Cutting all of them in the middle makes the layers of a network look alike, so
// whole segments go instead: those most names share go first, layer numbers never.
import { displayWidth, truncateMiddle } from './terminal-text.ts';

/** Shortens every name to at most `width` cells: `vit.encoder.layer.3.attention.query.weight` → `vit…3…query.weight`. */
export function shortenNames(names: readonly string[], width: number): string[] {
  const shared = new Map<string, number>();
  for (const name of names) {
    for (const segment of new Set(name.split('.'))) shared.set(segment, (shared.get(segment) ?? 0) + 1);
  }
  return names.map((name) => (displayWidth(name) <= width ? name : shorten(name, width, shared)));
}

function shorten(name: string, width: number, shared: ReadonlyMap<string, number>): string {
  const segments = name.split('.');
  const kept = new Set(segments.keys());
  const order = [...segments.keys()]
    .filter((i) => !/^\d+$/.test(segments[i]!))
    .sort((a, b) => {
      const [x, y] = [segments[a]!, segments[b]!];
      return (shared.get(y) ?? 0) - (shared.get(x) ?? 0) || y.length - x.length || a - b;
    });
  let short = name;
  for (const i of order) {
    if (displayWidth(short) <= width || kept.size === 1) break;
    kept.delete(i);
    short = join(segments, kept);
  }
  return truncateMiddle(short, width);
}

/** A dot between neighbours, an ellipsis where segments are missing. */
function join(segments: readonly string[], kept: ReadonlySet<number>): string {
  let text = '';
  let last = -1;
  for (const i of [...kept].sort((a, b) => a - b)) {
    text += (i > last + 1 ? '…' : i > 0 ? '.' : '') + segments[i]!;
    last = i;
  }
  return last < segments.length - 1 ? `${text}…` : text;
}
