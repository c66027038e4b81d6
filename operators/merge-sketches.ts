// Merges the sketches of one slot, states of the engine `randomized`, as they stand in files, tile after tile. All of them test
// with the same signs Ψ, but each about a shift σ of its own and turned by a V of its own: z = V Ψ (x − σ). With R = V₀ Vᵀ,
// d = σ − σ₀ and w = V₀ Ψ d a model of any stream has z₀ = R z + w in the first one's frame, so that
//   Y₀ = Σ z₀ (x − σ₀)ᵀ = R Y + R t dᵀ + w sᵀ + n w dᵀ,  B₀ = R B Rᵀ + R t wᵀ + w tᵀ Rᵀ + n w wᵀ,  t₀ = R t + n w
// with s = Σ (x − σ), t = Σ z. What makes Y makes B, so both stay products with the same z, whatever was rounded before. Sums
// over streams are float64 and rounded once, when Y is written; V₀ keeps its rows graded (DECISIONS.md, Y in graded rows).
// Cost a weight: about 6 (1 + L)² flops a state, on the calling thread; rows are read once, and [s; Y] of the merged ones again.
// Memory: [s; Y] of all states over one tile, float64. Source: Nyström sketches are linear, Tropp et al. 2019, sec. 3.
import { createHash } from 'node:crypto';
import { displayName } from '../sources/display-name.ts';
import type { PlannedSlot } from '../sources/reading-plan.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import { NumericalFailure } from './errors.ts';
import { allFinite } from './find-faults.ts';
import type { DoubleProduct } from './linalg/dense-products.ts';
import { largerPeak } from './linalg/larger-peak.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import type { MergedState, StoredState } from './merge-states.ts';
import { nystrom, type Sketch } from './nystrom.ts';
import { readValues, writeValues } from './spill-files.ts';
import { heldRows, reportedRank, type SubspaceSpec, type SubspaceState, sketchRows } from './subspace-state.ts';
import type { SavedRows } from './tile-tasks.ts';
import { type CoordinateCarry, savedRows } from './update-subspace.ts';

/** A · B or A · Bᵀ, whole matrices in row-major order. */
const multiplied = (
  product: DoubleProduct,
  [m, n, k]: readonly [number, number, number],
  a: Float64Array,
  b: Float64Array,
  transposed = false,
): Float64Array => {
  const out = new Float64Array(m * n);
  if (m > 0 && n > 0 && k > 0) product({ a: false, b: transposed }, { m, n, k }, a, k, b, transposed ? k : n, out, n);
  return out;
};

const addTo = (sum: Float64Array, part: Float64Array): void => {
  for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + part[i]!;
};

/** Rows [from, to) of a tile as a checkpoint has them: [−σ; s; Y; Ψ]. */
const readRows = (spec: SubspaceSpec, { rows }: { readonly rows: SavedRows }, tile: Tile, from: number, to: number) => {
  const all = savedRows(2 * sketchRows(spec));
  const values = new Float32Array((to - from) * tile.width);
  readValues(rows.path, rows.fd, rows.at + (tile.start * all + from * tile.width) * 4, values);
  return values;
};

/** How a part comes into the first one's frame. */
interface Frame {
  /** Makes the part's share of [s₀; Y₀] out of [s; Y; d]: (1 + L) x (2 + L). */
  readonly move: Float64Array;
  readonly core: Float64Array;
  readonly tests: Float64Array;
}

/** @param moved Ψ d */
const frameOf = (
  { models, sketch }: SubspaceState,
  first: Sketch,
  moved: Float64Array,
  center: boolean,
  product: DoubleProduct,
): Frame => {
  const { turn, core, tests } = sketch!;
  const L = tests.length;
  const R = multiplied(product, [L, L, L], first.turn, turn, true);
  const w = multiplied(product, [L, 1, L], first.turn, moved);
  const Rt = multiplied(product, [L, 1, L], R, tests);
  const move = new Float64Array((1 + L) * (2 + L));
  move[0] = 1;
  move[1 + L] = center ? models : 0;
  for (let a = 0; a < L; a++) {
    const row = move.subarray((1 + a) * (2 + L), (2 + a) * (2 + L));
    row[0] = w[a]!;
    row.set(R.subarray(a * L, (a + 1) * L), 1);
    row[1 + L] = Rt[a]! + models * w[a]!;
  }
  const RB = multiplied(product, [L, L, L], R, core);
  const turned = multiplied(product, [L, L, L], RB, R, true);
  for (let a = 0; a < L; a++)
    for (let b = 0; b < L; b++)
      turned[a * L + b] = turned[a * L + b]! + Rt[a]! * w[b]! + w[a]! * Rt[b]! + models * w[a]! * w[b]!;
  return { move, core: turned, tests: Rt.map((value, a) => value + models * w[a]!) };
};

