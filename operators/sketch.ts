// The engine `randomized` in coefficient space: streaming Nyström. Of the scatter M = Σ x xᵀ of a slot's models (D x D, never
// formed) it keeps Y = Ψ M and B = Ψ M Ψᵀ, Ψ being rows of random signs. Both are sums over models, so the order of models does
// not matter, and states of other models with the same Ψ add up. M̂ = Yᵀ B⁺ Y lies below M; what it misses is estimated from
// rows of Ψ that take no part in it. Centring comes at the end: M − n m mᵀ.
// The tiles hold s = Σ x, Y and Ψ, and each block is multiplied with all of them once. B comes from the products z = Ψ x, and
// Y Yᵀ from z, Y Xᵀ and X Xᵀ: with exactly the z that made Y, rounding in z does not matter, and rounding in a product is
// compressed, never enlarged, by B^-½ Z.
// Source: nystrom.ts.
import { sumOf } from './linalg/array-loops.ts';
import { jsDoubleProduct as multiply, PLAIN, productOf } from './linalg/dense-products.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { nystrom, type Sketch } from './nystrom.ts';
import { type SubspaceSpec, type SubspaceState, sketchRows, TEST_ROWS } from './subspace-state.ts';
import {
  type BlockGram,
  CONSTANT_ROWS,
  driftOf,
  largestNorm2,
  type Products,
  type SubspaceUpdate,
  scoreModels,
} from './update-subspace.ts';

const emptySketch = (rows: number): Sketch => ({
  turn: identity(rows),
  sumDots: new Float64Array(1 + rows),
  rowDots: new Float64Array(rows * rows),
  core: new Float64Array(rows * rows),
  tests: new Float64Array(rows),
  directions: new Float64Array(0),
});

const identity = (n: number): Float64Array =>
  Float64Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));

/** Products of a block with the rows that tiles hold, [1; −shift; s; Y; Ψ; X]. */
interface BlockProducts {
  readonly onesX: Float64Array;
  readonly shiftX: Float64Array;
  readonly shiftShift: number;
  /** [s; Y] Xᵀ, (1 + L) x b. */
  readonly heldX: Float64Array;
  /** z of each model, L x b. */
  readonly z: Float64Array;
  readonly xx: Float64Array;
}

const productsOf = (
  { values, columns, block }: BlockGram,
  shiftNorm2: number,
  turn: Float64Array | null,
  rows: number,
  solve: EigenSolver,
): BlockProducts & { readonly turn: Float64Array } => {
  const part = (from: number, to: number): Float64Array => {
    const out = new Float64Array((to - from) * block);
    for (let row = from; row < to; row++) {
      const start = row * columns + columns - block;
      out.set(values.subarray(start, start + block), (row - from) * block);
    }
    return out;
  };
  const [held, signs, models] = [CONSTANT_ROWS, CONSTANT_ROWS + 1 + rows, CONSTANT_ROWS + 1 + 2 * rows];
  const tested = part(signs, models);
  const known = turn ?? turnOf(tested, rows, block, solve);
  return {
    turn: known,
    onesX: part(0, 1),
    shiftX: part(1, 2),
    shiftShift: columns === block ? shiftNorm2 : values[columns + 1]!,
    heldX: part(held, signs),
    // As the device takes it when it adds z xᵀ to Y: any other z would not be the one that Y was made with.
    z: productOf(known, tested, rows, rows, block).map(Math.fround),
    xx: part(models, models + block),
  };
};

/** The eigenvectors of the first block's Ψ X Xᵀ Ψᵀ, but for the test rows, which stay apart. */
const turnOf = (tested: Float64Array, rows: number, b: number, solve: EigenSolver): Float64Array => {
  const inside = rows - TEST_ROWS;
  const core = new Float64Array(inside * inside);
  multiply({ a: false, b: true }, { m: inside, n: inside, k: b }, tested, b, tested, b, core, inside);
  const { vectors } = solve(core, inside);
  const turn = identity(rows);
  for (let i = 0; i < inside; i++) turn.set(vectors.subarray(i * inside, (i + 1) * inside), i * rows);
  return turn;
};

