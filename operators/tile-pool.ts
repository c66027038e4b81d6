// The tiles of a group of slots, spread over worker threads. Results do not depend on how many: in each request a tile is
// one thread's work, and what tiles contribute is added in tile order.

import { Worker } from 'node:worker_threads';
import { sinkFailure } from '../sinks/durable-file.ts';
import { tilesOf } from '../sources/tile.ts';
import { allDone } from './all-done.ts';
import type { MatrixSizes } from './common-panels.ts';
import { dealTiles, isShared } from './deal-tiles.ts';
import type { DeviceInfo } from './devices/device.ts';
import type { DeviceChoice } from './devices/device-choice.ts';
import { type FoundDevice, findDevice } from './devices/device-spec.ts';
import { FloatArena } from './devices/float-arena.ts';
import { TensorThread } from './devices/tensor-link.ts';
import type { TensorConnection } from './devices/tensor-messages.ts';
import { DeviceFailed, NumericalFailure } from './errors.ts';
import type { SolveApart } from './exact-spectrum.ts';
import { addTo, type DoubleProduct } from './linalg/dense-products.ts';
import type { EigenSolver, SymmetricEigen } from './linalg/symmetric-eigen.ts';
import type { ScatterAnswers, ScatterTask } from './scatter-tasks.ts';
import { OPENED, type SlotRequest, type TileQueue, type TileRequest, type TileWorkerData } from './tile-messages.ts';
import type { TileDigest, TilePeaks, TileProjection, TileVisit } from './tile-store.ts';
import type {
  BadRow,
  FetchTask,
  FinishTask,
  LoadTask,
  Projection,
  ProjectTask,
  SaveTask,
  ScanTask,
  SlotLayout,
  VisitResult,
  VisitTask,
} from './tile-tasks.ts';
import { newTimeSpent, type TileTimings, type TimeSpent, type Turn, timingsOf } from './time-spent.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

/**
 * Room for young objects in a worker's heap. It would be 48 MiB, most of it garbage: a worker's weights are outside the
 * heap, and what it makes of them are a few small objects a tile.
 */
const YOUNG_MEBIBYTES = 4;

/** Cells of tiles' Grams, all together, up to which they are sent and added by the pool itself: 4 MiB. */
const SENT_CELLS = 2 ** 19;

/** Requests that leave a slot's tiles as they are. */
const READS: ReadonlySet<SlotRequest['kind']> = new Set(['scan', 'fetch']);

/** What an engine sees of the tiles. */
export interface Tiles {
  readonly info: DeviceInfo;
  readonly solve: EigenSolver;
  /** Whether rows of tiles can change places. */
  readonly swapsRows: boolean;
  readonly threads: number;
  /** Makes room for a group of slots; the tiles of the group before are given up. */
  open(slots: readonly SlotLayout[]): Promise<void>;
  /**
   * One visit of a slot at a time.
   * @param onto what tiles before these contributed, when the slot is visited part by part
   */
  visit(task: VisitTask, onto?: VisitResult): Promise<VisitResult>;
  /** The first of each model that has any. */
  scan(task: ScanTask): Promise<readonly BadRow[]>;
  /** Each direction's entry of largest magnitude over the whole slot; the first of equals. */
  finish(task: FinishTask): Promise<Float64Array>;
  /** Makes directions of a slot, or of some of its tiles; tells their largest entries as `finish` does. */
  project(task: ProjectTask): Promise<Projection>;
  fetch(task: FetchTask): Promise<void>;
  /** Writes a slot's rows to a file; the sha256 of what each tile wrote, in tile order. */
  save(task: SaveTask): Promise<readonly Uint8Array[]>;
  load(task: LoadTask): Promise<void>;
  /** On whichever thread is free; with an NVIDIA card on this one. */
  readonly solveApart: SolveApart;
  /** Does a task of the modes rows and cols on whichever thread is free. */
  scatter<T extends ScatterTask>(task: T): Promise<ScatterAnswers[T['kind']]>;
  readonly multiplyDouble: DoubleProduct;
  /** Work since it was asked last. */
  takeTimings(turn?: Turn): TileTimings;
  close(): Promise<void>;
}