/**
 * @param parts of one model at least each, with the same signs, in an order that does not depend on who asks
 * @param to where the merged rows go
 * Throws `NumericalFailure` where rows are not finite; `SpillFailed` for what the disk says.
 */
export const mergeSketches = (
  slot: PlannedSlot,
  spec: SubspaceSpec,
  parts: readonly StoredState[],
  to: SavedRows,
  product: DoubleProduct,
  solve: EigenSolver,
): MergedState => {
  const L = sketchRows(spec);
  const held = 1 + L;
  const saved = savedRows(2 * L);
  const tiles = tilesOf(slot.features);
  const models = parts.reduce((sum, { state }) => sum + state.models, 0);
  const [{ state: first }] = parts as [StoredState];

  // --- where the streams' shifts and means lie from the first one's shift
  const moved = new Float64Array(L * parts.length);
  const meanDots = new Float64Array(parts.length ** 2);
  for (const tile of tiles) {
    const { width } = tile;
    const ends = parts.map((part) => readRows(spec, part, tile, 0, 2));
    const apart = shiftsApart(ends, width);
    const signs = Float64Array.from(readRows(spec, parts[0]!, tile, 2 + L, 2 + 2 * L));
    addTo(moved, multiplied(product, [L, parts.length, width], signs, apart, true));
    const means = meansOf(ends, apart, parts, width);
    addTo(meanDots, multiplied(product, [parts.length, parts.length, width], means, means, true));
  }
  const frames = parts.map(({ state }, i) => {
    const own = Float64Array.from({ length: L }, (_, a) => moved[a * parts.length + i]!);
    return frameOf(state, first.sketch!, own, spec.center, product);
  });

  // --- the merged rows, and what is to be known of them
  const dots = new Float64Array(held * held);
  const crosses = parts.map(() => new Float64Array((held + 1) * held));
  const alongs = parts.map(() => new Float64Array(held + 1));
  const digests: Uint8Array[] = [];
  let shiftDotSum = 0;
  for (const tile of tiles) {
    const { width } = tile;
    const rows = parts.map((part) => readRows(spec, part, tile, 0, 2 + L));
    const apart = shiftsApart(rows, width);
    const sum = new Float64Array(held * width);
    const seen = rows.map((values, i) => {
      const own = new Float64Array((held + 1) * width);
      own.set(values.subarray(width));
      own.set(apart.subarray(i * width, (i + 1) * width), held * width);
      addTo(sum, multiplied(product, [held, width, held + 1], frames[i]!.move, own));
      return own;
    });
    if (!allFinite(sum)) {
      const detail = 'the sums of models that its runs kept add up to what is not finite';
      throw new NumericalFailure({ slot: displayName(slot.name), detail });
    }
    const written = new Float32Array(saved * width);
    written.set(rows[0]!.subarray(0, width));
    written.set(sum, width);
    written.set(readRows(spec, parts[0]!, tile, 2 + L, 2 + 2 * L), (1 + held) * width);
    writeValues(to.path, to.fd, to.at + tile.start * saved * 4, written);
    digests.push(createHash('sha256').update(written).digest());
    // Of the rows as they were rounded.
    const merged = Float64Array.from(written.subarray(width, (1 + held) * width));
    addTo(dots, multiplied(product, [held, held, width], merged, merged, true));
    for (let l = 0; l < width; l++) shiftDotSum += written[l]! * merged[l]!;
    for (const [i, own] of seen.entries()) {
      // m_i − m takes the place of d.
      const delta = own.subarray(held * width);
      const n = parts[i]!.state.models;
      for (let l = 0; l < width; l++) delta[l] = spec.center ? own[l]! / n + delta[l]! - merged[l]! / models : 0;
      addTo(crosses[i]!, multiplied(product, [held + 1, held, width], own, merged, true));
      addTo(alongs[i]!, multiplied(product, [held + 1, 1, width], own, delta, true));
    }
  }

  // --- the small matrices, and what they show
  const core = new Float64Array(L * L);
  const tests = new Float64Array(L);
  for (const frame of frames) {
    addTo(core, frame.core);
    addTo(tests, frame.tests);
  }
  const rowDots = new Float64Array(L * L);
  for (let a = 0; a < L; a++) rowDots.set(dots.subarray((1 + a) * held + 1, (2 + a) * held), a * L);
  const grown: Sketch = { ...first.sketch!, sumDots: dots.slice(0, held), rowDots, core, tests };
  const meansNorm2 = parts.reduce((most, _, i) => Math.max(most, meanDots[i * (parts.length + 1)]!), 0);
  const found = nystrom(spec, grown, models, spec.center ? meansNorm2 : 0, solve);
  const { eigenvalues, directions, error } = found;
  const sumStates = (of: (state: SubspaceState) => number): number =>
    parts.reduce((all, { state }) => all + of(state), 0);
  const share = spec.center ? 1 / models : 0;
  const total = sumStates((state) => state.total) + (spec.center ? scatterOfMeans(parts, meanDots) : 0);
  const state: SubspaceState = {
    models,
    eigenvalues,
    total,
    lost: Math.max(total - eigenvalues.reduce((a, b) => a + b, 0), 0),
    truncation: error,
    largestNorm2: Math.max(meansNorm2, ...parts.map((part) => part.state.largestNorm2)),
    rowsDotMean: new Float64Array(0),
    meanNorm2: dots[0]! * share * share,
    shiftDotMean: shiftDotSum * share,
    shiftNorm2: first.shiftNorm2,
    totalUncentred: sumStates(({ totalUncentred }) => totalUncentred),
    sketch: { ...grown, directions },
  };
  const carries = parts.map((part, i) => carryOf(part.state, directions, crosses[i]!, alongs[i]!, product));
  const rows = { rows: to };
  const peaks = new Float64Array(reportedRank(spec, state));
  for (const tile of tiles) {
    const { width } = tile;
    const made = directionsIn(spec, state, rows, tile, product);
    for (let j = 0; j < peaks.length; j++)
      peaks[j] = largerPeak(peaks[j]!, made.subarray((1 + j) * width, (2 + j) * width));
  }
  const size = savedRows(heldRows(spec, state)) * slot.features * 4;
  return { state, mix: new Float64Array(0), carries, ...rows, size, digests, peaks };
};

