// Streams for the tests of engines, held in memory: models with known weights in a plan that needs no files, and the
// engine run over them on this thread. The float64 truth is computed here, by other means than the engine's.
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { concat, defer, filter, finalize, from, lastValueFrom, type Observable, tap, toArray } from 'rxjs';
import { type ExactModesOptions, exactModes, type ModesOfSlot } from '../../operators/exact-modes.ts';
import { exactPca } from '../../operators/exact-pca.ts';
import { type BlockUpdate, type IncrementalPcaOptions, incrementalPca } from '../../operators/incremental-pca.ts';
import { jsEigenSolver } from '../../operators/linalg/symmetric-eigen.ts';
import type { SideMode } from '../../operators/scatter-tasks.ts';
import { decodeStates, encodeStates } from '../../operators/state-table.ts';
import type { EngineName, Subspace } from '../../operators/subspace.ts';
import type { SubspaceState } from '../../operators/subspace-state.ts';
import type { Tiles } from '../../operators/tile-pool.ts';
import type { ModelUpdate } from '../../operators/update-subspace.ts';
import type { PlannedModel, PlannedSlot, ReadingPlan } from '../../sources/reading-plan.ts';
import type { BlockAtHand } from '../../sources/staged-block.ts';
import { tilesOf } from '../../sources/tile.ts';
import type { WeightBlock } from '../../sources/weight-blocks.ts';

/** A seeded source of normal numbers. */
export const normals = (seed: number): (() => number) => {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
};

export interface Folded {
  /** Every model as it looked when it arrived. */
  readonly scores: readonly ModelUpdate[];
  readonly subspace: Subspace;
  readonly mean: Float32Array;
  /** k x D. */
  readonly basis: readonly Float32Array[];
}

export interface FoldOptions {
  /** Default: incremental. */
  readonly engine?: EngineName;
  readonly rank: number;
  readonly block: number;
  readonly center?: boolean;
  readonly base?: Float32Array;
  /** Engine randomized. */
  readonly seed?: number;
  readonly passes?: 1 | 2;
  /** What a second pass finds instead. */
  readonly later?: readonly Float32Array[];
  /** Streaming engines. */
  readonly onBadSource?: 'error' | 'skip';
  /**
   * Streaming engines: write the state down after this block (from 0), through an Arrow table and a file of rows, and go on
   * from what was written.
   */
  readonly interruptAfter?: number;
}

export interface PlannedStream {
  readonly plan: ReadingPlan;
  readonly blocksOf: (plan: ReadingPlan) => WeightBlock[];
}

/** A plan of one slot whose weights are in memory, one row a model. */
export const streamOf = (
  rows: readonly Float32Array[],
  {
    block,
    base: origin,
    passes = 1,
    later = rows,
    shape = [1, rows[0]!.length],
  }: Pick<FoldOptions, 'block' | 'base' | 'passes' | 'later'> & { shape?: readonly [number, number] },
): PlannedStream => {
  const features = rows[0]!.length;
  const tensor = { name: 'w', dtype: 'F32', shape, file: 0, offset: 0, byteLength: features * 4 };
  const slot: PlannedSlot = {
    id: 0,
    name: 'w',
    rows: shape[0],
    cols: shape[1],
    features,
    tensorIn: () => tensor,
  };
  const modelOf = (id: number): PlannedModel => ({
    id,
    name: `m${id}`,
    header: {
      files: [{ path: `m${id}`, size: 0, mtimeMs: 0 }],
      headerDigests: [''],
      tensors: new Map([['w', tensor]]),
    },
  });
  const models = rows.map((_, id) => modelOf(id));
  const base = origin === undefined ? null : modelOf(rows.length);
  const group = { index: 0, slots: [slot] };
  const plan: ReadingPlan = { models, base, groups: [group], block, passes };
  const stage = (members: readonly PlannedModel[], weights: readonly Float32Array[]): BlockAtHand => {
    const buffer = new SharedArrayBuffer(members.length * features * 4);
    const floats = new Float32Array(buffer);
    for (const { start, width } of tilesOf(features)) {
      weights.forEach((row, i) => {
        floats.set(row.subarray(start, start + width), start * members.length + i * width);
      });
    }
    const ids = Int32Array.from(members, ({ id }) => id);
    const staged = {
      dtype: 'F32' as const,
      models: ids,
      positions: Int32Array.from(ids.keys()),
      buffer,
      offset: 0,
      start: 0,
    };
    return { slots: [{ slot, models: members, rows: [staged] }], faults: [] };
  };
  const blocksOf = (reading: ReadingPlan): WeightBlock[] => {
    const count = Math.ceil(rows.length / reading.block);
    return Array.from({ length: count * (reading.passes ?? 1) }, (_, index) => {
      const at = (index % count) * reading.block;
      const members = models.slice(at, at + reading.block);
      return {
        plan: reading,
        group,
        index,
        blocks: count * (reading.passes ?? 1),
        models: members,
        first: index === 0,
        modelsSeen: at + members.length,
        parts: null,
        part: 0,
        read: async () => ({
          ...stage(members, (index < count ? rows : later).slice(at, at + reading.block)),
          base: index === 0 && base !== null ? stage([base], [origin!]) : null,
        }),
        readBase: async () => (base === null ? null : stage([base], [origin!])),
      };
    });
  };
  return { plan, blocksOf };
};

