// A run's checkpoints: what is written down between two blocks, or two groups, and how often. The bytes of a cut are put
// together while the run waits; the disk is waited for while it goes on.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckpointEvery } from '../configs/checkpoint-every.ts';
import type { GroupModes } from '../operators/exact-modes.ts';
import type { RestoredGroup, SavedGroup } from '../operators/incremental-engine.ts';
import type { SavedScatter } from '../operators/mode-scatter.ts';
import { decodeStates, encodeStates, type SavedSlot } from '../operators/state-table.ts';
import { type LogCut, readFully } from '../sinks/append-log.ts';
import {
  CheckpointStore,
  type Manifest,
  type OpenFile,
  type Recovered,
  recoverCheckpoint,
  type StoredFile,
} from '../sinks/checkpoint-store.ts';
import { type Disk, nodeDisk, readingDisk } from '../sinks/disk.ts';
import { sinkFailure } from '../sinks/durable-file.ts';
import type { Begin } from './begin.ts';
import type { Lease } from './lease.ts';
import type { Continuation } from './plan.ts';
import { CHECKPOINTS } from './run-folder.ts';
import { decode, encode, type JournalEntry, RunJournal } from './run-journal.ts';
import { UpdateSpool } from './update-spool.ts';

/** States of consecutive slots after some of the models. */
export interface SavedSlots {
  /** The first of the slots, and how many. The files may have more. */
  readonly first: number;
  readonly slots: number;
  readonly models: number;
  readonly blocks: number;
  /** Names of the files: an Arrow table, and float32 rows. */
  readonly states: string;
  readonly rows: string;
  /** Of the modes rows and cols, where they share the group: JSON, and float arrays. Else null. */
  readonly sides: string | null;
  readonly scatter: string | null;
}

/** How far a run has come. */
export interface Position {
  /** Slots whose results stand, in mode models and in the modes rows and cols; they are done in order. */
  readonly done: { readonly models: number; readonly sides: number };
  /** Groups that are done. */
  readonly groups: number;
  /** Sums of Gram matrices of the slots done: the file; null where there are none, or their results stand. */
  readonly sums: string | null;
  readonly sumsDone: boolean;
  readonly bytesRead: number;
  readonly bytesToRead: number;
  /** Of work, without the time in which nothing ran. */
  readonly seconds: number;
  readonly events: { readonly size: number; readonly seq: number };
}

/** What a manifest says, beside its files. */
export interface RunContent extends Position {
  readonly stage: 'running' | 'finished';
  /** Name of the file that says what the run is. */
  readonly begin: string;
  /** Of slots that are not done in mode models, in order. */
  readonly saved: readonly SavedSlots[];
  /** Final states of those that are. */
  readonly kept: readonly SavedSlots[];
  /** Where models moved since the run was begun. */
  readonly roots: readonly { readonly from: string; readonly to: string }[];
  /** What was allowed to differ when the run was resumed (`--allow-inexact`), so that bits may. */
  readonly inexact: readonly string[];
}

/** Where a run's spool is, relative to it. */
export const SPOOL = `${CHECKPOINTS}/blocks.spool`;

/** Of its own for every generation: until an extension has a checkpoint, that of the run before it counts. */
const journalName = ({ generations }: Begin): string =>
  `${CHECKPOINTS}/journal-${String(generations.length - 1).padStart(4, '0')}.ndjson`;

export const checkpointFolder = (run: string): string => join(run, CHECKPOINTS);

/**
 * Finds a run's newest checkpoint that holds.
 * @param files look at all of its files, too; else at the manifest alone
 * Throws `SinkFailed`, `UnknownFormat`.
 */
export const recoverRun = (
  run: string,
  files: 'files' | 'manifest' = 'files',
  disk: Disk = readingDisk,
): Recovered<RunContent> => recoverCheckpoint(run, checkpointFolder(run), disk, files);

/** Reads what a checkpoint has of some slots' states; their rows stand in its file `rows`. Throws `SinkFailed`. */
export const readStates = (run: string, { states }: SavedSlots): readonly SavedSlot[] =>
  decodeStates(readWhole(join(checkpointFolder(run), states)));

