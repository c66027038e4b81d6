import { describe, expect, it } from 'vitest';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatPlural,
  formatRate,
  formatRemaining,
  formatShare,
} from '../../sinks/human-format.ts';

describe('human formats', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [9_994, '9.99 kB'],
    [9_996, '10.0 kB'],
    [99_960, '100 kB'],
    [999_499, '999 kB'],
    [999_600, '1.00 MB'],
    [12_340_000_000, '12.3 GB'],
    [5e18, '5000 PB'],
    [Number.NaN, '–'],
  ])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [0, '0.00 s'],
    [9.994, '9.99 s'],
    [9.996, '10.0 s'],
    [59.94, '59.9 s'],
    [59.96, '1 min 00 s'],
    [75, '1 min 15 s'],
    [3599.6, '1 h 00 min'],
    [7500, '2 h 05 min'],
    [100_000, '1 d 03 h'],
    [Number.NaN, '–'],
    [-1, '–'],
  ])('%d seconds are %s', (seconds, text) => expect(formatDuration(seconds)).toBe(text));

  it.each([
    [0, '0 s'],
    [0.2, '1 s'],
    [59, '59 s'],
    [59.5, '1 min 00 s'],
    [Number.NaN, '–'],
    [Infinity, '–'],
  ])('%d seconds to go are %s', (seconds, text) => expect(formatRemaining(seconds)).toBe(text));

  it('groups thousands, writes shares in five characters, counts in words', () => {
    expect([0, 999, 1000, 1234567].map(formatCount)).toEqual(['0', '999', '1,000', '1,234,567']);
    expect([0, 0.41249, 1, null, Number.NaN].map(formatShare)).toEqual(['0.000', '0.412', '1.000', '–', '–']);
    expect([formatPlural(1, 'slot'), formatPlural(1200, 'slot')]).toEqual(['1 slot', '1,200 slots']);
    expect([formatRate(1.5e9), formatRate(Number.NaN)]).toEqual(['1.50 GB/s', '–']);
  });
});
