// Told from the bits: the same verdict as widening gives, for every 8- and 16-bit pattern and around the limits of the others.
import { describe, expect, it } from 'vitest';
import { firstBadWeight, hasBadWeight } from '../../sources/bad-weight.ts';
import { bytesPerElement, widen } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';

const verdicts = (dtype: Dtype, bytes: Uint8Array): readonly [boolean, boolean][] => {
  const size = bytesPerElement(dtype);
  return Array.from({ length: bytes.length / size }, (_, i) => {
    const one = bytes.slice(i * size, (i + 1) * size);
    const wide = new Float32Array(1);
    widen(dtype, one, wide);
    return [hasBadWeight(dtype, one), firstBadWeight(wide) >= 0];
  });
};

describe('hasBadWeight', () => {
  it.each(['F8_E4M3', 'F8_E5M2'] as const)('agrees on every %s', (dtype) => {
    const all = verdicts(
      dtype,
      Uint8Array.from({ length: 256 }, (_, i) => i),
    );
    expect(all.every(([bits, widened]) => bits === widened)).toBe(true);
    expect(all.filter(([bad]) => bad).length).toBe(dtype === 'F8_E4M3' ? 2 : 8);
  });

  it.each(['F16', 'BF16'] as const)('agrees on every %s', (dtype) => {
    const all = verdicts(dtype, new Uint8Array(Uint16Array.from({ length: 65_536 }, (_, i) => i).buffer));
    expect(all.every(([bits, widened]) => bits === widened)).toBe(true);
    expect(all.some(([bad]) => bad)).toBe(true);
  });

  it.each([
    ['F32', Float32Array],
    ['F64', Float64Array],
  ] as const)('agrees on %s around the limit', (dtype, Kind) => {
    const values = [0, -1, 1e16, 9.9e16, 1.1e17, -1e18, 3e38, Number.NaN, Infinity, -Infinity, 1e-40];
    const all = verdicts(dtype, new Uint8Array(Kind.from(values).buffer));
    expect(all.map(([bits]) => bits)).toEqual(all.map(([, widened]) => widened));
    expect(all.filter(([bad]) => bad).length).toBe(6);
    // The last of many is found, too.
    const many = new Kind(1001);
    many[1000] = Number.NaN;
    expect(hasBadWeight(dtype, new Uint8Array(many.buffer))).toBe(true);
    expect(hasBadWeight(dtype, new Uint8Array(many.buffer, 0, 1000 * Kind.BYTES_PER_ELEMENT))).toBe(false);
  });
});
