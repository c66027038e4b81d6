// A finished run as one HTML file: pictures, the numbers beside them as tables, and under each what it shows and what it does
// not. No script, nothing loaded: it opens from disk without a network. Reads one slot after the other, and stops at a size.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { formatBytes, formatDuration, formatPlural } from '../../sinks/human-format.ts';
import { RunReader } from '../server/run-reader.ts';
import { RunTables } from '../server/run-tables.ts';
import type { Curves, SlotDetail } from '../view/answers.ts';
import { evrOfKept, metrics } from '../view/metrics.ts';
import { type SlotView, statusOf, statusWord } from '../view/run-view.ts';
import { SETTLED_DEGREES, SETTLED_TEXT } from '../view/settled.ts';
import { breakable, htmlTable, safe, safeName } from './html.ts';
import { slotBars } from './slot-bars.ts';
import { type Curve, curveChart, scatterChart } from './svg-chart.ts';

/** Of slots in full; what is above it is in the summary table alone. */
const MOST_BYTES = 1_500_000;
const MOST_BARS = 400;
const MOST_CURVES = 200;
const MOST_POINTS = 1_000;
const MOST_COMPONENTS = 32;
const MOST_NAMES = 300;

const share = (value: number | null): string => (value === null ? '–' : value.toFixed(3));
const degrees = (value: number | null): string => (value === null ? '–' : `${value.toFixed(1)}°`);
const of90 = metrics.find(({ name }) => name === 'components_90')!;

