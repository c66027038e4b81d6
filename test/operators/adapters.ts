// Adapters for the tests of factored ways, and what is true of them in float64, by plain loops over dense ΔW.
import type { FactorSource } from '../../operators/factor-stack.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import type { AdapterFactors } from '../../sources/adapter-factors.ts';
import { normals } from './planted.ts';

export type Shape = readonly [rows: number, cols: number];

/** An adapter's factors, A and B as PEFT names them: ΔW = B A. */
export const factorsOf = (
  [rows, cols]: Shape,
  rank: number,
  left: (i: number) => number,
  right: (i: number) => number,
): AdapterFactors => ({
  rows,
  cols,
  rank,
  left: Float32Array.from({ length: rows * rank }, (_, i) => left(i)),
  right: Float32Array.from({ length: rank * cols }, (_, i) => right(i)),
});

/** Adapters of the given ranks whose vectors have falling strength; `common` is how much of one ΔW all of them share. */
export const plantedAdapters = (shape: Shape, ranks: readonly number[], seed: number, common = 0): AdapterFactors[] => {
  const [rows, cols] = shape;
  const normal = normals(seed);
  const sharedLeft = Array.from({ length: rows }, () => normal());
  const sharedRight = Array.from({ length: cols }, () => normal());
  return ranks.map((rank) => {
    const strength = 0.5 + Math.abs(normal());
    const pull = Math.sqrt(common);
    return factorsOf(
      shape,
      rank,
      (i) => (strength * normal()) / (1 + (i % rank)) + (i % rank === 0 ? pull * sharedLeft[Math.floor(i / rank)]! : 0),
      (i) => normal() + (i < cols ? pull * sharedRight[i]! : 0),
    );
  });
};

/** Adapters in memory, with the ranges that were asked for. */
export const sourceOf = (
  adapters: readonly AdapterFactors[],
): FactorSource & { readonly asked: [number, number][] } => {
  const { rows, cols } = adapters[0]!;
  const asked: [number, number][] = [];
  return {
    slot: 'layer.0.q_proj',
    rows,
    cols,
    ranks: adapters.map(({ rank }) => rank),
    asked,
    read: async (from, to) => {
      asked.push([from, to]);
      return adapters.slice(from, to);
    },
  };
};

/** ΔW in float64, row-major. */
export const deltaOf = ({ rows, cols, rank, left, right }: AdapterFactors): Float64Array => {
  const delta = new Float64Array(rows * cols);
  for (let i = 0; i < rows; i++)
    for (let a = 0; a < rank; a++)
      for (let j = 0; j < cols; j++)
        delta[i * cols + j] = delta[i * cols + j]! + left[i * rank + a]! * right[a * cols + j]!;
  return delta;
};

/** N x N inner products, float64. */
export const gramOf = (deltas: readonly Float64Array[]): Float64Array => {
  const n = deltas.length;
  const gram = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const sum = deltas[i]!.reduce((all, value, l) => all + value * deltas[j]![l]!, 0);
      gram[i * n + j] = sum;
      gram[j * n + i] = sum;
    }
  }
  return gram;
};

export const meanOf = (deltas: readonly Float64Array[]): Float64Array => {
  const mean = new Float64Array(deltas[0]!.length);
  for (const delta of deltas) for (let l = 0; l < mean.length; l++) mean[l] = mean[l]! + delta[l]! / deltas.length;
  return mean;
};

/** Tiles that do what is asked of them in a random order, as threads would. */
export const shuffled = (tiles: Tiles, seed: number): Tiles => {
  const normal = normals(seed);
  return {
    ...tiles,
    scatter: async (task) => {
      for (let ticks = Math.floor(Math.abs(normal()) * 20); ticks > 0; ticks--) await null;
      return tiles.scatter(task);
    },
  };
};
