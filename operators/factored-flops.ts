// What adapters cost by their factors and as dense rows, in flops: which way a plan takes. Products of a matrix with itself
// count half. What both ways share (eigenpairs, directions over the models) is left out; rates are alike, since both
// are products of wide float32 matrices.
// In mode models the ways break even near r = sqrt(rows cols / (rows + cols)), 45 at 4,096 x 4,096; in the modes rows and cols
// factors are cheaper up to about a third of a side.
import type { FactorSource } from './factor-stack.ts';

/** Adapters of one module. */
export type AdapterWork = Pick<FactorSource, 'rows' | 'cols' | 'ranks'>;

export type AdapterMode = 'models' | 'rows' | 'cols';

export interface AdapterFlopsOptions {
  /** Modes that share the reading of factors, decoded dense or not. */
  readonly modes: readonly AdapterMode[];
  readonly center: boolean;
  /** Directions measured in the modes rows and cols, k; 0 where no energies are asked for. */
  readonly energies: number;
  /** Directions of each mode in the core tensor, k; 0 where it is not asked for. */
  readonly core: number;
}

/** Flops when every ΔW is decoded, once a pass: for the products, and for the energies. */
export const denseFlops = (
  { rows, cols, ranks }: AdapterWork,
  { modes, energies, core }: AdapterFlopsOptions,
): number => {
  const n = ranks.length;
  const weights = rows * cols;
  const decoding = 2 * sumOf(ranks) * weights;
  let flops = decoding;
  if (modes.includes('models')) flops += n * n * weights;
  for (const mode of modes) {
    if (mode !== 'models') flops += n * weights * (mode === 'rows' ? cols : rows) + 2 * n * weights * energies;
  }
  flops += 2 * n * weights * core;
  return modes.some((mode) => mode !== 'models') && energies + core > 0 ? flops + decoding : flops;
};

/** Flops of `factoredGram` and `factoredModes`; distances from the mean are the Gram's where mode models is there. */
export const factoredFlops = (
  { rows, cols, ranks }: AdapterWork,
  { modes, center, energies, core }: AdapterFlopsOptions,
): number => {
  const vectors = sumOf(ranks);
  const squares = sumOf(Array.from(ranks, (rank) => rank * rank));
  const weights = rows * cols;
  const sides = modes.filter((mode) => mode !== 'models');
  let flops = 0;
  if (modes.includes('models')) flops += vectors * vectors * (rows + cols);
  if (sides.length === 0) return flops;
  flops += 2 * squares * (rows + cols) + 2 * vectors * core * (rows + cols);
  if (center) flops += 2 * vectors * weights;
  if (center && energies > 0 && !modes.includes('models')) flops += 2 * vectors * weights;
  for (const mode of sides) {
    const side = mode === 'rows' ? cols : rows;
    flops += vectors * side * side + 2 * squares * side + 2 * vectors * energies * (rows + cols);
    if (center) flops += weights * side + 2 * weights * energies;
  }
  return flops;
};

/** The way of fewer flops. */
export const cheaperWay = (work: AdapterWork, options: AdapterFlopsOptions): 'factored' | 'dense' =>
  factoredFlops(work, options) < denseFlops(work, options) ? 'factored' : 'dense';

const sumOf = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0);
