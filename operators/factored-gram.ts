// The engine `exact` in mode models over adapters: the Gram matrix of their ΔW from the factors alone,
// ⟨ΔW_i, ΔW_j⟩ = Σ_ab (L_iᵀ L_j)_ab (R_i R_jᵀ)_ab. Both matrices of inner products are made in blocks of some 512 vectors,
// multiplied entry by entry, summed a pair of adapters and forgotten.
// Cost: K² (rows + cols) flops for K = Σ ranks, against N² rows cols of the dense way. Memory: two panels of factors,
// 4 (rows + cols) bytes a vector, and 5 MB a thread (5 r² floats where an adapter has more than 512 vectors); where all
// factors do not fit, panels are read again for each pair of them.
// Source: tr(ABᵀ) of products of thin matrices; blocks as a tiled Gram matrix, e.g. Golub & Van Loan 2013, sec. 1.3.
import { displayName } from '../sources/display-name.ts';
import { NumericalFailure } from './errors.ts';
import type { ExactGram } from './exact-spectrum.ts';
import {
  type AdapterRange,
  adapterRuns,
  bytesAVector,
  entrySum,
  type FactorSource,
  FactorStack,
  type StackedFactors,
  vectorsOf,
} from './factor-stack.ts';
import type { StackedRun } from './factor-tasks.ts';
import { allFinite } from './find-faults.ts';
import { BLOCK_SIDE } from './linalg/packed-blocks.ts';
import type { Tiles } from './tile-pool.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

export interface FactoredGramOptions {
  readonly tiles: Tiles;
  /** Bytes that stacked factors may take; the smallest that works is a block a panel. */
  readonly memory: number;
}

/** Bytes of stacked factors that `factoredGram` takes with this memory. */
export const factoredGramBytes = (
  source: Pick<FactorSource, 'rows' | 'cols' | 'ranks'>,
  { memory }: Pick<FactoredGramOptions, 'memory'>,
): number => {
  const { panels, vectors } = panelsOf(source, memory);
  return Math.min(panels.length, 2) * vectors * bytesAVector(source);
};

/** A panel: blocks of adapters that stand in a stack together. */
interface Panel extends AdapterRange {
  readonly blocks: readonly (AdapterRange & { readonly run: StackedRun })[];
}

/**
 * The Gram matrix of adapters as `exactSpectrum` takes it, with a shift of zero. Threads and memory do not change a bit.
 * Rejects with RangeError where factors are not as announced, with NumericalFailure where a product is not finite, and with
 * what the source rejects with.
 */
export const factoredGram = async (source: FactorSource, options: FactoredGramOptions): Promise<ExactGram> => {
  const { tiles, memory } = options;
  const { ranks, rows, cols } = source;
  const models = ranks.length;
  const before = rowsBeforeBlock(0);
  const size = before + models;
  const values = new Float64Array(size * size);
  const set = (i: number, j: number, value: number): void => {
    values[i * size + j] = value;
    values[j * size + i] = value;
  };
  set(0, 0, rows * cols);
  const { panels, vectors } = panelsOf(source, memory);
  const first = new FactorStack(source, vectors);
  const second = panels.length > 1 ? new FactorStack(source, vectors) : null;
  const addPairs = async (a: StackedFactors, p: Panel, b: StackedFactors, q: Panel): Promise<void> => {
    const tasks = p.blocks.flatMap((row) =>
      q.blocks.filter((column) => column.from >= row.from).map((column) => ({ row, column })),
    );
    // The small ones last, so that threads end together.
    tasks.sort((s, t) => Number(s.row === s.column) - Number(t.row === t.column));
    await Promise.all(
      tasks.map(async ({ row, column }) => {
        const same = row === column;
        const sums = await tiles.scatter({ kind: 'pairs', a, b, rows: row.run, columns: column.run, same });
        const width = column.to - column.from;
        for (let i = row.from; i < row.to; i++) {
          for (let j = same ? i : column.from; j < column.to; j++)
            set(before + i, before + j, sums[(i - row.from) * width + j - column.from]!);
        }
      }),
    );
  };
  for (const [at, p] of panels.entries()) {
    const a = await first.fill(p, (i, factors) => set(0, before + i, entrySum(factors)));
    await addPairs(a, p, a, p);
    for (const q of panels.slice(at + 1)) await addPairs(a, p, await second!.fill(q), q);
  }
  if (!allFinite(values)) {
    const { library, version } = tiles.info;
    const detail = `${library} ${version} made a Gram matrix of factors that is not finite`;
    throw new NumericalFailure({ slot: displayName(source.slot), detail });
  }
  return { values, models, shiftSum: 0 };
};

/** All adapters as one panel where that fits, else as panels of which two fit. Blocks depend on ranks alone. */
const panelsOf = (
  source: Pick<FactorSource, 'rows' | 'cols' | 'ranks'>,
  memory: number,
): { readonly panels: readonly Panel[]; readonly vectors: number } => {
  const { ranks } = source;
  const blocks = adapterRuns(ranks, BLOCK_SIDE);
  const fit = Math.floor(memory / bytesAVector(source));
  const all = vectorsOf(ranks, { from: 0, to: ranks.length });
  const most = all <= fit ? all : Math.floor(fit / 2);
  const sizes = blocks.map((block) => vectorsOf(ranks, block));
  const panels = adapterRuns(sizes, most).map(({ from, to }): Panel => {
    let at = 0;
    const own = blocks.slice(from, to).map((block, i) => {
      const run = { at, ranks: Array.from({ length: block.to - block.from }, (_, j) => ranks[block.from + j]!) };
      at += sizes[from + i]!;
      return { ...block, run };
    });
    return { from: own[0]!.from, to: own.at(-1)!.to, blocks: own };
  });
  return { panels, vectors: Math.max(0, ...panels.map((panel) => vectorsOf(ranks, panel))) };
};