/** Folds a block of b models in the first, or only, pass. */
export const updateSketch = (
  spec: SubspaceSpec,
  state: SubspaceState,
  gram: BlockGram,
  solve: EigenSolver,
): SubspaceUpdate => {
  const b = gram.block;
  const n = state.models;
  const models = n + b;
  const rows = sketchRows(spec);
  const before = state.sketch ?? emptySketch(rows);
  const products = productsOf(gram, state.shiftNorm2, state.sketch?.turn ?? null, rows, solve);
  const { heldX, xx, z, shiftX, shiftShift } = products;
  const added = additions(z, b, spec.center ? 1 : 0);
  const mean = n > 0 && spec.center ? 1 / n : 0;

  // --- the block as the subspace before it sees it
  const old = state.eigenvalues.length;
  const seen = productOf(before.directions, heldX, old, 1 + rows, b);
  const oldMean = productOf(before.directions, before.sumDots, old, 1 + rows, 1).map((dot) => dot * mean);
  // As if rows had the length of their singular value, which is what scoring expects.
  const lengths = state.eigenvalues.map(Math.sqrt);
  const scoring: Products = {
    rowRow: null,
    rowMean: oldMean.map((dot, j) => dot * lengths[j]!),
    meanMean: before.sumDots[0]! * mean * mean,
    rowX: seen.map((dot, i) => dot * lengths[Math.floor(i / b)]!),
    meanX: heldX.slice(0, b).map((dot) => dot * mean),
    shiftX,
    onesX: products.onesX,
    xx,
    shiftShift,
  };
  const scored = scoreModels(spec, state, gram, scoring, Math.min(spec.rank, old));

  // --- what is exact: totals and the mean
  const meanX = sumOf(scoring.meanX) / b;
  const grand = sumOf(xx) / (b * b);
  let trace = 0;
  for (let i = 0; i < b; i++) trace += xx[i * b + i]!;
  const between = n > 0 ? ((n * b) / models) * (scoring.meanMean - 2 * meanX + grand) : 0;
  const total = state.total + (spec.center ? trace - b * grand + between : trace);
  let rawTotal = 0;
  for (const { rawNorm2 } of scored) rawTotal += rawNorm2;

  // --- the sketch, and what it shows
  const grown = grow(before, products, added, b, spec.center);
  const blockNorm2 = largestNorm2(scoring, b);
  const found = nystrom(spec, grown, models, blockNorm2, solve);
  const sketch: Sketch = { ...grown, turn: products.turn, directions: found.directions };
  const now = found.eigenvalues.length;
  const share = spec.center ? 1 / models : 0;
  const next: SubspaceState = {
    models,
    eigenvalues: found.eigenvalues,
    total,
    lost: Math.max(total - sumOf(found.eigenvalues), 0),
    truncation: found.error,
    largestNorm2: Math.max(state.largestNorm2, blockNorm2),
    rowsDotMean: new Float64Array(0),
    meanNorm2: grown.sumDots[0]! * share * share,
    shiftDotMean: share * (n * state.shiftDotMean + sumOf(shiftX)),
    shiftNorm2: shiftShift,
    totalUncentred: state.totalUncentred + rawTotal,
    sketch,
  };

  // --- old directions and the block in the new ones; s' = s + Σ x and Y' = Y + Σ z xᵀ
  const heldThen = crossDots(before, heldX, added, rows, b);
  const rotation = turned(before.directions, old, heldThen, found.directions, now, rows);
  const newMean = productOf(found.directions, grown.sumDots, now, 1 + rows, 1).map((dot) => dot * share);
  const oldMeanNow = productOf(found.directions, heldThen.subarray(0, 1 + rows), now, 1 + rows, 1);
  const newMeanThen = productOf(before.directions, firstColumn(heldThen, 1 + rows), old, 1 + rows, 1);
  const blockNow = heldX.slice();
  multiply(PLAIN, { m: 1 + rows, n: b, k: b }, added, b, xx, b, blockNow, b);
  const coordinates = new Float64Array(b * now);
  const projected = productOf(found.directions, blockNow, now, 1 + rows, b);
  for (let i = 0; i < b; i++)
    for (let j = 0; j < now; j++) coordinates[i * now + j] = projected[j * b + i]! - newMean[j]!;
  const moves = n > 0 && spec.center;
  return {
    state: next,
    mix: wholeMix(added, rows, b),
    oldRows: old,
    newRows: now,
    models: scored.map((model, i) => ({
      ...model,
      distance2: Math.max(xx[i * b + i]! - 2 * share * blockNow[i]! + next.meanNorm2, 0),
    })),
    coordinates,
    carry: {
      rotation,
      offset: moves ? oldMeanNow.map((dot, j) => dot * mean - newMean[j]!) : new Float64Array(now),
      gradient: moves ? newMeanThen.map((dot, j) => -2 * (dot * share - oldMean[j]!)) : new Float64Array(old),
      constant: moves ? next.meanNorm2 - 2 * mean * share * heldThen[0]! + scoring.meanMean : 0,
    },
    drift: driftOf(spec, rotation, old, now, solve),
  };
};

