// All slots under each other, a line each: EVR as a bar, the flat line as a tick, captured as a ring. Boxes and not an SVG, so
// that a phone has the name above its bar instead of beside it.
import { breakable, safe, safeName } from './html.ts';

export interface SlotBar {
  readonly name: string;
  readonly evr: number | null;
  readonly flat: number | null;
  readonly captured: number | null;
}

const percent = (value: number): string => `${(100 * Math.min(1, Math.max(0, value))).toFixed(1)}%`;

const mark = (kind: string, side: 'left' | 'width', value: number | null): string =>
  value === null ? '' : `<span class="mark ${kind}" style="${side}:${percent(value)}"></span>`;

const key = (kind: string, text: string): string => `<span><em class="key ${kind}"></em>${text}</span>`;

export function slotBars(title: string, bars: readonly SlotBar[]): string {
  const rows = bars.map(
    ({ name, evr, flat, captured }) =>
      `<div class="row"><span class="label">${breakable(safeName(name))}</span><span class="track">${mark('bar', 'width', evr)}${mark('flat', 'left', flat)}${mark('captured', 'left', captured)}</span></div>`,
  );
  const scale = [0, 0.25, 0.5, 0.75, 1]
    .map((tick) => `<span class="mark" style="left:${percent(tick)}">${tick}</span>`)
    .join('');
  const legend = `<p class="legend">${key('bar', 'EVR of the kept directions')} ${key('flat', 'flat: without structure')} ${key('captured', 'captured')}</p>`;
  return `${legend}<div class="bars" role="img" aria-label="${safe(title)}">${rows.join('')}<div class="row scale"><span class="label"></span><span class="track">${scale}</span></div></div>`;
}