interface Pending {
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

class TileWorker {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #next = 0;
  #dead: Error | null = null;
  /** Resolves when its device is open, or will never be. */
  readonly #opened: Promise<void>;

  constructor({ spec }: FoundDevice, spent: TimeSpent, connection: TensorConnection | null) {
    this.#worker = new Worker(new URL('./tile-worker.js', import.meta.url), {
      workerData: { device: spec, spent, connection } satisfies TileWorkerData,
      transferList: connection === null ? [] : [connection.port],
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MEBIBYTES },
    });
    this.#opened = new Promise((resolve) => {
      this.#worker.once('message', () => resolve());
      this.#worker.once('exit', () => resolve());
    });
    this.#worker.on('message', (message) => {
      if (message === OPENED) return;
      const { id, result, error, stack, spill, unsolved, device } = message;
      const pending = this.#pending.get(id)!;
      this.#pending.delete(id);
      if (error === undefined) pending.resolve(result as never);
      else if (spill !== undefined)
        pending.reject(sinkFailure(spill.path, 'spilling tiles', { ...spill, message: error }));
      else if (device !== undefined) pending.reject(new DeviceFailed(device));
      else if (unsolved !== undefined) pending.reject(new NumericalFailure(unsolved));
      else pending.reject(Object.assign(new Error(error), { stack }));
    });
    this.#worker.on('error', (error) => this.#fail(error as Error));
    this.#worker.on('exit', (code) => this.#fail(new Error(`a tile worker ended with code ${code}`)));
  }

  /** @param given memory that the request gives away */
  send<R>(request: TileRequest, given: readonly ArrayBuffer[] = []): Promise<R> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    const id = this.#next++;
    return new Promise<R>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, request }, [...given]);
    });
  }

  /** @param device what it holds outlives the thread, and must be given back */
  async close(device: boolean): Promise<void> {
    // A thread that ends while it binds a library's functions takes the process along.
    await this.#opened;
    // One that is at work, or lost its device, ends as it is.
    if (device && this.#pending.size === 0) await this.send({ kind: 'close' }).catch(() => {});
    await this.#worker.terminate();
  }

  #fail(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#pending.values()) reject(this.#dead);
    this.#pending.clear();
  }
}

export class TilePool implements Tiles {
  readonly info: DeviceInfo;
  readonly solve: EigenSolver;
  readonly multiplyDouble: DoubleProduct;
  readonly swapsRows: boolean;
  readonly threads: number;
  readonly takeTimings: Tiles['takeTimings'];
  /** Tasks that wait for a thread, and threads that wait for a task. */
  readonly #waiting: ((worker: TileWorker) => void)[] = [];
  readonly #idle: TileWorker[];
  readonly #workers: readonly TileWorker[];
  /** The thread that holds the GPU, for all of them. */
  readonly #tensors: TensorThread | null;
  /** Tiles of each slot, and where their Grams stand when they are many: kept for later groups, as panels are. */
  #tiles: readonly number[] = [];
  readonly #grams = new Map<number, SharedArrayBuffer>();
  /** Which workers hold tiles of a slot. */
  #holders: TileWorker[][] = [];
  /** Whether all of them hold all. */
  #areShared: boolean[] = [];
  /** Where panels are that threads have in common. */
  readonly #panels = new FloatArena();
  /** Of each slot the last request that changes its tiles, as long as a thread is at it. */
  readonly #changes = new Map<number, Promise<void>>();
  readonly #sizes: MatrixSizes | null;

  constructor(found: FoundDevice, threads: number) {
    this.info = found.info;
    this.solve = found.solve;
    this.multiplyDouble = found.multiplyDouble;
    this.swapsRows = found.swapsRows;
    const { matrixFloats: floatsOf } = found;
    this.#sizes = floatsOf === undefined ? null : { panel: found.info.panel, floatsOf };
    this.threads = threads;
    this.#tensors = found.spec.name === 'tensors' ? new TensorThread(found.spec.backend) : null;
    const spent = Array.from({ length: threads }, newTimeSpent);
    this.takeTimings = timingsOf(spent);
    this.#workers = spent.map((own) => new TileWorker(found, own, this.#tensors?.connect() ?? null));
    this.#idle = [...this.#workers];
  }

