import { describe, expect, it } from 'vitest';
import { renderSummary, screeBar } from '../../sinks/summary.ts';
import { displayWidth } from '../../sinks/terminal-text.ts';
import { done, summaryOf } from './sample-events.ts';

const wide = { columns: 120, color: false };

function table(lines: readonly string[]): readonly string[] {
  return lines.slice(3, lines.indexOf('', 3));
}

describe('renderSummary', () => {
  it('is what people want to read', () => {
    const files = [
      { file: 'basis/slot-00000.models.parquet', bytes: 1e6 },
      { file: 'basis/slot-00001.models.parquet', bytes: 2e6 },
    ];
    expect(renderSummary(done(), { ...wide, files })).toEqual([
      '128 models, 2 slots: 4.00 GB folded in 4.00 s (1.00 GB/s, 250 GFLOP/s), on disk after 4.50 s',
      'on blas: OpenBLAS 0.3.21',
      '',
      'slot                    shape  models  EVR 1      4     16      k   flat  90% at  captured  scree',
      'encoder.layer.0.weight  64×64     128  0.412  0.613  0.801  0.913  0.252      24     0.880  █▄▂▁·',
      'head                       10     128  0.412  0.613  0.801  0.260  0.252     >32         –  █▄▂▁·',
      '',
      'EVR: the share of the variance that the first 1, 4, 16 and k directions explain (k = 32)',
      'flat: what k directions would explain without any structure, k/(N - 1)',
      'all spectra are exact',
      '',
      'runs/vit/',
      '  *.parquet  tables: spectrum, subspaces, models, slots, warnings and more; run.json says what was run',
      '  basis/     3.00 MB in 2 files',
      '',
      'next',
      `  duckdb -c "select name, mode, component, evr from 'runs/vit/spectrum.parquet' join 'runs/vit/slots.parquet' using (slot_id) where component < 4 order by all"`,
      `  python -c "import pandas; print(pandas.read_parquet('runs/vit/convergence.parquet')[['slot_id', 'models_seen', 'evr_1', 'evr_4', 'angle_max_4']])"`,
    ]);
  });

  it('names the ranks that keep 90% together, as measured, as promised, or as beyond what is listed', () => {
    const cores = [
      { ranks: [4, 8, 16], isMeasured: true },
      { ranks: [8, 8, 8], isMeasured: false },
      { ranks: null, isMeasured: true },
    ] as const;
    const slots = [...cores.map((core, i) => ({ ...summaryOf(`slot.${i}`), core })), summaryOf('*')];
    const lines = renderSummary(done({ slots }), wide);
    const at = table(lines)[0]!.indexOf('core 90%');
    const cells = table(lines).map((line) => line.slice(at, at + 8).trim());
    expect(cells).toEqual(['core 90%', '4·8·16', '≤8·8·8', '–', '']);
    expect(lines.join('\n')).toContain('core 90%: directions of models·rows·cols that keep 90% together');
    expect(renderSummary(done(), wide).join('\n')).not.toContain('core');
  });

  it('leaves columns out where the line is short, the least telling first', () => {
    const header = (columns: number) => table(renderSummary(done(), { columns, color: false }))[0];
    expect(header(92)).toBe(
      'slot                    shape  models  EVR 1      4     16      k   flat  90% at  captured',
    );
    expect(header(70)).toBe('slot       shape  models  EVR 1      4     16      k   flat  90% at');
    expect(header(60)).toBe('slot             shape  EVR 1      4     16      k   flat');
    expect(header(20)).toBe('slot       EVR 1      k   flat');
    for (let columns = 40; columns < 140; columns++) {
      const lines = table(renderSummary(done(), { columns, color: false }));
      expect(Math.max(...lines.map(displayWidth))).toBeLessThanOrEqual(columns);
    }
  });

  it('tells layers apart in a narrow terminal', () => {
    const slots = Array.from({ length: 24 }, (_, i) => summaryOf(`vit.encoder.layer.${i}.attention.query.weight`));
    const lines = table(renderSummary(done({ slots }), { columns: 80, color: false })).slice(1);
    expect(new Set(lines.map((line) => line.split(' ')[0])).size).toBe(24);
  });

  it('shows every slot of many', () => {
    const slots = Array.from({ length: 60 }, (_, i) => summaryOf(`layer.${i}`));
    expect(table(renderSummary(done({ slots }), wide))).toHaveLength(61);
  });

  it('shows exactness by slot only where it differs', () => {
    const slots = [summaryOf('a'), summaryOf('b', { exactness: 'bounded' })];
    const lines = renderSummary(done({ slots }), wide);
    expect(table(lines)[2]).toMatch(/bounded$/);
    expect(lines.join('\n')).not.toContain('all spectra');
  });

  it('says nothing that is not known', () => {
    const unknown = { evr_1: null, evr_4: null, evr_16: null, evr_k: null, flat_evr: null, components_90: null };
    const slots = [summaryOf('frozen', { ...unknown, captured: null, scree: [] })];
    expect(table(renderSummary(done({ slots }), wide))[1]).toBe(
      'frozen  64×64     128      –  –   –  –     –       –         –',
    );
    expect(renderSummary(done({ slots: [] }), wide)).toContain('no slot was used');
  });

  it('names a few of what a warning is about, and counts the others', () => {
    const giant = (model: string, count: number) => ({
      ...{ code: 'giant-norm', text: `model ${model} is far`, of: 'slot' as const, count },
      names: ['a', 'b', 'c'].slice(0, count),
    });
    const warnings = [
      giant('w', 1),
      giant('x', 1),
      giant('y', 1),
      giant('z', 22),
      { code: 'identical', text: 'the same', of: 'slot' as const, count: 1000, names: ['a', 'b\x1b[2K', 'c'] },
      { code: 'device', text: 'slow', of: null, count: 1, names: [] },
    ];
    const lines = renderSummary(done({ warnings }), wide);
    const start = lines.indexOf('1,026 warnings');
    expect(lines.slice(start, start + 8)).toEqual([
      '1,026 warnings',
      '  giant-norm  22 slots (a, b, c and 19 more): model z is far',
      '  giant-norm  1 slot (a): model w is far',
      '  giant-norm  1 slot (a): model x is far',
      '  giant-norm  and 1 more',
      '  identical  1,000 slots (a, b\\x1b[2K, c and 997 more): the same',
      '  device  slow',
      '',
    ]);
  });

  it('has a line for each of 200,000 slots, more than a call takes arguments', () => {
    const slots = Array.from({ length: 200_000 }, (_, i) => summaryOf(`layer.${i}.weight`));
    const lines = table(renderSummary(done({ slots }), wide));
    expect(lines).toHaveLength(1 + slots.length);
    expect(lines.at(-1)).toMatch(/^layer\.199999\.weight +64×64/);
  });

  it('lets no name or path speak to the terminal or the shell', () => {
    const hostile = '\x1b[31m$(rm -rf ~)\'"; drop';
    const text = renderSummary(done({ out: hostile, device: hostile, slots: [summaryOf(hostile)] }), {
      ...wide,
      files: [{ file: `${hostile}.parquet`, bytes: 1 }],
    }).join('\n');
    expect(text).not.toContain('\x1b');
    expect(text).toContain("from 'RUN/spectrum.parquet'");
  });
});

describe('screeBar', () => {
  it.each([
    [[8, 7, 6, 5, 4, 3, 2, 1], '█▇▆▅▄▃▂▁'],
    [[1, 0.5, 1e-9, 0, Number.NaN], '█▄▁··'],
    [[0, 0], '··'],
    [[], ''],
  ])('%j is %s', (scree, bar) => expect(screeBar(scree)).toBe(bar));
});
