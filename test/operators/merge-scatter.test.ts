// Scatter matrices of the modes rows and cols are additive: against dense float64 sums over all matrices, to 1e-12.
import { describe, expect, it } from 'vitest';
import { jsDoubleProduct } from '../../operators/linalg/dense-products.ts';
import { blocksOf, mirrorDiagonal, packedLength, unpacked } from '../../operators/linalg/packed-blocks.ts';
import { mergeScatters, type ScatterPart } from '../../operators/merge-scatter.ts';
import type { SideMode } from '../../operators/scatter-tasks.ts';
import { normals } from './planted.ts';

const modes: readonly SideMode[] = ['rows', 'cols'];

/** Σ (W − M)ᵀ(W − M) or Σ (W − M)(W − M)ᵀ, side x side, and M. */
const dense = (mode: SideMode, weights: readonly Float64Array[], rows: number, cols: number, center: boolean) => {
  const mean = new Float64Array(rows * cols);
  if (center) for (const w of weights) for (let i = 0; i < w.length; i++) mean[i] = mean[i]! + w[i]! / weights.length;
  const side = mode === 'rows' ? cols : rows;
  const scatter = new Float64Array(side * side);
  for (const w of weights)
    for (let a = 0; a < side; a++)
      for (let b = 0; b < side; b++) {
        const entry = (index: number, other: number): number => {
          const at = mode === 'rows' ? other * cols + index : index * cols + other;
          return w[at]! - mean[at]!;
        };
        for (let o = 0; o < (mode === 'rows' ? rows : cols); o++)
          scatter[a * side + b] = scatter[a * side + b]! + entry(a, o) * entry(b, o);
      }
  return { scatter, mean };
};

describe('mergeScatters', () => {
  it.each([
    [5, 7, [3, 1, 4], true],
    [5, 7, [2, 2], false],
    [2, 600, [2, 3], true],
    [6, 3, [0, 3, 0, 2], true],
  ] as const)('%i x %i, streams of %j models, centred %s', (rows, cols, counts, center) => {
    const normal = normals(rows * cols);
    let id = 0;
    const streams = counts.map((n) =>
      Array.from({ length: n }, () => Float64Array.from({ length: rows * cols }, normal)),
    );
    const slot = { id: 3, name: 'w', rows, cols, features: rows * cols, tensorIn: () => ({}) as never };
    const parts = streams.map((weights, s): ScatterPart => {
      const arrays = modes.map((mode) => {
        const side = mode === 'rows' ? cols : rows;
        const packed = new Float64Array(packedLength(side));
        if (weights.length === 0) return packed;
        const { scatter } = dense(mode, weights, rows, cols, center);
        for (const block of blocksOf(side)) {
          let at = block.offset;
          for (let i = block.rows.from; i < block.rows.to; i++)
            for (let j = block.columns.from; j < block.columns.to; j++) packed[at++] = scatter[i * side + j]!;
        }
        return packed;
      });
      if (center)
        arrays.push(
          weights.length === 0 ? new Float64Array(rows * cols) : dense('rows', weights, rows, cols, true).mean,
        );
      const bytes = Buffer.concat([Buffer.alloc(16), ...arrays.map((array) => Buffer.from(array.buffer))]);
      const first = id;
      id += weights.length;
      return {
        saved: {
          slotId: s,
          at: 16,
          models: Int32Array.from(weights, (_, i) => i),
          left: new Int32Array(0),
          rawNorm2: Float64Array.from(weights, (w) => w.reduce((sum, value) => sum + value * value, 0)),
          meanEntry: new Float64Array(weights.length),
          hasOrigin: false,
        },
        read: (into, at) => void into.set(bytes.subarray(at, at + into.length)),
        idOf: (model) => first + model,
      };
    });
    const { saved, arrays } = mergeScatters(slot, modes, center, parts, jsDoubleProduct);
    const all = streams.flat();
    expect(saved.slotId).toBe(3);
    expect([...saved.models]).toEqual([...all.keys()]);
    expect(saved.rawNorm2).toHaveLength(all.length);
    const doubles = arrays.map((bytes) => new Float64Array(Uint8Array.from(bytes).buffer));
    const scale = all.reduce((sum, w) => sum + w.reduce((s, value) => s + value * value, 0), 0);
    modes.forEach((mode, i) => {
      const side = mode === 'rows' ? cols : rows;
      mirrorDiagonal(doubles[i]!, side);
      const found = unpacked(doubles[i]!, side);
      const { scatter, mean } = dense(mode, all, rows, cols, center);
      const worst = found.reduce((most, value, l) => Math.max(most, Math.abs(value - scatter[l]!)), 0);
      expect(worst / scale).toBeLessThan(1e-12);
      if (center)
        for (const [l, value] of doubles[2]!.entries()) expect(Math.abs(value - mean[l]!)).toBeLessThan(1e-12);
    });
  });
});
