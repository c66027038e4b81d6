import { describe, expect, test } from 'vitest';
import { bytesPerElement, dtypeBits, isReadableDtype, widen } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';

/** What the bit pattern stands for, from sign, exponent and mantissa, in float64. */
function numberOf(bits: number, exponentBits: number, mantissaBits: number, infinities: boolean): number {
  const sign = bits >> (exponentBits + mantissaBits) === 0 ? 1 : -1;
  const exponent = (bits >> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = bits & (2 ** mantissaBits - 1);
  const top = 2 ** exponentBits - 1;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === top && infinities) return mantissa === 0 ? sign * Infinity : NaN;
  if (exponent === top && mantissa === 2 ** mantissaBits - 1) return NaN;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias - mantissaBits);
  return sign * (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - bias);
}

const formats: readonly { dtype: Dtype; bits: number; value: (bits: number) => number }[] = [
  { dtype: 'F16', bits: 16, value: (b) => numberOf(b, 5, 10, true) },
  { dtype: 'BF16', bits: 16, value: (b) => numberOf(b, 8, 7, true) },
  { dtype: 'F8_E4M3', bits: 8, value: (b) => numberOf(b, 4, 3, false) },
  { dtype: 'F8_E5M2', bits: 8, value: (b) => numberOf(b, 5, 2, true) },
];

describe('widen: every bit pattern', () => {
  test.each(formats)('$dtype', ({ dtype, bits, value }) => {
    const count = 2 ** bits;
    const patterns = bits === 16 ? new Uint16Array(count) : new Uint8Array(count);
    for (let b = 0; b < count; b++) patterns[b] = b;
    const out = new Float32Array(count);
    widen(dtype, new Uint8Array(patterns.buffer), out);
    const wrong: string[] = [];
    for (let b = 0; b < count; b++) {
      if (!Object.is(out[b], value(b))) wrong.push(`0x${b.toString(16)}: ${out[b]} for ${value(b)}`);
    }
    expect(wrong).toEqual([]);
  });

  test.each([
    ['F16', 0x7e01, 0x7fc02000],
    ['F16', 0xfc01, 0xff802000],
    ['BF16', 0x7f81, 0x7f810000],
    ['BF16', 0xffc1, 0xffc10000],
  ] as const)('%s keeps the NaN payload of 0x%x', (dtype, pattern, expected) => {
    const out = new Float32Array(1);
    widen(dtype, new Uint8Array(Uint16Array.of(pattern).buffer), out);
    expect(new Uint32Array(out.buffer)[0]).toBe(expected);
  });
});

test('widen: F32 goes through bit for bit', () => {
  const bits = Uint32Array.of(0, 0x80000000, 1, 0x7f800000, 0xff800000, 0x7f800001, 0xffc12345, 0x3f800000, 0x7f7fffff);
  const out = new Float32Array(bits.length);
  widen('F32', new Uint8Array(bits.buffer), out);
  expect(new Uint32Array(out.buffer)).toEqual(bits);
});

test('widen: F64 is rounded to nearest even', () => {
  const values = [
    0,
    -0,
    1,
    -1.5,
    1e-46,
    1e300,
    -1e300,
    Infinity,
    NaN,
    1 + 2 ** -24,
    1 + 3 * 2 ** -24,
    2 ** -149,
    Math.PI,
  ];
  const expected = [
    0,
    -0,
    1,
    -1.5,
    0,
    Infinity,
    -Infinity,
    Infinity,
    NaN,
    1,
    1 + 2 ** -22,
    2 ** -149,
    3.1415927410125732,
  ];
  const out = new Float32Array(values.length);
  widen('F64', new Uint8Array(Float64Array.from(values).buffer), out);
  expect(Array.from(out)).toEqual(expected);
});

describe('widen: any offset and any length give the same numbers', () => {
  const lengths = [0, 1, 2, 3, 7, 8, 9, 31, 2047, 8191, 8192, 8193, 20_001];
  test.each(['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'] as const)('%s', (dtype) => {
    const width = bytesPerElement(dtype);
    for (const length of lengths) {
      const bytes = Uint8Array.from({ length: length * width }, (_, i) => (i * 167 + (i >> 5)) & 0xff);
      const one = Float32Array.from({ length }, (_, i) => {
        const out = new Float32Array(1);
        widen(dtype, bytes.slice(i * width, (i + 1) * width), out);
        return out[0]!;
      });
      for (let offset = 0; offset < 9; offset++) {
        const shifted = new Uint8Array(bytes.length + offset);
        shifted.set(bytes, offset);
        const room = new Float32Array(length + 3).fill(7);
        widen(dtype, shifted.subarray(offset), room.subarray(1, 1 + length));
        expect([room[0], room[length + 1]]).toEqual([7, 7]);
        const same = room.subarray(1, 1 + length).every((x, i) => Object.is(x, one[i]));
        expect(same, `${length} elements at offset ${offset}`).toBe(true);
      }
    }
  });
});

test('widen: a length that does not agree is a bug, and says so', () => {
  expect(() => widen('BF16', new Uint8Array(6), new Float32Array(2))).toThrow(/6 bytes of BF16 into 2 elements/);
});

test('the six readable dtypes, and the widths of all', () => {
  const read = [...dtypeBits.keys()].filter(isReadableDtype);
  expect(read.sort()).toEqual(['BF16', 'F16', 'F32', 'F64', 'F8_E4M3', 'F8_E5M2']);
  for (const dtype of read) expect(bytesPerElement(dtype) * 8).toBe(dtypeBits.get(dtype));
  for (const name of ['constructor', '__proto__', 'f32', '']) {
    expect([dtypeBits.has(name), isReadableDtype(name)]).toEqual([false, false]);
  }
});