/** Rejects where the tables cannot be read. */
export async function renderReport(run: string): Promise<string> {
  const reader = new RunReader(run);
  while ((await reader.look()).hasMore);
  const { view, settings } = reader;
  const name = basename(resolve(run));
  const details: SlotDetail[] = [];
  const sections: string[] = [];
  let bytes = 0;
  let inFull = 0;
  for (const [i, slot] of view.slots.entries()) {
    if (bytes > MOST_BYTES && details.length >= MOST_CURVES) break;
    const detail = await reader.detail(i);
    if (detail === null) continue;
    if (details.length < MOST_CURVES) details.push(detail);
    if (bytes > MOST_BYTES) continue;
    const section = slotSection(slot, detail);
    sections.push(section);
    bytes += Buffer.byteLength(section);
    inFull++;
  }
  const left = view.slots.length - inFull;
  const body = [
    head(name, reader),
    summarySection(view.slots),
    convergenceSection(details, view.slots.length),
    `<section><h2>Slot by slot</h2>${left > 0 ? `<p>${formatPlural(inFull, 'slot')} in full; ${left} more are in the table above and in the run folder, so that this file stays small.</p>` : ''}${sections.join('')}</section>`,
    await aboutSection(run, reader),
  ];
  const root = dirname(createRequire(import.meta.url).resolve('weightspan/package.json'));
  const css = ['watch/view/colors.css', 'watch/report/report.css']
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .join('');
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>${safeName(name)} · weightspan report</title>
<style>${css}</style></head><body><main>
${body.join('\n')}
</main><footer><p>Written by weightspan${settings?.runId == null ? '' : `, run ${safe(settings.runId)}`}. The numbers are those of the run's Parquet tables.</p></footer></body></html>
`;
}

const head = (name: string, { view, settings }: RunReader): string => {
  const { progress, plan } = view;
  const slots = new Set(view.slots.map(({ name: slot }) => slot)).size;
  const models = view.slots.reduce((most, slot) => Math.max(most, slot.models), 0);
  const config = settings?.config ?? {};
  const modes = [...new Set(view.slots.map(({ mode }) => mode))].join(', ');
  const settled = view.slots.filter((slot) => statusOf(slot) === 'settled').length;
  const what = `${formatPlural(models, 'model')} were folded into ${formatPlural(slots, 'slot')} (engine ${safe(String(config.engine ?? 'unknown'))}, mode ${safe(modes)}, at most ${safe(String(config.rank ?? '?'))} directions each${config.base == null ? '' : `, relative to the base ${safe(String(config.base))}`}).`;
  const cost =
    progress === null
      ? ''
      : ` ${formatBytes(progress.bytesRead)} were read in ${formatDuration(progress.seconds)}${plan === null ? '' : ` on ${safe(plan.device)}`}.`;
  return `<header><p class="brand">weightspan report</p><h1>${safeName(name)}</h1><p>${what}${cost} ${settled} of ${formatPlural(view.slots.length, 'slot')} settled.</p>
<p class="caution">A high share is no proof that models share a subspace. Models with a common pretrained base, seed or mean share directions for that reason alone, and no null model was run to tell this apart. With few models every share is high: compare it with the flat line, and look at “captured”.</p></header>`;
};

const summarySection = (slots: readonly SlotView[]): string => {
  const bars = slots.slice(0, MOST_BARS).map((slot) => ({
    name: labelOf(slot),
    evr: evrOfKept(slot),
    flat: slot.flat,
    captured: slot.captured,
  }));
  const more = slots.length - bars.length;
  const rows = slots.map((slot) => [
    labelOf(slot),
    slot.rows === null ? '–' : `${slot.rows}×${slot.cols}`,
    String(slot.models),
    share(slot.evr_1),
    share(slot.evr_4),
    share(slot.evr_16),
    share(evrOfKept(slot)),
    share(slot.flat),
    of90.format(slot),
    share(slot.captured),
    share(slot.mean_only),
    degrees(slot.drift),
    statusWord(slot, true),
  ]);
  const headings = [
    'slot',
    'shape',
    'models',
    'EVR 1',
    '4',
    '16',
    'kept',
    'flat',
    '90% at',
    'captured',
    'mean only',
    'drift',
    'status',
  ];
  return `<section><h2>All slots</h2>${slotBars('EVR, flat line and captured share of every slot', bars)}
${more > 0 ? `<p class="note">The first ${bars.length} slots are drawn; ${more} more are in the table.</p>` : ''}
<p class="says"><strong>Shows</strong> how much of the variance between the models lies in the directions that were kept, how much would without any structure (flat), and how much of later models lay in the subspace that earlier models had given (captured). <strong>Does not show</strong> why: a bar that ends well to the right of its tick is structure of any origin, and a ring far left of its bar says that new models need new directions.</p>
${htmlTable(headings, rows, 'Every slot in numbers')}
<p class="note">EVR: share of the exact total variance in the first 1, 4, 16 and all kept directions. 90% at: directions that reach 90%; &gt; means more than were kept. Mean only: share of the sum of squares that the mean alone accounts for. Drift: largest principal angle of the first 4 directions at the last block. ${safe(SETTLED_TEXT)}.</p></section>`;
};

const labelOf = ({ name, mode }: SlotView): string => (mode === 'models' ? name : `${name} (${mode})`);

const numbers = (curves: Curves, name: string): readonly (number | null)[] => curves[name] ?? [];
const seen = (curves: Curves): readonly number[] => numbers(curves, 'models_seen').map((value) => value ?? 0);

/** The median over slots wherever one of them has a value. */
const median = (
  details: readonly SlotDetail[],
  name: string,
): { readonly x: readonly number[]; readonly values: readonly number[] } => {
  const at = new Map<number, number[]>();
  for (const { curves } of details) {
    const values = numbers(curves, name);
    seen(curves).forEach((x, i) => {
      const value = values[i] ?? null;
      if (value !== null) at.set(x, [...(at.get(x) ?? []), value]);
    });
  }
  const sorted = [...at].sort(([a], [b]) => a - b);
  return {
    x: sorted.map(([x]) => x),
    values: sorted.map(([, values]) => {
      const order = values.toSorted((a, b) => a - b);
      const middle = (order.length - 1) / 2;
      return (order[Math.floor(middle)]! + order[Math.ceil(middle)]!) / 2;
    }),
  };
};

const convergenceSection = (details: readonly SlotDetail[], all: number): string => {
  const drawn = details.filter(({ slot }) => slot.mode === 'models');
  if (drawn.length === 0) return '';
  const many = (name: string): (Curve & { x: readonly number[] })[] =>
    drawn.map(({ curves }) => ({
      label: '',
      tone: 0,
      values: numbers(curves, name),
      x: seen(curves),
      isOneOfMany: true,
    }));
  const middle = { angles: median(drawn, 'drift'), captured: median(drawn, 'captured'), evr: median(drawn, 'evr_1') };
  const limit = {
    label: `settled below ${SETTLED_DEGREES}°`,
    tone: 5,
    x: middle.angles.x,
    values: middle.angles.x.map(() => SETTLED_DEGREES),
  };
  const rows = middle.evr.x.map((x, i) => {
    const of = ({
      x: xs,
      values,
    }: {
      readonly x: readonly number[];
      readonly values: readonly number[];
    }): number | null => values[xs.indexOf(x)] ?? null;
    return [String(x), share(middle.evr.values[i] ?? null), degrees(of(middle.angles)), share(of(middle.captured))];
  });
  const which = drawn.length < all ? `the first ${drawn.length} slots` : 'all slots';
  return `<section><h2>As models arrived</h2><div class="pictures">
<figure>${curveChart({ title: 'Drift of every slot over models seen', xLabel: 'models seen', yLabel: 'degrees', x: [], curves: [...many('drift'), { label: 'median slot', tone: 1, ...middle.angles }, limit], yRange: [0, 90] })}<figcaption>Drift: the largest principal angle of the first 4 directions against the block before.</figcaption></figure>
<figure>${curveChart({ title: 'Captured share of every slot over models seen', xLabel: 'models seen', yLabel: 'captured', x: [], curves: [...many('captured'), { label: 'median slot', tone: 1, ...middle.captured }], yRange: [0, 1] })}<figcaption>Captured: the share of new models that lay in the subspace before they were folded.</figcaption></figure></div>
<p class="says"><strong>Shows</strong>, for ${which}, whether directions still turn as models are added, and whether the subspace already describes models it has not seen. <strong>Does not show</strong> what other models would do: the order and the choice of models are part of it, and on a flat spectrum directions never settle.</p>
${htmlTable(['models seen', 'EVR 1', 'drift', 'captured'], rows.slice(-64), 'The median slot in numbers')}</section>`;
};

const slotSection = (
  slot: SlotView,
  { spectrum, boundKind, curves, models, warnings, modelsLeftOut }: SlotDetail,
): string => {
  const points = spectrum.slice(0, MOST_COMPONENTS);
  const x = points.map((_, i) => i + 1);
  const each = slot.flat === null || slot.rank === 0 ? null : slot.flat / slot.rank;
  const flat = (values: readonly number[]): Curve[] => (each === null ? [] : [{ label: 'flat', tone: 1, values }]);
  const hasBounds = points.some(({ low }) => low !== null);
  const scree: Curve = {
    label: hasBounds ? 'EVR, with bounds' : 'EVR',
    tone: 0,
    values: points.map(({ evr }) => evr),
    ...(hasBounds ? { band: { low: points.map(({ low }) => low), high: points.map(({ high }) => high) } } : {}),
  };
  const evr = (['1', '4', '16', 'k'] as const).flatMap((cut, i): Curve[] => {
    const values = numbers(curves, `evr_${cut}`);
    return values.some((value) => value !== null) ? [{ label: `EVR ${cut}`, tone: i, values }] : [];
  });
  const pictures = [
    `<figure>${curveChart({ title: `Spectrum of ${slot.name}`, xLabel: 'component', yLabel: 'share of variance', x, curves: [scree, ...flat(x.map(() => each ?? 0))], yRange: [0, 0.05] })}<figcaption>Spectrum beside the flat line.</figcaption></figure>`,
    `<figure>${curveChart({ title: `Cumulative EVR of ${slot.name}`, xLabel: 'first components', yLabel: 'cumulative EVR', x, curves: [{ label: 'cumulative EVR', tone: 0, values: points.map(({ cumulative }) => cumulative) }, ...flat(x.map((j) => Math.min(1, j * (each ?? 0))))], yRange: [0, 1] })}<figcaption>The first directions together.</figcaption></figure>`,
    `<figure>${curveChart({ title: `EVR of ${slot.name} over models seen`, xLabel: 'models seen', yLabel: 'EVR', x: seen(curves), curves: evr, yRange: [0, 1] })}<figcaption>EVR as models arrived.</figcaption></figure>`,
    ...(models.length === 0
      ? []
      : [
          `<figure>${scatterChart(
            `Models of ${slot.name} on components 1 and 2`,
            'component 1',
            'component 2',
            models
              .slice(0, MOST_POINTS)
              .map(({ name, coordinates }) => ({ name, x: coordinates[0] ?? 0, y: coordinates[1] ?? 0 })),
          )}<figcaption>Models on components 1 and 2${models.length > MOST_POINTS || modelsLeftOut > 0 ? `, the first ${MOST_POINTS}` : ''}; point at one for its name.</figcaption></figure>`,
        ]),
  ];
  const exact =
    boundKind === 'exact'
      ? 'The spectrum is exact: nothing but rounding noise was dropped.'
      : `The band encloses the true values (${boundKind ?? 'no bounds are known'}).`;
  const rows = points.map(({ eigenvalue, evr: part, low, high, cumulative }, i) => [
    String(i + 1),
    eigenvalue.toPrecision(6),
    ...[part, low, high, cumulative].map((value) => (value === null ? '–' : value.toPrecision(4))),
  ]);
  const status = slot.models === 0 ? 'no models' : statusWord(slot, true);
  return `<details><summary><span class="name">${breakable(safeName(labelOf(slot)))}</span> <span class="gist">EVR ${share(evrOfKept(slot))}, flat ${share(slot.flat)}, captured ${share(slot.captured)}, ${status}</span></summary>
${warnings.map((text) => `<p class="warning">${breakable(safe(text))}</p>`).join('')}<div class="pictures">${pictures.join('')}</div>
<p class="says"><strong>Shows</strong> in how many directions the ${formatPlural(slot.models, 'model')} differ in this slot, and where each of them lies. ${safe(exact)} <strong>Does not show</strong> what a direction means: its sign is a convention, and neighbours with close eigenvalues may be any rotation of each other.</p>
${htmlTable(['component', 'eigenvalue', 'EVR', 'at least', 'at most', 'cumulative'], rows, 'Spectrum in numbers')}</details>`;
};

const aboutSection = async (run: string, { view, settings }: RunReader): Promise<string> => {
  const tables = new RunTables(run);
  const warnings = view.warnings.map(({ code, text, of, count, names }) => [
    code,
    of === null ? '' : `${formatPlural(count, of)}: ${names.join(', ')}${count > names.length ? ', …' : ''}`,
    text,
  ]);
  const models = await tables.rows('models', ['model_id', 'name', 'role', 'status', 'reason']);
  const modelRows = models
    .slice(0, MOST_NAMES)
    .map(({ name, role, status, reason }) => [
      String(name),
      String(role),
      String(status),
      reason === null ? '' : String(reason),
    ]);
  const leftOut = (await tables.rows('slots', ['name', 'status', 'reason'])).filter(
    ({ status }) => status === 'left-out',
  );
  const config = Object.entries(settings?.config ?? {})
    .filter(([, value]) => value !== null && !(Array.isArray(value) && value.length === 0))
    .map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]);
  const part = (title: string, content: string): string => `<details><summary>${title}</summary>${content}</details>`;
  return `<section><h2>The run</h2>
${warnings.length === 0 ? '<p>Nothing was warned about.</p>' : htmlTable(['warning', 'of', 'what'], warnings, 'Warnings')}
${part(`Models (${models.length})`, `${models.length > MOST_NAMES ? `<p>The first ${MOST_NAMES}.</p>` : ''}${htmlTable(['model', 'role', 'status', 'reason'], modelRows, 'Models in the order of folding')}`)}
${
  leftOut.length === 0
    ? ''
    : part(
        `Slots left out (${leftOut.length})`,
        htmlTable(
          ['slot', 'reason'],
          leftOut.slice(0, MOST_NAMES).map(({ name, reason }) => [String(name), String(reason)]),
          'Slots left out',
        ),
      )
}
${part('Configuration', htmlTable(['option', 'value'], config, 'What was asked for'))}</section>`;
};