/**
 * The second pass: the directions found in the first one take the signs' place, and Y and B are summed anew.
 * @returns (1 + 2L) x (1 + 2L): makes [s; 0; directions and test rows] out of [s; Y; Ψ]
 */
export const turnSketch = (
  spec: SubspaceSpec,
  state: SubspaceState,
): { readonly state: SubspaceState; readonly mix: Float64Array } => {
  const rows = sketchRows(spec);
  const { sumDots, directions } = state.sketch!;
  const size = 1 + 2 * rows;
  const mix = new Float64Array(size * size);
  mix[0] = 1;
  for (let j = 0; j < state.eigenvalues.length; j++)
    mix.set(directions.subarray(j * (1 + rows), (j + 1) * (1 + rows)), (1 + rows + j) * size);
  for (let j = size - TEST_ROWS; j < size; j++) mix[j * size + j] = 1;
  const cleared = emptySketch(rows);
  cleared.sumDots[0] = sumDots[0]!;
  return { state: { ...state, sketch: { ...cleared, directions } }, mix };
};

/** Folds a block in the second pass. */
export const updateSketchAgain = (
  spec: SubspaceSpec,
  state: SubspaceState,
  gram: BlockGram,
  solve: EigenSolver,
): Pick<SubspaceUpdate, 'state' | 'mix'> => {
  const rows = sketchRows(spec);
  const products = productsOf(gram, state.shiftNorm2, state.sketch!.turn, rows, solve);
  const added = additions(products.z, gram.block, 0);
  const sketch = grow(state.sketch!, products, added, gram.block, spec.center);
  return { state: { ...state, sketch }, mix: wholeMix(added, rows, gram.block) };
};

/** What the second pass found, as an update by no models; nothing is to be mixed. */
export const closeSketch = (spec: SubspaceSpec, state: SubspaceState, solve: EigenSolver): SubspaceUpdate => {
  const rows = sketchRows(spec);
  const { sketch, models, total } = state;
  const { eigenvalues, directions, error } = nystrom(spec, sketch!, models, 0, solve);
  const old = state.eigenvalues.length;
  const now = eigenvalues.length;
  // The first pass's directions are rows of Ψ: ⟨u, Y⟩ is a part of B, ⟨u, s⟩ one of Σ z.
  const inner = new Float64Array(old * (1 + rows));
  for (let i = 0; i < old; i++) {
    inner[i * (1 + rows)] = sketch!.tests[i]!;
    for (let j = 0; j < rows; j++) inner[i * (1 + rows) + 1 + j] = sketch!.core[i * rows + j]!;
  }
  const rotation = new Float64Array(old * now);
  const size = { m: old, n: now, k: 1 + rows };
  multiply({ a: false, b: true }, size, inner, 1 + rows, directions, 1 + rows, rotation, now);
  return {
    state: {
      ...state,
      eigenvalues,
      lost: Math.max(total - sumOf(eigenvalues), 0),
      truncation: error,
      sketch: { ...sketch!, directions },
    },
    mix: new Float64Array(0),
    oldRows: old,
    newRows: now,
    models: [],
    coordinates: new Float64Array(0),
    carry: { rotation, offset: new Float64Array(now), gradient: new Float64Array(old), constant: 0 },
    drift: driftOf(spec, rotation, old, now, solve),
  };
};

