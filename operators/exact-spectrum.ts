// What the Gram matrix of all models of a slot knows: the whole spectrum, each model's coordinates, and what the spectrum
// was when only the first models had come. All of it is float64 algebra on N x N numbers; weights are never touched.
// The Gram is of shifted weights and raw; a prefix of the stream is its leading minor, centred about its own mean.
// Source: the dual (Gram) form of PCA, e.g. Jolliffe 2002, sec. 3.5; modes of a tensor: arXiv 2512.05117, algorithm 1.
import { setImmediate as turn } from 'node:timers/promises';
import { type DoubleProduct, jsDoubleProduct, productOf } from './linalg/dense-products.ts';
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

/** A prefix's subspace in terms of the models' weights. */
interface Dual {
  readonly models: number;
  readonly eigen: SymmetricEigen;
  /** Directions worth naming: at most k. */
  readonly rank: number;
  readonly total: number;
  /** Σ_l G_il / n over the prefix, for every model of the stream; zeros uncentred. */
  readonly averages: Float64Array;
  /** ‖m‖² about the shift; 0 uncentred. */
  readonly grand: number;
}

/**
 * Lets the event loop turn between two prefixes: all of them take seconds from 1,000 models on, in which a signal would not be
 * heard and a lease not be renewed.
 * @param block models a block, at whose ends the stream is looked at
 * @param product loops, unless another is given
 * Rejects with RangeError when there are no models.
 */
export const exactSpectrum = async (
  spec: SubspaceSpec,
  gram: ExactGram,
  block: number,
  solve: EigenSolver,
  product: DoubleProduct = jsDoubleProduct,
): Promise<ExactSpectrum> => {
  const { models: n } = gram;
  if (n < 1) throw new RangeError('a spectrum needs at least one model');
  const products = productsOf(gram);
  const prefixes: PrefixSpectrum[] = [];
  let before: Dual | null = null;
  for (const prefix of prefixesOf(n, block)) {
    const dual = dualOf(spec, products, n, prefix.models, solve);
    prefixes.push({
      prefix,
      eigenvalues: spectrumOf(spec, dual),
      total: dual.total,
      arrived: arrivedSince(spec, gram, products, before, prefix.models, product),
      drift: driftBetween(spec, products, n, before, dual, solve, product),
    });
    before = dual;
    await turn();
  }
  const dual = before!;
  const { eigen, rank, averages, grand } = dual;
  const coordinates = new Float64Array(n * rank);
  const mix = new Float64Array((1 + rank) * (1 + n));
  if (spec.center) mix.fill(1 / n, 1, 1 + n);
  for (let j = 0; j < rank; j++) {
    const s = Math.sqrt(eigen.values[j]!);
    for (let i = 0; i < n; i++) {
      const v = eigen.vectors[j * n + i]!;
      coordinates[i * rank + j] = s * v;
      mix[(1 + j) * (1 + n) + 1 + i] = v / s;
    }
  }
  const norm2 = Float64Array.from({ length: n }, (_, i) =>
    Math.max(products[i * n + i]! - 2 * averages[i]! + grand, 0),
  );
  return { state: stateOf(spec, gram, products, dual), prefixes, norm2, coordinates, rank, mix };
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

const dualOf = (spec: SubspaceSpec, products: Float64Array, n: number, first: number, solve: EigenSolver): Dual => {
  const averages = new Float64Array(n);
  let grand = 0;
  if (spec.center) {
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let l = 0; l < first; l++) sum += products[i * n + l]!;
      averages[i] = sum / first;
      if (i < first) grand += averages[i]! / first;
    }
  }
  const centred = new Float64Array(first * first);
  let total = 0;
  for (let i = 0; i < first; i++) {
    for (let l = 0; l < first; l++) centred[i * first + l] = products[i * n + l]! - averages[i]! - averages[l]! + grand;
    total += centred[i * first + i]!;
  }
  const eigen = solve(centred, first);
  const floor = RANK_THRESHOLD * Math.max(eigen.values[0]!, 0);
  const most = Math.min(spec.rank, mostDirections(spec, first));
  let rank = 0;
  while (rank < most && eigen.values[rank]! > floor) rank++;
  return { models: first, eigen, rank, total, averages, grand };
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
  product: DoubleProduct,
): readonly ModelUpdate[] => {
  const size = rowsBeforeBlock(0) + n;
  const shiftNorm2 = values[size + 1]!;
  const from = before?.models ?? 0;
  let largest = before?.grand ?? 0;
  for (let i = from; i < until; i++) largest = Math.max(largest, products[i * n + i]!);
  const count = until - from;
  const along = before === null ? null : alongDirections(products, n, before, count, product);
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
  const centred = new Float64Array(models * count);
  for (let l = 0; l < models; l++)
    for (let i = 0; i < count; i++) centred[l * count + i] = products[l * n + models + i]! - averages[l]!;
  return productOf(eigen.vectors, centred, rank, models, count, { product });
};

const driftBetween = (
  spec: SubspaceSpec,
  products: Float64Array,
  n: number,
  before: Dual | null,
  after: Dual,
  solve: EigenSolver,
  product: DoubleProduct,
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
