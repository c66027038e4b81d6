import { describe, expect, it } from 'vitest';
import { minMemory, parseMemorySize } from '../../configs/memory-size.ts';

describe('parseMemorySize', () => {
  it.each([
    ['512MiB', 512 * 2 ** 20],
    ['4GiB', 4 * 2 ** 30],
    ['4 GiB', 4 * 2 ** 30],
    ['4gib', 4 * 2 ** 30],
    ['1.5GB', 1.5e9],
    ['0.5TiB', 2 ** 39],
    ['2000KB', 2e6],
    ['1048576', minMemory],
    ['1048576B', minMemory],
    [minMemory, minMemory],
    [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ])('%j is %d bytes', (text, bytes) => {
    expect(parseMemorySize(text)).toBe(bytes);
  });

  it.each([
    '',
    ' ',
    'GiB',
    '4G',
    '4g',
    '4 potatoes',
    '-4GiB',
    '+4GiB',
    '4,5GiB',
    '0x1000000',
    '1e9',
    'NaN',
    'Infinity',
    '4GiB ',
    '.5GiB',
    '1023KiB',
    '9999999TiB',
    `${'9'.repeat(400)}GiB`,
    minMemory - 1,
    0,
    -1,
    2 ** 21 + 0.5,
    2 ** 53,
    Number.NaN,
    Number.POSITIVE_INFINITY,
  ])('%j is no size', (value) => {
    expect(parseMemorySize(value)).toBeNull();
  });
});
