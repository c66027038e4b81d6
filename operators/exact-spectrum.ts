// What the Gram matrix of all models of a slot knows: the whole spectrum, each model's coordinates, and what the spectrum
// was when only the first models had come. All of it is float64 algebra on N x N numbers; weights are never touched.
// The Gram is of shifted weights and raw; a prefix of the stream is its leading minor, centred about its own mean.
// Source: the dual (Gram) form of PCA, e.g. Jolliffe 2002, sec. 3.5; modes of a tensor: arXiv 2512.05117, algorithm 1.
import { setImmediate as turn } from 'node:timers/promises';
import { allDone } from './all-done.ts';
import { sumOf, traceOf } from './linalg/array-loops.ts';
import { type DoubleProduct, PLAIN, productOf } from './linalg/dense-products.ts';
import { principalAngles } from './linalg/principal-angles.ts';
import type { EigenSolver, SymmetricEigen } from './linalg/symmetric-eigen.ts';
import { emptySubspace, RANK_THRESHOLD, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
import { CONSTANT_ROWS, cutsOf, type ModelUpdate, rowsBeforeBlock, type SubspaceUpdate } from './update-subspace.ts';

/** Inner products of all rows of a slot with all, summed over its features. */
export interface ExactGram {
  /** Row-major, (3 + N) x (3 + N); rows are [1; −shift; 0; X]. */
  readonly values: Float64Array;
  /** Models, N. */
  readonly models: number;
  /** Σ of the shift's entries. */
  readonly shiftSum: number;
}

/** The first models of the stream: how many, and the block that the last of them ends. */
export interface Prefix {
  readonly models: number;
  readonly block: number;
}

/** What the models up to some block's end show. */
export interface PrefixSpectrum {
  readonly prefix: Prefix;
  readonly eigenvalues: Float64Array;
  readonly total: number;
  /** Models since the prefix before, as the subspace before saw them. */
  readonly arrived: readonly ModelUpdate[];
  readonly drift: SubspaceUpdate['drift'];
}

export interface ExactSpectrum {
  /** As an incremental state that lost nothing: min(N − 1, D) eigenvalues, or min(N, D) uncentred. */
  readonly state: SubspaceState;
  readonly prefixes: readonly PrefixSpectrum[];
  /** ‖x − m‖² of every model. */
  readonly norm2: Float64Array;
  /** N x k, row-major. */
  readonly coordinates: Float64Array;
  /** k: directions above the noise of the products. */
  readonly rank: number;
  /** (1 + k) x (1 + N): makes the mean (row 0) and the unit directions out of [0; X]. */
  readonly mix: Float64Array;
}

/** Points of the stream at which its spectrum is looked at, at most. */
const MOST_PREFIXES = 64;

/** +1 or −1 for each direction that is not written out: its largest coordinate becomes positive. */
export const signsOfCoordinates = ({ coordinates, rank }: Pick<ExactSpectrum, 'coordinates' | 'rank'>): Float64Array =>
  Float64Array.from({ length: rank }, (_, j) => {
    let peak = 0;
    for (let i = j; i < coordinates.length; i += rank)
      if (Math.abs(coordinates[i]!) > Math.abs(peak)) peak = coordinates[i]!;
    return peak < 0 ? -1 : 1;
  });

/** Ends of blocks, all of them or 64 that are spread evenly over the logarithm of the models seen; the last is the end. */
export const prefixesOf = (models: number, block: number): readonly Prefix[] => {
  const blocks = Math.ceil(models / block);
  const chosen = new Set<number>();
  if (blocks <= MOST_PREFIXES) for (let i = 1; i <= blocks; i++) chosen.add(i);
  else for (let i = 0; i < MOST_PREFIXES; i++) chosen.add(Math.round(blocks ** (i / (MOST_PREFIXES - 1))));
  return [...chosen].map((end) => ({ models: Math.min(end * block, models), block: end - 1 }));
};

/**
 * Solves a symmetric n x n matrix that is given away.
 * @param vectors how many are wanted, the first of them
 */
export type SolveApart = (matrix: Float64Array, n: number, vectors: number) => Promise<SymmetricEigen>;

/** Who does the algebra. */
export interface SpectrumAlgebra {
  readonly solve: EigenSolver;
  /** What takes long, on several threads where there are some. */
  readonly solveApart: SolveApart;
  readonly multiplyDouble: DoubleProduct;
}

/** A prefix, centred. */
interface CentredPrefix {
  readonly models: number;
  /** Σ_l G_il / n over the prefix, for every model of the stream; zeros uncentred. */
  readonly averages: Float64Array;
  /** ‖m‖² about the shift; 0 uncentred. */
  readonly grand: number;
}

/** A prefix's subspace in terms of the models' weights. */
interface Dual extends CentredPrefix {
  /** Of the vectors the first. */
  readonly eigen: SymmetricEigen;
  /** Directions worth naming: at most k. */
  readonly rank: number;
  readonly total: number;
}

/**
 * Lets the event loop turn between two prefixes: all of them take seconds from 1,000 models on, in which a signal would not be
 * heard and a lease not be renewed.
 * @param block models a block, at whose ends the stream is looked at
 * @param solvers prefixes that are solved at once
 * Rejects with RangeError when there are no models.
 */
export const exactSpectrum = async (
  spec: SubspaceSpec,
  gram: ExactGram,
  block: number,
  algebra: SpectrumAlgebra,
  solvers = 1,
): Promise<ExactSpectrum> => {
  const { models: n } = gram;
  if (n < 1) throw new RangeError('a spectrum needs at least one model');
  const products = productsOf(gram);
  const ends = prefixesOf(n, block);
  const duals = await dualsOf(spec, products, n, ends, algebra, solvers);
  const prefixes: PrefixSpectrum[] = [];
  for (const [i, dual] of duals.entries()) {
    const before = duals[i - 1] ?? null;
    prefixes.push({
      prefix: ends[i]!,
      eigenvalues: spectrumOf(spec, dual),
      total: dual.total,
      arrived: arrivedSince(spec, gram, products, before, dual.models, algebra),
      drift: driftBetween(spec, products, n, before, dual, algebra),
    });
    await turn();
  }
  const dual = duals.at(-1)!;
  return {
    state: stateOf(spec, gram, products, dual),
    prefixes,
    norm2: centredNorms2(products, dual),
    coordinates: coordinatesOf(dual, algebra),
    rank: dual.rank,
    mix: mixOf(spec, dual, algebra),
  };
};

// By products where loops would do: they are called a few times a run, and are over before their code is compiled.

const centredNorms2 = (products: Float64Array, { models: n, averages, grand }: Dual): Float64Array =>
  averages.map((average, i) => Math.max(products[i * n + i]! - 2 * average + grand, 0));

const coordinatesOf = (
  { models: n, eigen: { values, vectors }, rank }: Dual,
  { multiplyDouble }: SpectrumAlgebra,
): Float64Array => {
  const coordinates = new Float64Array(n * rank);
  for (let j = 0; j < rank; j++) {
    const s = Float64Array.of(Math.sqrt(values[j]!));
    const column = coordinates.subarray(j);
    multiplyDouble(PLAIN, { m: n, n: 1, k: 1 }, vectors.subarray(j * n), 1, s, 1, column, rank);
  }
  return coordinates;
};

const mixOf = (
  { center }: SubspaceSpec,
  { models: n, eigen: { values, vectors }, rank }: Dual,
  { multiplyDouble }: SpectrumAlgebra,
): Float64Array => {
  const mix = new Float64Array((1 + rank) * (1 + n));
  if (center) mix.fill(1 / n, 1, 1 + n);
  for (let j = 0; j < rank; j++) {
    const s = Float64Array.of(1 / Math.sqrt(values[j]!));
    const row = mix.subarray((1 + j) * (1 + n) + 1);
    multiplyDouble(PLAIN, { m: 1, n, k: 1 }, s, 1, vectors.subarray(j * n), n, row, n);
  }
  return mix;
};

/** X Xᵀ, N x N. */
const productsOf = ({ values, models }: ExactGram): Float64Array => {
  const before = rowsBeforeBlock(0);
  const size = before + models;
  const products = new Float64Array(models * models);
  for (let i = 0; i < models; i++) {
    const row = (before + i) * size + before;
    products.set(values.subarray(row, row + models), i * models);
  }
  return products;
};

/** All prefixes' subspaces, in order; the largest are solved first, so that no thread is left with one of them at the end. */
const dualsOf = async (
  spec: SubspaceSpec,
  products: Float64Array,
  n: number,
  ends: readonly Prefix[],
  algebra: SpectrumAlgebra,
  solvers: number,
): Promise<readonly Dual[]> => {
  const centred = centredPrefixes(spec, products, n, ends, algebra.multiplyDouble);
  const duals = new Array<Dual>(ends.length);
  const waiting = [...centred.keys()];
  const solveNext = async (): Promise<void> => {
    for (let i = waiting.pop(); i !== undefined; i = waiting.pop()) {
      try {
        duals[i] = await dualOf(spec, products, n, centred[i]!, algebra);
      } catch (error) {
        waiting.length = 0;
        throw error;
      }
      await turn();
    }
  };
  await allDone(Array.from({ length: Math.max(1, solvers) }, solveNext));
  return duals;
};

const centredPrefixes = (
  { center }: SubspaceSpec,
  products: Float64Array,
  n: number,
  ends: readonly Prefix[],
  product: DoubleProduct,
): readonly CentredPrefix[] => {
  const sums = new Float64Array(n);
  let from = 0;
  return ends.map(({ models }) => {
    if (center) addColumns(products, n, from, models, sums, product);
    from = models;
    const averages = sums.map((sum) => sum / models);
    return { models, averages, grand: sumOf(averages, 0, models) / models };
  });
};

const dualOf = async (
  spec: SubspaceSpec,
  products: Float64Array,
  n: number,
  prefix: CentredPrefix,
  { solveApart, multiplyDouble }: SpectrumAlgebra,
): Promise<Dual> => {
  const { models } = prefix;
  const most = Math.min(spec.rank, mostDirections(spec, models));
  const centred = centredMinor(products, n, prefix, multiplyDouble);
  const total = traceOf(centred, models);
  const eigen = await solveApart(centred, models, most);
  const floor = RANK_THRESHOLD * Math.max(eigen.values[0]!, 0);
  let rank = 0;
  while (rank < most && eigen.values[rank]! > floor) rank++;
  return { ...prefix, eigen, rank, total };
};

/** sums += the columns [from, to) of the n x n products. */
const addColumns = (
  products: Float64Array,
  n: number,
  from: number,
  to: number,
  sums: Float64Array,
  product: DoubleProduct,
): void => {
  const ones = new Float64Array(to - from).fill(1);
  product(PLAIN, { m: n, n: 1, k: to - from }, products.subarray(from), n, ones, 1, sums, 1);
};

/** G_il − a_i − a_l + g of the first models. */
const centredMinor = (
  products: Float64Array,
  n: number,
  { models: first, averages, grand }: CentredPrefix,
  product: DoubleProduct,
): Float64Array => {
  const centred = new Float64Array(first * first);
  for (let i = 0; i < first; i++) centred.set(products.subarray(i * n, i * n + first), i * first);
  // [h, 1] · [1; h] with h = g / 2 − a.
  const left = new Float64Array(2 * first).fill(1);
  for (let i = 0; i < first; i++) left[2 * i] = grand / 2 - averages[i]!;
  const right = new Float64Array(2 * first).fill(1);
  for (let i = 0; i < first; i++) right[2 * i + 1] = left[2 * i]!;
  product({ a: false, b: true }, { m: first, n: first, k: 2 }, left, 2, right, 2, centred, first);
  return centred;
};

const mostDirections = ({ center, features }: SubspaceSpec, models: number): number =>
  Math.min(center ? models - 1 : models, features);

/** All eigenvalues there can be; what rounding took below zero is zero. */
const spectrumOf = (spec: SubspaceSpec, { models, eigen }: Dual): Float64Array =>
  eigen.values.slice(0, mostDirections(spec, models)).map((value) => Math.max(value, 0));

const stateOf = (spec: SubspaceSpec, gram: ExactGram, products: Float64Array, dual: Dual): SubspaceState => {
  const { models: n, values } = gram;
  const size = rowsBeforeBlock(0) + n;
  const shiftNorm2 = values[size + 1]!;
  let shiftDotMean = 0;
  let totalUncentred = 0;
  let largestNorm2 = 0;
  for (let i = 0; i < n; i++) {
    const shiftX = values[size + rowsBeforeBlock(0) + i]!;
    const norm2 = products[i * n + i]!;
    shiftDotMean += spec.center ? shiftX / n : 0;
    totalUncentred += rawNorm2Of(spec, norm2, shiftX, shiftNorm2);
    largestNorm2 = Math.max(largestNorm2, norm2);
  }
  return {
    ...emptySubspace,
    models: n,
    eigenvalues: spectrumOf(spec, dual),
    total: dual.total,
    largestNorm2,
    meanNorm2: dual.grand,
    shiftDotMean,
    shiftNorm2,
    totalUncentred,
  };
};

/** ‖x − origin‖². */
const rawNorm2Of = (spec: SubspaceSpec, norm2: number, shiftX: number, shiftNorm2: number): number =>
  spec.shiftIsOrigin ? norm2 : Math.max(norm2 - 2 * shiftX + shiftNorm2, 0);

/** Models from where `before` ends to `until`, scored against it. */
const arrivedSince = (
  spec: SubspaceSpec,
  { values, models: n, shiftSum }: ExactGram,
  products: Float64Array,
  before: Dual | null,
  until: number,
  { multiplyDouble }: SpectrumAlgebra,
): readonly ModelUpdate[] => {
  const size = rowsBeforeBlock(0) + n;
  const shiftNorm2 = values[size + 1]!;
  const from = before?.models ?? 0;
  let largest = before?.grand ?? 0;
  for (let i = from; i < until; i++) largest = Math.max(largest, products[i * n + i]!);
  const count = until - from;
  const along = before === null ? null : alongDirections(products, n, before, count, multiplyDouble);
  return Array.from({ length: count }, (_, at) => {
    const i = from + at;
    const column = CONSTANT_ROWS + 1 + i;
    const norm2 = products[i * n + i]!;
    const rawNorm2 = rawNorm2Of(spec, norm2, values[size + column]!, shiftNorm2);
    const meanEntry = (values[column]! + shiftSum) / spec.features;
    const unscored = { centred2: null, captured2: null, rawNorm2, meanEntry, distance2: 0 };
    if (before === null || along === null) return unscored;
    const centred2 = norm2 - 2 * before.averages[i]! + before.grand;
    if (!(centred2 > RANK_THRESHOLD * largest)) return unscored;
    let captured2 = 0;
    for (let j = 0; j < before.rank; j++) captured2 += along[j * count + at]! ** 2 / before.eigen.values[j]!;
    return { centred2, captured2, rawNorm2, meanEntry, distance2: 0 };
  });
};

/** s_j ⟨u_j, x − m⟩ = Σ_l v_l ⟨x_l, x − m⟩ of the `count` models after a prefix; the v_l of a centred direction add up to zero. */
const alongDirections = (
  products: Float64Array,
  n: number,
  { models, averages, eigen, rank }: Dual,
  count: number,
  product: DoubleProduct,
): Float64Array => {
  // V · G − (V · a) 1ᵀ
  const ofMean = new Float64Array(rank);
  const ones = new Float64Array(count).fill(-1);
  const along = new Float64Array(rank * count);
  if (rank === 0) return along;
  const later = products.subarray(models);
  product(PLAIN, { m: rank, n: 1, k: models }, eigen.vectors, models, averages, 1, ofMean, 1);
  product(PLAIN, { m: rank, n: count, k: models }, eigen.vectors, models, later, n, along, count);
  product(PLAIN, { m: rank, n: count, k: 1 }, ofMean, 1, ones, count, along, count);
  return along;
};

const driftBetween = (
  spec: SubspaceSpec,
  products: Float64Array,
  n: number,
  before: Dual | null,
  after: Dual,
  { solve, multiplyDouble: product }: SpectrumAlgebra,
): SubspaceUpdate['drift'] => {
  const cuts = cutsOf(spec.rank);
  if (before === null) return cuts.map(() => null);
  const { rank: r, models: a, eigen: old } = before;
  const { rank: l, models: b, eigen: now } = after;
  // G V_b, then ⟨u_i, u'_j⟩ = V_aᵀ G V_b / (s s').
  const half = new Float64Array(a * l);
  if (l > 0) product({ a: false, b: true }, { m: a, n: l, k: b }, products, n, now.vectors, b, half, l);
  const inner = productOf(old.vectors, half, r, a, l, { product });
  for (let i = 0; i < r; i++)
    for (let j = 0; j < l; j++) inner[i * l + j] = inner[i * l + j]! / Math.sqrt(old.values[i]! * now.values[j]!);
  return cuts.map((cut) => (cut <= r && cut <= l ? principalAngles(inner, l, cut, solve, product) : null));
};