/** Reads what it has of them in the modes rows and cols; null where they do not share it. Throws `SinkFailed`. */
export const readSides = (run: string, { sides }: SavedSlots): readonly SavedScatter[] | null =>
  sides === null
    ? null
    : (JSON.parse(readWhole(join(checkpointFolder(run), sides)).toString(), decode) as readonly SavedScatter[]);

/** Reads what a run is. */
export const readBegin = (run: string, { content }: Manifest<RunContent>): Begin =>
  JSON.parse(readWhole(join(checkpointFolder(run), content.begin)).toString()) as Begin;

const readWhole = (path: string): Buffer =>
  withFile(path, (fd) => {
    const bytes = Buffer.alloc(readingDisk.size(fd));
    readFully(readingDisk, fd, bytes, 0, path);
    return bytes;
  });

const withFile = <R>(path: string, use: (fd: number, path: string) => R): R => {
  try {
    const fd = readingDisk.open(path);
    try {
      return use(fd, path);
    } finally {
      readingDisk.close(fd);
    }
  } catch (cause) {
    throw sinkFailure(path, 'reading it', cause);
  }
};

/** What `makePlan` needs to go on. */
export const continuationOf = (begin: Begin, { done, groups, saved }: RunContent): Continuation => ({
  begin,
  done,
  groups,
  saved,
  added: [],
});

/** When to write the next checkpoint: as asked, or so seldom that all of them cost no more than 5% of the time. */
export class Pace {
  readonly #every: CheckpointEvery | null;
  #since = performance.now();
  #models = 0;
  #wait = LEAST_SECONDS;

  /** @param expected seconds that the first checkpoint may cost, before any was seen */
  constructor(every: CheckpointEvery | null, expected = 0) {
    this.#every = every;
    this.cost(expected);
  }

  /** @param models folded since the last call */
  isDue(models: number): boolean {
    this.#models += models;
    return this.isDueAfter(0);
  }

