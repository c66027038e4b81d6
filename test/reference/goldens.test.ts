// The committed goldens must agree with each other: exact spectra on one side, the streaming reference on the other.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

interface Exact {
  readonly order: readonly string[];
  readonly slots: Record<string, { readonly total: number; readonly eig: { readonly models: readonly number[] } }>;
}

interface Streamed {
  readonly rank: number;
  readonly order: readonly string[];
  readonly slots: Record<
    string,
    {
      readonly total: number;
      readonly slack: number;
      readonly eigenvalues: readonly number[];
      readonly norm2: readonly number[];
      readonly coefficients: readonly (readonly number[])[];
    }
  >;
}

const read = <T>(name: string): T => JSON.parse(readFileSync(`examples/zoo/golden/${name}.json`, 'utf8')) as T;
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

describe.each(['full', 'scratch', 'lora'])('goldens of examples/zoo/%s', (kind) => {
  const exact = read<Exact>(kind);

  // The other zoos have no more models than a state keeps rows.
  const truncated = kind === 'scratch' ? ['incremental-scratch-rank4'] : [];
  it.each([`incremental-${kind}`, ...truncated])('%s agrees with the exact spectra', (name) => {
    const streamed = read<Streamed>(name);
    expect(streamed.order).toEqual(exact.order);
    expect(Object.keys(streamed.slots)).toEqual(Object.keys(exact.slots));
    for (const [slot, { total, slack, eigenvalues, norm2, coefficients }] of Object.entries(streamed.slots)) {
      const truth = exact.slots[slot]!;
      const rounding = 1e-10 * truth.total;
      expect(Math.abs(total - truth.total), slot).toBeLessThan(rounding);
      expect(Math.abs(sum(norm2) - total), slot).toBeLessThan(rounding);
      for (const [j, found] of eigenvalues.entries()) {
        expect(truth.eig.models[j]! - found, `${slot} ${j}`).toBeGreaterThan(-rounding);
        expect(truth.eig.models[j]! - found, `${slot} ${j}`).toBeLessThan(slack + rounding);
        expect(Math.abs(sum(coefficients.map((c) => c[j]! ** 2)) - found), `${slot} ${j}`).toBeLessThan(rounding);
        expect(Math.abs(sum(coefficients.map((c) => c[j]!))), `${slot} ${j}`).toBeLessThan(1e-6 * Math.sqrt(total));
      }
    }
  });
});