/** The state rows that a streaming engine ends with, all of them, as a checkpoint has them: r x D; D at most a tile. */
export const foldRows = async (
  tiles: Tiles,
  rows: readonly Float32Array[],
  { engine, ...options }: Pick<IncrementalPcaOptions<never>, 'engine' | 'rank' | 'center'> & { readonly block: number },
): Promise<{ readonly state: SubspaceState; readonly rows: readonly Float32Array[] }> => {
  const { plan, blocksOf } = streamOf(rows, options);
  const features = rows[0]!.length;
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-rows-'));
  const path = join(folder, 'rows');
  const fd = openSync(path, 'wx+');
  try {
    const stream = from(blocksOf(plan)).pipe(
      incrementalPca<Subspace>({
        ...options,
        ...(engine === undefined ? {} : { engine }),
        tiles,
        checkpoint: async ({ index, blocks }, running) => {
          if (index === blocks - 1) await running.save({ path, fd });
        },
      }),
    );
    const last = await lastValueFrom(stream);
    if (last.kind !== 'subspace') throw new Error('expected a subspace last');
    const floats = new Float32Array(Uint8Array.from(readFileSync(path)).buffer);
    const held = floats.length / features;
    // Before them −shift and the mean.
    const own = Array.from({ length: held - 2 }, (_, j) => floats.slice((2 + j) * features, (3 + j) * features));
    return { state: last.state, rows: own };
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
};

/** Folds rows of float32 weights, one a model. */
export const fold = async (tiles: Tiles, rows: readonly Float32Array[], options: FoldOptions): Promise<Folded> => {
  const features = rows[0]!.length;
  const { plan, blocksOf } = streamOf(rows, options);
  const out: { mean: Float32Array; basis: Float32Array[] } = { mean: new Float32Array(features), basis: [] };
  const keep = async (subspace: Subspace): Promise<Subspace> => {
    const buffer = new SharedArrayBuffer((1 + subspace.rank) * features * 4);
    await subspace.readTiles(0, subspace.tiles.length, buffer);
    out.basis = Array.from({ length: subspace.rank }, () => new Float32Array(features));
    for (const { start, width } of subspace.tiles) {
      const at = start * (1 + subspace.rank);
      const row = (j: number) => new Float32Array(buffer, (at + j * width) * 4, width);
      out.mean.set(row(0), start);
      for (let j = 0; j < subspace.rank; j++) out.basis[j]!.set(row(1 + j), start);
    }
    return subspace;
  };
  const common = { rank: options.rank, tiles, ...(options.center === undefined ? {} : { center: options.center }) };
  const scores: ModelUpdate[] = [];
  const stream: Observable<BlockUpdate | Subspace> =
    options.engine === 'exact'
      ? exactPca<Subspace>(plan, {
          ...common,
          blocks: (reading) => from(blocksOf(reading)),
          finish: (slot) => {
            scores.push(...slot.spectrum.prefixes.flatMap(({ arrived }) => arrived));
            return from(keep(slot.subspace!));
          },
        })
      : incremental(plan, blocksOf(plan), options.interruptAfter ?? null, {
          ...common,
          ...(options.engine === undefined ? {} : { engine: options.engine }),
          ...(options.seed === undefined ? {} : { seed: options.seed }),
          ...(options.onBadSource === undefined ? {} : { onBadSource: options.onBadSource }),
          finish: (subspace) => from(keep(subspace)),
        }).pipe(
          tap((event) => {
            if (event.kind === 'block') scores.push(...event.slots.flatMap(({ update }) => update.models));
          }),
        );
  const events = await lastValueFrom(stream.pipe(toArray()));
  return { scores, subspace: events.find((event): event is Subspace => event.kind === 'subspace')!, ...out };
};

const incremental = (
  plan: ReadingPlan,
  blocks: readonly WeightBlock[],
  interruptAfter: number | null,
  options: IncrementalPcaOptions<Subspace>,
): Observable<BlockUpdate | Subspace> => {
  if (interruptAfter === null) return from(blocks).pipe(incrementalPca<Subspace>(options));
  const folder = mkdtempSync(join(tmpdir(), 'weightspan-state-'));
  const path = join(folder, 'rows');
  const fd = openSync(path, 'wx+');
  let saved: Uint8Array | null = null;
  const before = from(blocks.slice(0, interruptAfter + 1)).pipe(
    incrementalPca<Subspace>({
      ...options,
      checkpoint: async ({ index }, running) => {
        if (index === interruptAfter) saved = encodeStates((await running.save({ path, fd })).slots);
      },
    }),
    filter((event) => event.kind === 'block'),
  );
  const after = defer(() => {
    const models = Math.min((interruptAfter + 1) * plan.block, plan.models.length);
    const group = { ...plan.groups[0]!, folded: { models, blocks: interruptAfter + 1 } };
    const rest = blocks.slice(interruptAfter + 1).map((block) => ({ ...block, group }));
    const last = { ...blocks.at(-1)!, group, models: [] };
    const [first, ...others] = rest.length === 0 ? [last] : rest;
    return from([{ ...first!, first: true }, ...others]).pipe(
      incrementalPca<Subspace>({
        ...options,
        restore: () => ({ slots: decodeStates(saved!), path, fd, close: () => {} }),
      }),
      finalize(() => {
        closeSync(fd);
        rmSync(folder, { recursive: true });
      }),
    );
  });
  // What the first stream would have finished is not looked at: it never came to that.
  return concat(before, after);
};

export interface ModesOptions
  extends Pick<
    ExactModesOptions<never>,
    'modes' | 'energies' | 'onBadSource' | 'largestSide' | 'follower' | 'vectorsOf'
  > {
  readonly rank: number;
  readonly block: number;
  readonly shape: readonly [rows: number, cols: number];
  readonly center?: boolean;
  readonly base?: Float32Array;
}

/** Folds models of rows x cols weights in the modes rows and cols. */
export const foldModes = async (
  tiles: Tiles,
  weights: readonly Float32Array[],
  {
    center = true,
    energies = true,
    onBadSource = 'error',
    base,
    largestSide,
    follower,
    vectorsOf,
    ...options
  }: ModesOptions,
): Promise<ModesOfSlot | undefined> => {
  const { rank, block, shape, modes } = options;
  const { plan, blocksOf } = streamOf(weights, { block, shape, ...(base === undefined ? {} : { base }) });
  const blocks = (reading: ReadingPlan) => from(blocksOf(reading));
  const stream = exactModes(plan, {
    ...{ modes, rank, tiles, center, energies, onBadSource, blocks },
    ...(largestSide === undefined ? {} : { largestSide }),
    ...(follower === undefined ? {} : { follower }),
    ...(vectorsOf === undefined ? {} : { vectorsOf }),
  });
  const events = await lastValueFrom(stream.pipe(toArray()));
  return events.find((event): event is ModesOfSlot => event.kind === 'modes');
};

/** Float64 truth of a mode: the scatter matrix about the mean of the models (or the origin), side x side. */
export const scatterOf = (
  weights: readonly Float32Array[],
  [rows, cols]: readonly [number, number],
  mode: SideMode,
  center = true,
  origin?: Float32Array,
): { readonly matrix: Float64Array; readonly mean: Float64Array } => {
  const mean = new Float64Array(rows * cols);
  if (center)
    for (const w of weights) for (let i = 0; i < mean.length; i++) mean[i] = mean[i]! + w[i]! / weights.length;
  else if (origin !== undefined) mean.set(origin);
  const side = mode === 'rows' ? cols : rows;
  const matrix = new Float64Array(side * side);
  for (const w of weights) {
    for (let s = 0; s < (mode === 'rows' ? rows : cols); s++) {
      const at = (i: number): number => (mode === 'rows' ? s * cols + i : i * cols + s);
      const x = Float64Array.from({ length: side }, (_, i) => w[at(i)]! - mean[at(i)]!);
      for (let a = 0; a < side; a++)
        for (let b = 0; b < side; b++) matrix[a * side + b] = matrix[a * side + b]! + x[a]! * x[b]!;
    }
  }
  return { matrix, mean };
};

/** Float64 truth of centred (or not) scatter: eigenvalues of the N x N Gram, the total, the mean. */
export const exactSpectrum = (rows: readonly Float32Array[], center = true, origin?: Float32Array) => {
  const n = rows.length;
  const d = rows[0]!.length;
  const mean = new Float64Array(d);
  if (center) for (const row of rows) for (let i = 0; i < d; i++) mean[i] = mean[i]! + row[i]! / n;
  else if (origin !== undefined) mean.set(origin);
  const gram = new Float64Array(n * n);
  let total = 0;
  for (let a = 0; a < n; a++) {
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let i = 0; i < d; i++) sum += (rows[a]![i]! - mean[i]!) * (rows[b]![i]! - mean[i]!);
      gram[a * n + b] = gram[b * n + a] = sum;
    }
    total += gram[a * n + a]!;
  }
  return { eigenvalues: jsEigenSolver(gram, n).values, total, mean };
};