/** The factors of a block's models in s and Y, (1 + L) x b. */
const additions = (z: Float64Array, b: number, inSum: 0 | 1): Float64Array => {
  const added = new Float64Array(b + z.length).fill(inSum, 0, b);
  added.set(z, b);
  return added;
};

/** [s; Y; Ψ] of the next state out of [s; Y; Ψ; X]: (1 + 2L) x (1 + 2L + b). */
const wholeMix = (added: Float64Array, rows: number, b: number): Float64Array => {
  const size = 1 + 2 * rows;
  const mix = new Float64Array(size * (size + b));
  for (let i = 0; i < size; i++) {
    mix[i * (size + b) + i] = 1;
    if (i <= rows) mix.set(added.subarray(i * b, (i + 1) * b), i * (size + b) + size);
  }
  return mix;
};

/** The small matrices once [s; Y] += A X, A the additions. */
const grow = (
  { sumDots, rowDots, core, tests, ...rest }: Sketch,
  { heldX, xx, z }: BlockProducts,
  added: Float64Array,
  b: number,
  center: boolean,
): Sketch => {
  const rows = tests.length;
  const held = 1 + rows;
  // [s; Y] [s; Y]ᵀ += W Aᵀ + A Wᵀ with W = [s; Y] Xᵀ + A X Xᵀ / 2.
  const half = heldX.slice();
  multiply(
    PLAIN,
    { m: held, n: b, k: b },
    added,
    b,
    xx.map((x) => x / 2),
    b,
    half,
    b,
  );
  const grownDots = new Float64Array(held * held);
  const right = { a: false, b: true };
  multiply(right, { m: held, n: held, k: b }, half, b, added, b, grownDots, held);
  const newDots = Float64Array.from({ length: held }, (_, j) => sumDots[j]! + grownDots[j]! + grownDots[j * held]!);
  const newRows = rowDots.slice();
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rows; j++) {
      const both = grownDots[(1 + i) * held + 1 + j]! + grownDots[(1 + j) * held + 1 + i]!;
      newRows[i * rows + j] = newRows[i * rows + j]! + both;
    }
  }
  const newCore = core.slice();
  multiply(right, { m: rows, n: rows, k: b }, z, b, z, b, newCore, rows);
  const newTests = center ? tests.map((sum, i) => sum + sumOf(z, i * b, (i + 1) * b)) : tests;
  return { ...rest, sumDots: newDots, rowDots: newRows, core: newCore, tests: newTests };
};

/** [s; Y] · [s'; Y']ᵀ = [s; Y] [s; Y]ᵀ + [s; Y] Xᵀ Aᵀ, (1 + L)². */
const crossDots = (
  { sumDots, rowDots }: Sketch,
  heldX: Float64Array,
  added: Float64Array,
  rows: number,
  b: number,
): Float64Array => {
  const held = 1 + rows;
  const cross = new Float64Array(held * held);
  cross.set(sumDots);
  for (let i = 0; i < rows; i++) {
    cross[(1 + i) * held] = sumDots[1 + i]!;
    cross.set(rowDots.subarray(i * rows, (i + 1) * rows), (1 + i) * held + 1);
  }
  multiply({ a: false, b: true }, { m: held, n: held, k: b }, heldX, b, added, b, cross, held);
  return cross;
};

/** ⟨u_i, u'_j⟩ = D C D'ᵀ. */
const turned = (
  directions: Float64Array,
  old: number,
  cross: Float64Array,
  newDirections: Float64Array,
  now: number,
  rows: number,
): Float64Array => {
  const half = productOf(directions, cross, old, 1 + rows, 1 + rows);
  const rotation = new Float64Array(old * now);
  const size = { m: old, n: now, k: 1 + rows };
  multiply({ a: false, b: true }, size, half, 1 + rows, newDirections, 1 + rows, rotation, now);
  return rotation;
};

const firstColumn = (matrix: Float64Array, n: number): Float64Array =>
  Float64Array.from({ length: n }, (_, i) => matrix[i * n]!);