  /** Whether one would be due after so many models more. */
  isDueAfter(models: number): boolean {
    if (this.#every !== null && 'models' in this.#every) return this.#models + models >= this.#every.models;
    return (performance.now() - this.#since) / 1e3 >= (this.#every?.seconds ?? this.#wait);
  }

  restart(): void {
    this.#since = performance.now();
    this.#models = 0;
  }

  /** @param seconds what the last checkpoint cost */
  cost(seconds: number): void {
    this.#wait = Math.max(LEAST_SECONDS, seconds / MOST_SHARE);
  }
}

/** Less than this between two is of no use to anybody. */
const LEAST_SECONDS = 10;
/** Bytes a second at which a first checkpoint is expected to be written: what a slow disk does. */
const EXPECTED_RATE = 200e6;
const MOST_SHARE = 0.05;

/** A cut of everything but the engine's rows: cheap to remember, and to be written when somebody asks. */
interface Boundary {
  readonly position: Position;
  readonly journal: LogCut;
  readonly spool: LogCut;
}

export interface CheckpointsOptions {
  readonly run: string;
  readonly lease: Lease;
  readonly begin: Begin;
  readonly every: CheckpointEvery | null;
  /** Of the states of a group, at most. */
  readonly expectedBytes: number;
  readonly roots: RunContent['roots'];
  readonly inexact: RunContent['inexact'];
  /** Told of every checkpoint once it is durable, with the seconds that it took. */
  readonly written: (checkpoint: number, seconds: number) => void;
  /** Settles when what was written beside is durable: files of slots that are done. */
  readonly outputs: () => Promise<void>;
}

export class Checkpoints {
  readonly pace: Pace;
  readonly spool: UpdateSpool;
  readonly journal: RunJournal;
  readonly #options: CheckpointsOptions;
  readonly #store: CheckpointStore<RunContent>;
  readonly #folder: string;
  /** Every file that the next manifest may name: those of the last one, and those written since. */
  #files = new Map<string, StoredFile>();
  #begin: Promise<StoredFile>;
  /** Of groups that were not gone on with yet. */
  #waiting: readonly SavedSlots[];
  readonly #kept: SavedSlots[];
  #boundary: Boundary | null = null;
  #boundaryIsWritten = false;
  /** Settles when all that was asked for is durable. */
  #tail: Promise<void> = Promise.resolve();
  #busy = 0;
  /** What the first commit that failed said; none is written after it. */
  #failure: { readonly cause: unknown } | null = null;

  private constructor(
    options: CheckpointsOptions,
    store: CheckpointStore<RunContent>,
    logs: { spool: UpdateSpool; journal: RunJournal },
    from: Manifest<RunContent> | null,
  ) {
    this.#options = options;
    this.#store = store;
    this.#folder = checkpointFolder(options.run);
    this.spool = logs.spool;
    this.journal = logs.journal;
    this.pace = new Pace(options.every, options.expectedBytes / EXPECTED_RATE);
    for (const file of from?.files ?? []) this.#files.set(file.name, file);
    this.#waiting = from?.content.saved ?? [];
    this.#kept = [...(from?.content.kept ?? [])];
    const known = from === null ? undefined : this.#files.get(from.content.begin);
    this.#begin =
      known === undefined
        ? store.put('begin', 'json', Buffer.from(JSON.stringify(options.begin)))
        : Promise.resolve(known);
    this.#begin.catch(() => {});
  }

  /** A new run's. Throws `SinkFailed`. */
  static create(options: CheckpointsOptions): Checkpoints {
    const store = storeOf(options, null);
    const spool = UpdateSpool.create(join(options.run, SPOOL));
    const journal = RunJournal.create(join(options.run, journalName(options.begin)));
    return new Checkpoints(options, store, { spool, journal }, null);
  }

  /**
   * Those of a run that goes on from a manifest.
   * @param each sees what the run had found out by then
   * Throws `SinkFailed`, `DamagedFile`.
   */
  static reopen(
    options: CheckpointsOptions,
    recovered: Recovered<RunContent>,
    each: (entry: JournalEntry) => void,
  ): Checkpoints {
    const { logs } = recovered.manifest!;
    const cutOf = (name: string): LogCut => logs.find((log) => log.name === name)!;
    const store = storeOf(options, recovered);
    const spool = UpdateSpool.reopen(join(options.run, SPOOL), cutOf(SPOOL));
    const name = journalName(options.begin);
    const journal = RunJournal.reopen(join(options.run, name), cutOf(name), each);
    return new Checkpoints(options, store, { spool, journal }, recovered.manifest);
  }

  /**
   * Those of an extension of a finished run, whose states it goes on from.
   * @param each sees what the run had found out
   * Throws `SinkFailed`, `DamagedFile`.
   */
  static extend(
    options: CheckpointsOptions,
    recovered: Recovered<RunContent>,
    each: (entry: JournalEntry) => void,
  ): Checkpoints {
    const manifest = recovered.manifest!;
    const [spoolCut, before] = [true, false].map(
      (isSpool) => manifest.logs.find(({ name }) => (name === SPOOL) === isSpool)!,
    );
    const store = storeOf(options, recovered);
    const spool = UpdateSpool.reopen(join(options.run, SPOOL), spoolCut!);
    RunJournal.reopen(join(options.run, before!.name), before!, each).log.close();
    const journal = RunJournal.create(join(options.run, journalName(options.begin)));
    const { content } = manifest;
    const going = { ...manifest, content: { ...content, begin: '', saved: content.kept, kept: [] } };
    return new Checkpoints(options, store, { spool, journal }, going);
  }

  /** Whether the disk is still busy with the one before. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  #savedOf(first: number, count: number): SavedSlots {
    const saved = this.#waiting.find((one) => one.first <= first && first + count <= one.first + one.slots);
    if (saved === undefined) throw new Error(`no checkpoint has the slots ${first} to ${first + count - 1}`);
    return saved;
  }

  /** Hands what there is of slots [first, first + count) in the modes rows and cols to whoever goes on with it. */
  restoreSides(first: number, count: number, modes: GroupModes): void {
    const from = this.#savedOf(first, count);
    const saved = readSides(this.#options.run, from)!;
    const path = join(this.#folder, from.scatter!);
    const fd = nodeDisk.open(path);
    try {
      modes.load(saved, (into, at) => readFully(nodeDisk, fd, into, at, path));
    } finally {
      nodeDisk.close(fd);
    }
  }

  /** What there is to go on from with slots [first, first + count), with the file opened. */
  restore(first: number, count: number): RestoredGroup {
    const saved = this.#savedOf(first, count);
    const path = join(this.#folder, saved.rows);
    const slots = readStates(this.#options.run, saved);
    const fd = nodeDisk.open(path);
    return { slots, path, fd, close: () => nodeDisk.close(fd) };
  }

  /** Fills `into` from byte `at` of a file of the checkpoint that the run goes on from. Throws `SinkFailed`. */
  read(name: string, into: Uint8Array, at: number): void {
    withFile(join(this.#folder, name), (fd, path) => readFully(readingDisk, fd, into, at, path));
  }

  /** Remembers where the run stands between two groups: that is written when somebody asks, until the next one. */
  mark(position: Position): void {
    this.#boundary = { position, journal: this.journal.log.cut(), spool: this.spool.log.cut() };
    this.#boundaryIsWritten = false;
  }

  /**
   * Writes what `mark` remembered, where nothing newer was written.
   * @param sums of the Gram matrices of the slots done, where there are any
   */
  commitMark(sums: (() => readonly Uint8Array[]) | null = null): void {
    if (this.#boundary === null || this.#boundaryIsWritten) return;
    this.#commit('running', this.#boundary, [], sums === null ? null : sums());
  }

  /**
   * Writes the states of slots [first, first + slots), whose rows `save` puts into a file.
   * Rejects with `SinkFailed`.
   */
  async save(
    at: { readonly first: number; readonly slots: number; readonly models: number; readonly blocks: number },
    save: (file: OpenFile) => Promise<SavedGroup>,
    beside: Pick<GroupModes, 'save'> | null,
  ): Promise<PendingSlots> {
    const began = performance.now();
    const file = this.#store.open('rows');
    const writing = save(file);
    // Both have ended before the file is closed.
    const [saved, flushed] = await Promise.allSettled([writing, this.#store.flushWhile(file, writing)]);
    if (saved.status === 'rejected' || flushed.status === 'rejected') {
      this.#store.discard(file);
      throw saved.status === 'rejected' ? saved.reason : (flushed as PromiseRejectedResult).reason;
    }
    const { slots, size, pieces, sha256 } = saved.value;
    const sealed = Promise.all([
      this.#store.seal(file, 'rows', 'bin', { size, sha256, pieces }),
      this.#store.put('states', 'arrow', encodeStates(slots)),
      ...(beside === null ? [] : this.#saveSides(beside)),
    ]);
    sealed.catch(() => {});
    return { ...at, began, sealed };
  }

  #saveSides(beside: Pick<GroupModes, 'save'>): readonly Promise<StoredFile>[] {
    const arrays: Uint8Array[] = [];
    const sides = beside.save((bytes) => void arrays.push(bytes));
    return [
      this.#store.put('sides', 'json', Buffer.from(JSON.stringify(sides, encode))),
      this.#store.putAll('scatter', 'bin', arrays),
    ];
  }

  /** Makes a checkpoint of the running group's states, with all that was found out by now. */
  commitRunning(running: PendingSlots, position: Position): void {
    const cut = { position, journal: this.journal.log.cut(), spool: this.spool.log.cut() };
    this.#commit('running', cut, [running], null);
  }

  /** The states of slots that are done, as saved after their last block. */
  keep(slots: PendingSlots): void {
    this.#keptSoon = [...this.#keptSoon, slots];
  }

  /** Those of slots [first, first + count) that were gone on with when all of their blocks had been folded. */
  keepRestored(first: number, count: number): void {
    this.#keptSoon = [...this.#keptSoon, { ...this.#savedOf(first, count), first, slots: count }];
  }

  /** The run is finished. */
  commitFinished(position: Position): void {
    const cut = { position, journal: this.journal.log.cut(), spool: this.spool.log.cut() };
    this.#commit('finished', cut, [], null);
  }

  /** Throws what a checkpoint failed of, where one is known to: what is done after it would be lost. */
  check(): void {
    if (this.#failure !== null) throw this.#failure.cause;
  }

  /** Rejects with what a checkpoint failed of. */
  async settled(): Promise<void> {
    await this.#tail;
  }

  close(): void {
    this.spool.log.close();
    this.journal.log.close();
  }

  /** Removes everything. */
  remove(): void {
    this.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Of slots that are done, until a checkpoint says so. */
  #keptSoon: readonly (PendingSlots | SavedSlots)[] = [];

  #commit(
    stage: RunContent['stage'],
    { position, journal, spool }: Boundary,
    running: readonly PendingSlots[],
    sums: readonly Uint8Array[] | null,
  ): void {
    const start = Math.min(performance.now(), ...running.map(({ began }) => began));
    // Whatever was marked before is older.
    this.#boundaryIsWritten = true;
    const isDone = ({ first, slots }: PendingSlots | SavedSlots): boolean => first + slots <= position.done.models;
    const kept = this.#keptSoon.filter(isDone);
    // At once: the next commit may be asked for before this one is written.
    this.#keptSoon = this.#keptSoon.filter((one) => !isDone(one));
    const outputs = this.#options.outputs();
    outputs.catch(() => {});
    this.pace.restart();
    this.#busy++;
    const writing = this.#tail.then(async () => {
      const begin = await this.#begin;
      this.#files.set(begin.name, begin);
      const nameOf = async ({ sealed, began: _began, ...at }: PendingSlots): Promise<SavedSlots> => {
        const files = await sealed;
        for (const file of files) this.#files.set(file.name, file);
        const [rows, states, sides, scatter] = files.map(({ name }) => name);
        return { ...at, rows: rows!, states: states!, sides: sides ?? null, scatter: scatter ?? null };
      };
      for (const one of kept) this.#kept.push('sealed' in one ? await nameOf(one) : one);
      const now = await Promise.all(running.map(nameOf));
      const from = now.reduce((most, { first, slots }) => Math.max(most, first + slots), position.done.models);
      const content: RunContent = {
        ...position,
        stage,
        begin: begin.name,
        sums: null,
        saved: [...now, ...this.#waiting.flatMap((one) => behind(one, from))],
        kept: this.#kept,
        roots: this.#options.roots,
        inexact: this.#options.inexact,
      };
      const sumsFile = sums === null ? null : await this.#store.putAll('sums', 'bin', sums);
      await Promise.all([this.spool.log.sync(), this.journal.log.sync(), outputs]);
      const named = new Set([
        begin.name,
        ...[...content.saved, ...content.kept].flatMap(({ rows, states, sides, scatter }) => [
          rows,
          states,
          sides,
          scatter,
        ]),
      ]);
      const files = [...this.#files.values()].filter(({ name }) => named.has(name));
      const { sequence } = await this.#store.commit(
        { ...content, sums: sumsFile?.name ?? null },
        sumsFile === null ? files : [...files, sumsFile],
        [
          { name: SPOOL, ...spool },
          { name: journalName(this.#options.begin), ...journal },
        ],
      );
      this.#files = new Map(files.map((file) => [file.name, file]));
      const seconds = (performance.now() - start) / 1e3;
      this.pace.cost(seconds);
      this.#options.written(sequence, seconds);
    });
    this.#tail = writing
      .catch(async (cause) => {
        this.#failure ??= { cause };
        await Promise.allSettled([...kept, ...running].map((one) => ('sealed' in one ? one.sealed : null)));
        // Whoever took the run over may have files of the same names.
        if (!this.#options.lease.isLost) this.#store.discardSealed();
        throw cause;
      })
      .finally(() => {
        this.#busy--;
      });
    // Whoever waits for it is told; until then nobody does.
    this.#tail.catch(() => {});
  }
}

/** States that are on their way to the disk. */
export interface PendingSlots {
  readonly first: number;
  readonly slots: number;
  readonly models: number;
  readonly blocks: number;
  /** When their writing began, on the clock of `performance`. */
  readonly began: number;
  /** Rows and states, and where there are any what the modes rows and cols have. */
  readonly sealed: Promise<readonly StoredFile[]>;
}

/** What of some slots stands from `from` on. */
const behind = (one: SavedSlots, from: number): readonly SavedSlots[] => {
  const first = Math.max(one.first, from);
  const slots = one.first + one.slots - first;
  return slots > 0 ? [{ ...one, first, slots }] : [];
};

const storeOf = (options: CheckpointsOptions, after: Recovered<RunContent> | null): CheckpointStore<RunContent> => {
  const folder = checkpointFolder(options.run);
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw sinkFailure(folder, 'creating it', cause);
  }
  return new CheckpointStore<RunContent>(folder, options.lease.fence, after, { mayWrite: () => options.lease.check() });
};
