import { describe, expect, it } from 'vitest';
import type { TelemetryEvent } from '../../pipeline/telemetry.ts';
import { displayWidth } from '../../sinks/terminal-text.ts';
import {
  emptyView,
  renderPlanLines,
  renderProgressLine,
  renderResumedLines,
  renderView,
  updateView,
  type ViewState,
} from '../../sinks/terminal-view.ts';
import { block, plan, slots } from './sample-events.ts';

function viewAfter(...events: readonly TelemetryEvent[]): ViewState {
  return events.reduce(updateView, emptyView);
}

describe('renderView', () => {
  it('shows progress, rates, time to go and the slots that move most', () => {
    expect(renderView(viewAfter(plan, block()), { columns: 100, rows: 24, color: false })).toEqual([
      '██████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░  25%   ETA 12 s',
      '2.00 GB of 8.00 GB  500 MB/s  512/1,024 models  128/s  group 1/2  block 16/32',
      '',
      'slots that move most    EVR 1      4     16      k   drift',
      'encoder.layer.1.weight  0.200  0.300  0.400  0.500   12.5°',
      'encoder.layer.0.weight  0.400  0.600  0.800  0.900    3.3°',
      'classifier.weight       0.100  0.150      –  0.200       –',
    ]);
  });

  it('counts the models of a later group from its own start', () => {
    const state = viewAfter(
      block({ modelsSeen: 1024, bytesRead: 4e9, seconds: 8 }),
      { type: 'group', group: 1, groups: 2, slots: 3 },
      block({ group: 1, modelsSeen: 512, bytesRead: 6e9, seconds: 10 }),
    );
    expect(renderView(state, { columns: 100, rows: 24, color: false })[1]).toBe(
      '6.00 GB of 8.00 GB  600 MB/s  512/1,024 models  256/s  group 2/2  block 16/32',
    );
  });

  it('counts from where a run went on', () => {
    const resumed = {
      type: 'resumed',
      checkpoint: 7,
      groups: 2,
      group: 1,
      block: 8,
      modelsSeen: 256,
      bytesRead: 5e9,
      seconds: 9,
      lost: 3,
      damages: ['manifest-00000008.json: it is not a whole manifest'],
    } as const;
    const group = { type: 'group', group: 1, groups: 2, slots: 3 } as const;
    const state = viewAfter(resumed, group, block({ group: 1, modelsSeen: 512, bytesRead: 6e9, seconds: 10 }));
    expect(renderView(state, { columns: 100, rows: 24, color: false })[1]).toBe(
      '6.00 GB of 8.00 GB  600 MB/s  512/1,024 models  256/s  group 2/2  block 16/32',
    );
    expect(renderResumedLines(resumed)).toEqual([
      'a newer checkpoint cannot be used: manifest-00000008.json: it is not a whole manifest',
      'resumed from checkpoint 7: group 2 of 2, 256 models in 8 blocks; 3 blocks after it are done again',
    ]);
  });

  it('says what was skipped, warned of and written', () => {
    const warning = { code: 'identical', slot: null, model: null, value: null, text: 'x' };
    const state = viewAfter(
      block(),
      { type: 'skip', model: 'a', slot: null, reason: 'x' },
      { type: 'warning', warning },
      { type: 'write', file: 'basis/slot-00000.models.parquet', bytes: 5e6 },
    );
    expect(renderView(state, { columns: 100, rows: 24, color: false })[2]).toBe(
      '1 skipped  1 warning  1 file written, 5.00 MB',
    );
  });

  it('shows at most twelve slots, and as many as the terminal is high', () => {
    const many = Array.from({ length: 40 }, (_, i) => ({ ...slots[0]!, slot: `layer.${i}`, drift: i }));
    const shown = (rows: number) => renderView(viewAfter(block({ slots: many })), { columns: 80, rows, color: false });
    expect(shown(50)).toHaveLength(4 + 12);
    expect(shown(50)[4]).toMatch(/^layer\.39 /);
    for (const rows of [1, 2, 3, 5, 6, 7, 10, 15]) expect(shown(rows).length).toBeLessThan(Math.max(2, rows));
  });

  it('never fills a line, however narrow the terminal and long the names', () => {
    const long = slots.map((slot) => ({ ...slot, slot: `vit.encoder.模型.${'very.'.repeat(20)}${slot.slot}` }));
    for (let columns = 12; columns < 130; columns++) {
      const lines = renderView(viewAfter(block({ slots: long })), { columns, rows: 24, color: false });
      expect(Math.max(...lines.map(displayWidth))).toBeLessThan(columns);
    }
    expect(renderView(viewAfter(block()), { columns: 45, rows: 24, color: false }).slice(3, 5)).toEqual([
      'slots that move most    EVR 1      k   drift',
      'encoder.layer.1.weight  0.200  0.500   12.5°',
    ]);
  });

  it('escapes names from strangers', () => {
    const hostile = [{ ...slots[0]!, slot: 'a\x1b]0;pwned\x07\n\u202eb' }];
    const text = renderView(viewAfter(block({ slots: hostile })), { columns: 100, rows: 24, color: false }).join('\n');
    expect(text).toContain('a\\x1b]0;pwned\\x07\\x0a\\u{202e}b');
    expect(text).not.toContain('\x1b');
  });

  it('paints only when asked', () => {
    const [coloured, plain] = [true, false].map((color) =>
      renderView(viewAfter(block()), { columns: 100, rows: 24, color }).join('\n'),
    );
    expect(coloured).toContain('\x1b[36m');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours
    expect(coloured!.replace(/\x1b\[\d+m/g, '')).toBe(plain);
  });

  it('knows nothing before the first block, and no rate before the first byte', () => {
    expect(renderView(emptyView, { columns: 80, rows: 24, color: false })).toEqual([]);
    expect(renderProgressLine(emptyView)).toBeNull();
    const state = viewAfter(block({ bytesRead: 0, seconds: 0, modelsSeen: 0, slots: [] }));
    expect(renderProgressLine(state)).toBe(
      '  0%  0 B of 8.00 GB  –  0/1,024 models  –/s  group 1/2  block 16/32  ETA –',
    );
  });
});

describe('lines for logs', () => {
  it('tells progress in one', () => {
    expect(renderProgressLine(viewAfter(block({ groups: 1 })))).toBe(
      ' 25%  2.00 GB of 8.00 GB  500 MB/s  512/1,024 models  128/s  block 16/32  ETA 12 s  largest drift 12.5° (encoder.layer.1.weight)',
    );
  });

  it('tells the plan in one', () => {
    expect(renderPlanLines({ ...plan, device: 'blas\x1b[0m' }, 130)).toEqual([
      '1,024 models · 3 slots in 2 groups · 1 slot left out · 8.00 GB to read · blas\\x1b[0m · 2 threads · 4.00 GB memory',
    ]);
  });

  it('tells the plan in several where one is too short, broken between its parts', () => {
    expect(renderPlanLines({ ...plan, device: 'blas (a library)' }, 44)).toEqual([
      '1,024 models · 3 slots in 2 groups',
      '1 slot left out · 8.00 GB to read',
      'blas (a library) · 2 threads',
      '4.00 GB memory',
    ]);
  });

  it('says that it writes when all is read', () => {
    const all = viewAfter(block({ bytesRead: 8e9, bytesToRead: 8e9 }));
    expect(renderView(all, { columns: 100, rows: 24, color: false })[0]).toMatch(/100% {3}writing$/);
    expect(renderProgressLine(all)).toMatch(/ {2}writing {2}largest drift/);
  });

  it('leaves out what a narrow line has no room for, and cuts nothing in its middle', () => {
    const line = (columns: number) => renderView(viewAfter(block()), { columns, rows: 24, color: false })[1];
    expect(line(60)).toBe('2.00 GB of 8.00 GB  500 MB/s  512/1,024 models  128/s');
    expect(line(40)).toBe('2.00 GB of 8.00 GB  500 MB/s');
  });
});