/** A tile's mean relative to the shift, and its first k unit directions, of a sketch in a file: (1 + k) x width. */
export const directionsIn = (
  spec: SubspaceSpec,
  state: SubspaceState,
  from: { readonly rows: SavedRows },
  tile: Tile,
  product: DoubleProduct,
): Float32Array => {
  const held = 1 + sketchRows(spec);
  const rank = reportedRank(spec, state);
  const rows = Float64Array.from(readRows(spec, from, tile, 1, 1 + held));
  const factors = new Float64Array((1 + rank) * held);
  factors[0] = 1 / state.models;
  factors.set(state.sketch!.directions.subarray(0, rank * held), held);
  return Float32Array.from(multiplied(product, [1 + rank, tile.width, held], factors, rows));
};

/** d of each part; what is in memory begins with −σ. */
const shiftsApart = (rows: readonly Float32Array[], width: number): Float64Array => {
  const out = new Float64Array(rows.length * width);
  rows.forEach((values, i) => {
    for (let l = 0; l < width; l++) out[i * width + l] = rows[0]![l]! - values[l]!;
  });
  return out;
};

/** Each part's mean about the first one's shift. */
const meansOf = (
  rows: readonly Float32Array[],
  apart: Float64Array,
  parts: readonly StoredState[],
  width: number,
): Float64Array => {
  const out = apart.slice();
  rows.forEach((values, i) => {
    const n = parts[i]!.state.models;
    for (let l = 0; l < width; l++) out[i * width + l] = out[i * width + l]! + values[width + l]! / n;
  });
  return out;
};

/** Σ n_i ‖m_i − m‖², as Σ n_i n_j ‖m_i − m_j‖² / n over pairs: no large numbers are subtracted. */
const scatterOfMeans = (parts: readonly StoredState[], dots: Float64Array): number => {
  const p = parts.length;
  const models = parts.reduce((sum, { state }) => sum + state.models, 0);
  let sum = 0;
  for (let i = 0; i < p; i++) {
    for (let j = 0; j < i; j++) {
      const apart2 = dots[i * p + i]! - 2 * dots[i * p + j]! + dots[j * p + j]!;
      sum += (parts[i]!.state.models * parts[j]!.state.models * Math.max(apart2, 0)) / models;
    }
  }
  return sum;
};

/** @param cross [s; Y; m_i − m] of the part times the merged [s; Y]; @param along the same times m_i − m */
const carryOf = (
  { eigenvalues, sketch }: SubspaceState,
  directions: Float64Array,
  cross: Float64Array,
  along: Float64Array,
  product: DoubleProduct,
): CoordinateCarry => {
  const held = along.length - 1;
  const [r, now] = [eigenvalues.length, directions.length / held];
  const half = multiplied(product, [r, held, held], sketch!.directions, cross.subarray(0, held * held));
  const rotation = multiplied(product, [r, now, held], half, directions, true);
  const offset = multiplied(product, [now, 1, held], directions, cross.subarray(held * held));
  const gradient = multiplied(product, [r, 1, held], sketch!.directions, along.subarray(0, held)).map((x) => 2 * x);
  return { rotation, offset, gradient, constant: along[held]! };
};