  /** Resolves when every worker has its device: the first work then starts at once. */
  async ready(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.send({ kind: 'ready' })));
  }

  async open(slots: readonly SlotLayout[]): Promise<void> {
    this.#tiles = slots.map(({ features }) => tilesOf(features).length);
    this.#panels.releaseAll();
    const dealt = dealTiles(slots, this.threads, this.#sizes, this.#panels);
    this.#holders = slots.map((_, slot) => this.#workers.filter((_, i) => dealt[i]!.owned[slot]!.length > 0));
    this.#areShared = slots.map((layout) => isShared(layout, this.#sizes !== null));
    await Promise.all(this.#workers.map((worker, i) => worker.send({ kind: 'open', slots, ...dealt[i]! })));
  }

  async visit(task: VisitTask, onto?: VisitResult): Promise<VisitResult> {
    const { from, to } = task.tiles ?? { from: 0, to: this.#tiles[task.slot]! };
    const all = rowsBeforeBlock(task.stateRows) + task.block;
    const cells = all * (task.full ? all : task.block);
    const tiles = to - from;
    const grams = tiles * cells < SENT_CELLS ? null : this.#roomFor(task.slot, (tiles + 1) * cells * 8);
    const visits = (await this.#ask<readonly TileVisit[]>({ kind: 'visit', task, grams })).flat();
    if (grams === null) return addVisits(visits, task, this.multiplyDouble, onto);
    const gram = onto?.gram ?? new Float64Array(cells);
    const sums = new Float64Array(grams, tiles * cells * 8, cells);
    sums.set(gram);
    const cut = (worker: number): number => Math.floor((worker * cells) / this.threads);
    await allDone(
      this.#workers.map((worker, i) =>
        worker.send({ kind: 'add', task: { grams, tiles, cells, from: cut(i), to: cut(i + 1) } }),
      ),
    );
    gram.set(sums);
    return visitOf(visits, gram, task, onto);
  }

  async scan(task: ScanTask): Promise<readonly BadRow[]> {
    return firstOfEachModel((await this.#ask<readonly BadRow[]>({ kind: 'scan', task })).flat());
  }

  async finish(task: FinishTask): Promise<Float64Array> {
    const peaks = await this.#ask<readonly TilePeaks[]>({ kind: 'finish', task });
    return largestPeaks(peaks.flat(), task.mix.m - 1);
  }

  async project(task: ProjectTask): Promise<Projection> {
    const tiles = await this.#ask<readonly TileProjection[]>({ kind: 'project', task });
    return projectionOf(tiles.flat(), task);
  }

  async fetch(task: FetchTask): Promise<void> {
    await this.#ask({ kind: 'fetch', task });
  }

  async save(task: SaveTask): Promise<readonly Uint8Array[]> {
    return inTileOrder((await this.#ask<readonly TileDigest[]>({ kind: 'save', task })).flat());
  }

  async load(task: LoadTask): Promise<void> {
    await this.#ask({ kind: 'load', task });
  }

  async scatter<T extends ScatterTask>(task: T): Promise<ScatterAnswers[T['kind']]> {
    return this.#whenFree((worker) => worker.send<ScatterAnswers[T['kind']]>({ kind: 'scatter', task }));
  }

  readonly solveApart: SolveApart = async (matrix, n, vectors) => {
    // Large ones are for the card, whose solver this thread has: it does them one after the other.
    if (this.info.name === 'cuda') return this.solve(matrix, n, vectors);
    const request = { kind: 'solve', matrix, n, vectors } as const;
    return this.#whenFree((worker) => worker.send<SymmetricEigen>(request, [matrix.buffer as ArrayBuffer]));
  };

  async close(): Promise<void> {
    const device = this.info.name === 'cuda';
    await Promise.all(this.#workers.map((worker) => worker.close(device)));
    await this.#tensors?.close();
  }

  async #whenFree<R>(work: (worker: TileWorker) => Promise<R>): Promise<R> {
    const worker = this.#idle.pop() ?? (await new Promise<TileWorker>((resolve) => void this.#waiting.push(resolve)));
    try {
      return await work(worker);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#idle.push(worker);
      else next(worker);
    }
  }

  #roomFor(slot: number, bytes: number): SharedArrayBuffer {
    const known = this.#grams.get(slot);
    if (known !== undefined && known.byteLength >= bytes) return known;
    const room = new SharedArrayBuffer(bytes);
    this.#grams.set(slot, room);
    return room;
  }

  /** Settles when no worker is at it any more: a file that one of them fails on is closed then, and its number used again. */
  async #ask<R>(request: SlotRequest): Promise<R[]> {
    const { slot } = request.task;
    const workers = this.#holders[slot]!;
    const isQueued = this.#areShared[slot] && workers.length > 1;
    const queue: TileQueue = isQueued ? new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT) : null;
    const ask = (): Promise<R[]> => allDone(workers.map((worker) => worker.send<R>({ ...request, queue })));
    // What one thread is still mixing another one must not visit.
    const before = this.#changes.get(slot);
    const answers = before === undefined ? ask() : before.then(ask);
    if (READS.has(request.kind)) return answers;
    const change = Promise.allSettled([answers]).then(() => {
      if (this.#changes.get(slot) === change) this.#changes.delete(slot);
    });
    this.#changes.set(slot, change);
    return answers;
  }
}

/** Adds what tiles contributed, in tile order, to what the tiles before them did, whose Gram it takes over. */
export const addVisits = (
  visits: readonly TileVisit[],
  { full, stateRows, block }: VisitTask,
  product: DoubleProduct,
  onto?: VisitResult,
): VisitResult => {
  const ordered = [...visits].sort((a, b) => a.tile - b.tile);
  const [first, ...others] = onto === undefined ? ordered : [onto, ...ordered];
  const { gram } = first!;
  for (const visit of others) addTo(gram, visit.gram, product);
  return visitOf(visits, gram, { full, stateRows, block }, onto);
};

/** @param gram of these tiles and those before them */
const visitOf = (
  visits: readonly TileVisit[],
  gram: Float64Array,
  { full, stateRows, block }: Pick<VisitTask, 'full' | 'stateRows' | 'block'>,
  onto?: VisitResult,
): VisitResult => {
  const ordered = [...visits].sort((a, b) => a.tile - b.tile);
  const shiftSum = ordered.reduce((sum, visit) => sum + visit.shiftSum, onto?.shiftSum ?? 0);
  const unread = firstOfEachModel([...(onto?.unread ?? []), ...visits.flatMap((visit) => visit.unread)]);
  if (full) mirror(gram, rowsBeforeBlock(stateRows) + block);
  return { gram, columns: full ? rowsBeforeBlock(stateRows) + block : block, shiftSum, unread };
};

/** Fills the lower triangle from the upper one. */
const mirror = (gram: Float64Array, rows: number): void => {
  for (let i = 0; i < rows; i++) for (let j = 0; j < i; j++) gram[i * rows + j] = gram[j * rows + i]!;
};

export const inTileOrder = (digests: readonly TileDigest[]): readonly Uint8Array[] =>
  [...digests].sort((a, b) => a.tile - b.tile).map(({ sha256 }) => sha256);

export const largestPeaks = (tiles: readonly TilePeaks[], directions: number): Float64Array => {
  const largest = new Float64Array(directions);
  for (const { peaks } of [...tiles].sort((a, b) => a.tile - b.tile)) {
    for (let j = 0; j < directions; j++) if (Math.abs(peaks[j]!) > Math.abs(largest[j]!)) largest[j] = peaks[j]!;
  }
  return largest;
};

export const projectionOf = (tiles: readonly TileProjection[], { mix }: ProjectTask): Projection => ({
  peaks: largestPeaks(tiles, mix.m - 1),
  unread: firstOfEachModel(tiles.flatMap(({ unread }) => unread)),
});

export const firstOfEachModel = <B extends BadRow>(values: readonly B[]): readonly B[] => {
  const first = new Map<number, B>();
  for (const bad of values) {
    const known = first.get(bad.model);
    if (known === undefined || bad.index < known.index) first.set(bad.model, bad);
  }
  return [...first.values()].sort((a, b) => a.model - b.model);
};

/**
 * Opens worker threads with the device asked for.
 * @throws DeviceUnavailable
 */
export const openTiles = async (options: { readonly device: DeviceChoice; readonly threads: number }): Promise<Tiles> =>
  new TilePool(await findDevice(options.device, { threads: options.threads }), options.threads);
