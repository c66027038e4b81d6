import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { shortenNames } from '../../sinks/short-names.ts';
import { displayWidth, escapeControls, padEnd, truncateEnd, truncateMiddle } from '../../sinks/terminal-text.ts';

describe('escapeControls', () => {
  it.each([
    ['\x1b[2J', '\\x1b[2J'],
    ['a\nb\rc\td', 'a\\x0ab\\x0dc\\x09d'],
    ['\x00\x7f\x9b31m', '\\x00\\x7f\\x9b31m'],
    ['abc\u202edef', 'abc\\u{202e}def'],
    ['a\u200bb\ufeff', 'a\\u{200b}b\\u{feff}'],
    ['\u2028\u2029', '\\u{2028}\\u{2029}'],
    ['\ud800x', '\\u{d800}x'],
    ['tag\u{e0041}', 'tag\\u{e0041}'],
    ['模型.ü.weight', '模型.ü.weight'],
  ])('%j is shown as %s', (text, shown) => expect(escapeControls(text)).toBe(shown));
});

describe('widths', () => {
  it('counts cells, not characters', () => {
    expect(['abc', '模型', 'e\u0301', '🧪', ''].map(displayWidth)).toEqual([3, 4, 1, 2, 0]);
    expect(padEnd('模', 4)).toBe('模  ');
  });

  it('cuts the middle or the end', () => {
    expect(truncateMiddle('abcdefghij', 7)).toBe('abc…hij');
    expect(truncateMiddle('abcdefghij', 6)).toBe('abc…ij');
    expect(truncateMiddle('abc', 3)).toBe('abc');
    expect([2, 1, 0].map((width) => truncateMiddle('abc', width))).toEqual(['a…', '…', '']);
    expect([3, 2, 1, 0].map((width) => truncateEnd('abc', width))).toEqual(['abc', 'a…', '…', '']);
    expect(truncateMiddle('模型模型', 5)).toBe('模…型');
  });

  it('never exceeds the width, whatever the name', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(40), (text, width) => {
        const safe = escapeControls(text);
        expect(displayWidth(truncateMiddle(safe, width))).toBeLessThanOrEqual(width);
        expect(displayWidth(truncateEnd(safe, width))).toBeLessThanOrEqual(width);
        expect(displayWidth(shortenNames([safe], width)[0]!)).toBeLessThanOrEqual(width);
      }),
    );
  });
});

describe('shortenNames', () => {
  const layers = Array.from({ length: 12 }, (_, i) => `vit.encoder.layer.${i}.attention.query.weight`);

  it('keeps the numbers that tell layers apart', () => {
    const short = shortenNames([...layers, 'classifier.weight'], 24);
    expect(short[3]).toBe('vit…layer.3…query…');
    expect(new Set(short).size).toBe(13);
    expect(short.at(-1)).toBe('classifier.weight');
  });

  it('drops what most names share, so kinds stay apart', () => {
    const kinds = layers.flatMap((name) => [name, name.replace('query', 'value'), name.replace('weight', 'bias')]);
    expect(new Set(shortenNames(kinds, 24)).size).toBe(36);
  });

  it('falls back to the middle where there are no segments', () => {
    expect(shortenNames(['a'.repeat(10) + 'b'.repeat(10)], 9)).toEqual(['aaaa…bbbb']);
  });
});
