// The small pure parts that server, page and report share.
import { expect, it } from 'vitest';
import type { LoggedEvent } from '../../pipeline/telemetry.ts';
import { curveChart, ticks } from '../../watch/report/svg-chart.ts';
import { evrOfKept, metrics, RAMP_STEPS, rampStep } from '../../watch/view/metrics.ts';
import { applyEvent, emptyRun, type RunView, statusOf, unseenSlot } from '../../watch/view/run-view.ts';
import { calmAfter, isSettled, restless } from '../../watch/view/settled.ts';
import { layOut } from '../../watch/view/slot-grid.ts';
import { blockOf, failed, plan, progressOf, stopped } from './watched-run.ts';

const calmOf = (blocks: readonly (readonly [models: number, drift: number | null])[]) =>
  blocks.reduce((calm, [models, drift]) => calmAfter(calm, models, drift), restless);

it.each([
  [
    'never moved below the limit',
    [
      [10, null],
      [20, 40],
      [30, 20],
    ],
    false,
  ],
  [
    'two calm blocks',
    [
      [10, null],
      [20, 4],
      [30, 4],
    ],
    false,
  ],
  [
    'three calm blocks over far more than a tenth',
    [
      [10, null],
      [20, 4],
      [30, 4],
      [40, 4],
    ],
    true,
  ],
  [
    '5 degrees are not below 5',
    [
      [10, null],
      [20, 4],
      [30, 4],
      [40, 5],
    ],
    false,
  ],
  [
    'three calm blocks within the last tenth, one before it not',
    [
      [97, 9],
      [98, 4],
      [99, 4],
      [100, 4],
    ],
    false,
  ],
  [
    'the last tenth just covered',
    [
      [90, 9],
      [94, 4],
      [97, 4],
      [100, 4],
    ],
    true,
  ],
  [
    'no angle in between',
    [
      [60, 4],
      [70, 4],
      [80, 4],
      [100, null],
    ],
    false,
  ],
] as const)('settled: %s', (_, blocks, expected) => {
  expect(isSettled(calmOf(blocks), blocks.at(-1)![0])).toBe(expected);
});

const logged = (events: readonly Parameters<typeof blockOf>[1][]): LoggedEvent[] =>
  events.map((slots, i) => ({ ...blockOf(i, slots), seq: i + 1, time: new Date(i).toISOString() }) as LoggedEvent);

it('takes an event once', () => {
  const [event] = logged([[progressOf('a', 0.5, null)]]);
  const once = applyEvent(emptyRun, event!);
  expect(applyEvent(once, event!)).toBe(once);
  expect(once.slots).toMatchObject([{ name: 'a', models: 4, evr_k: 0.5, rank: 4 }]);
});

it('comes to the same from a state that was sent on the way', () => {
  const events = logged(
    Array.from({ length: 9 }, (_, i) => [progressOf('a', 0.5, 9 - i), progressOf('__proto__', 0.2, i)]),
  );
  const all = events.reduce(applyEvent, emptyRun);
  for (let cut = 0; cut <= events.length; cut++) {
    const sent = JSON.parse(JSON.stringify(events.slice(0, cut).reduce(applyEvent, emptyRun))) as RunView;
    expect(events.reduce(applyEvent, sent)).toEqual(all);
  }
  expect(all.slots.map(({ name }) => name)).toEqual(['a', '__proto__']);
});

it('changes no view that was there before', () => {
  const [first, second] = logged([[progressOf('a', 0.5, null)], [progressOf('b', 0.25, 1)]]);
  const before = applyEvent(emptyRun, first!);
  const copy = structuredClone(before);
  applyEvent(before, second!);
  expect(before).toEqual(copy);
});

it('knows how a log ends, and that it goes on', () => {
  const at = (seq: number) => ({ seq, time: 't' });
  let view = applyEvent(emptyRun, { ...plan, ...at(0) });
  view = applyEvent(view, { ...stopped, ...at(1) });
  expect(view.end).toMatchObject({ type: 'stopped' });
  view = applyEvent(view, {
    type: 'resumed',
    checkpoint: 2,
    groups: 1,
    group: 0,
    block: 0,
    modelsSeen: 0,
    bytesRead: 0,
    seconds: 0,
    lost: 0,
    damages: [],
    ...at(2),
  });
  expect(view.end).toBeNull();
  expect(applyEvent(view, { ...failed, ...at(3) }).end).toEqual({
    type: 'failed',
    text: 'SourceMalformed: b.safetensors: NaN at 3',
  });
});

it('lays out layers and modules', () => {
  const names = ['h.0.q', 'h.0.k', 'h.10.q', 'h.2.q', 'head', 'enc.0.x', 'h.2.k.1.w', '3'];
  expect(layOut(names)).toEqual({
    grids: [
      {
        prefix: 'h',
        layers: [0, 2, 10],
        modules: [
          { name: 'q', cells: [0, 3, 2] },
          { name: 'k', cells: [1, null, null] },
          { name: 'k.1.w', cells: [null, 6, null] },
        ],
      },
    ],
    others: [4, 5, 7],
  });
});

it('loses no slot whatever the names', () => {
  const names = [
    '',
    '.',
    '0',
    '00',
    '0.0',
    '__proto__.1.a',
    '__proto__.2.a',
    'a.01.b',
    'a.1.b',
    'a.2.b',
    '<b>.1',
    '\u202e.3',
  ];
  const { grids, others } = layOut(names);
  const cells = grids.flatMap(({ modules }) => modules.flatMap(({ cells }) => cells)).filter((cell) => cell !== null);
  expect([...cells, ...others].sort((a, b) => a - b)).toEqual(names.map((_, i) => i));
});

it('shows every metric of a slot that has nothing', () => {
  const slot = unseenSlot('a', 'models', null, null);
  for (const metric of metrics)
    expect([metric.format(slot), metric.position(slot), metric.valueOf(slot)]).toEqual(['–', null, null]);
  expect(statusOf(slot)).toBe('not started');
});

it('takes all directions there are where there are fewer than k', () => {
  const slot = { ...unseenSlot('a', 'models', 2, 2), models: 3, rank: 2, scree: [0.75, 0.25] };
  expect(evrOfKept(slot)).toBe(1);
  expect(evrOfKept({ ...slot, rank: 3 })).toBeNull();
  expect(metrics.find(({ name }) => name === 'components_90')!.format(slot)).toBe('>2');
});

it('has a step of the ramp for every position', () => {
  expect([0, 0.5, 0.999, 1].map(rampStep)).toEqual([0, 4, RAMP_STEPS - 1, RAMP_STEPS - 1]);
});

it.each([
  [0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]],
  [4, 14, 5, [4, 6, 8, 10, 12, 14]],
  [3, 3, 5, [3]],
  [0, 1e-7, 2, [0, 5e-8, 1e-7]],
])('ticks from %d to %d', (low, high, count, expected) => {
  expect(ticks(low, high, count)).toEqual(expected);
});

it.each([
  [false, 180],
  [true, 60],
])('draws a curve of any length with as many points as can be seen, its ends among them', (isOneOfMany, most) => {
  const x = Array.from({ length: 20_000 }, (_, i) => i + 1);
  const curve = { label: 'c', tone: 0, values: x.map((value) => value / 20_000), isOneOfMany };
  const chart = curveChart({ title: 't', xLabel: 'x', yLabel: 'y', x, curves: [curve], yRange: [0, 1] });
  const points = /points="([^"]*)"/.exec(chart)![1]!.split(' ');
  expect(points).toHaveLength(most);
  expect([points[0], points.at(-1)]).toEqual(['46,190', '410,12']);
});
