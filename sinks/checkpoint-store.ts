// Checkpoints of a run: files that never change, and manifests that say which of them belong together. A file is written
// under a temporary name, synced, and named by what it holds; a manifest is written last, under a name that nobody else can
// have, and counts once it is durable. So a crash leaves the checkpoint before it or the new one. The newest manifest is
// used whose files are all what they were; two are kept, and what neither needs is removed.
// One writer a folder (lease.ts); every manifest carries the number of its writer's lease.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LogCut, readFully } from './append-log.ts';
import { type Disk, nodeDisk } from './disk.ts';
import { sinkFailure, TEMPORARY_PREFIX, writeFully } from './durable-file.ts';
import { DamagedFile } from './errors.ts';
import { hashBytes } from './hash-bytes.ts';

/** The format of manifests and of all that they name. */
export const CHECKPOINT_FORMAT = 3;

/** Manifests that stay: if the newest is damaged, the one before it is whole. */
const KEPT = 2;
/** How long writing goes on between two syncs of a large file. */
const FLUSH_EVERY_MS = 100;
/** Bytes of a file looked at together. */
const WINDOW = 1 << 20;

/**
 * A file of a checkpoint. `sha256` is that of the file, or, where it was written in pieces by several threads, of the
 * sha256 of its pieces one after the other.
 */
export interface StoredFile {
  readonly name: string;
  readonly size: number;
  readonly sha256: string;
  /** Runs of pieces of equal length: how many, and bytes each. Null where the file is hashed as one. */
  readonly pieces: readonly (readonly [number, number])[] | null;
}

export interface StoredLog extends LogCut {
  /** Relative to the run folder. */
  readonly name: string;
}

export interface Manifest<C> {
  readonly format: number;
  /** Counts up; says which of two is newer, whatever clocks say. */
  readonly sequence: number;
  /** The lease under which it was written. */
  readonly fence: number;
  /** sha256 of the manifest that it follows; null for the first. */
  readonly parent: string | null;
  /** For people. */
  readonly time: string;
  readonly content: C;
  readonly files: readonly StoredFile[];
  readonly logs: readonly StoredLog[];
}

/** A manifest that holds, with what was found wrong with newer ones. */
export interface Recovered<C> {
  readonly manifest: Manifest<C> | null;
  /** sha256 of the manifest. */
  readonly digest: string | null;
  /** Newest first; why each was passed over. */
  readonly damages: readonly DamagedFile[];
}

const MANIFEST = /^manifest-(\d{8})\.json$/;

const manifestName = (sequence: number): string => `manifest-${String(sequence).padStart(8, '0')}.json`;

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A file being written, which gets its name when it is durable. */
export interface OpenFile {
  readonly path: string;
  readonly fd: number;
}

export interface StoreOptions {
  readonly disk?: Disk;
  /** Throws when this process may not write any more; asked right before a manifest is written. */
  readonly mayWrite?: () => void;
  readonly now?: () => Date;
}

export class CheckpointStore<C> {
  readonly #folder: string;
  readonly #disk: Disk;
  readonly #mayWrite: () => void;
  readonly #now: () => Date;
  readonly #fence: number;
  #temporaries = 0;
  /** Names that were given to files which no manifest has yet. */
  readonly #sealed = new Set<string>();
  #last: { readonly sequence: number; readonly digest: string | null };
  /** Files and manifests of the checkpoints that stay, oldest first. */
  #kept: { readonly sequence: number; readonly files: ReadonlySet<string> }[];

  /** @param after what was recovered from the folder; null where a run begins */
  constructor(folder: string, fence: number, after: Recovered<C> | null, options: StoreOptions = {}) {
    const { disk = nodeDisk, mayWrite = () => {}, now = () => new Date() } = options;
    this.#folder = folder;
    this.#fence = fence;
    this.#disk = disk;
    this.#mayWrite = mayWrite;
    this.#now = now;
    // Damaged manifests keep their numbers: a name is never used twice.
    const newest = sequencesIn(folder, disk)[0] ?? 0;
    this.#last = { sequence: newest, digest: after?.digest ?? null };
    const manifest = after?.manifest ?? null;
    this.#kept =
      manifest === null
        ? []
        : [{ sequence: manifest.sequence, files: new Set(manifest.files.map(({ name }) => name)) }];
    // What a writer before this one did not finish.
    for (const name of disk.list(folder)) if (name.startsWith(TEMPORARY_PREFIX)) this.#remove(name);
  }

  /** Starts a file that is written piece by piece, by whoever has the descriptor. Throws `SinkFailed`. */
  open(stem: string): OpenFile {
    const path = join(this.#folder, `${TEMPORARY_PREFIX}${stem}-${this.#fence}-${this.#temporaries++}`);
    try {
      return { path, fd: this.#disk.create(path) };
    } catch (cause) {
      throw sinkFailure(path, 'creating it', cause);
    }
  }

  /**
   * Sends to the disk what of a file is written by then, again and again until the writing ends: the last sync, which `seal`
   * waits for, then finds little left. Rejects with `SinkFailed` when a sync fails.
   */
  async flushWhile({ path, fd }: OpenFile, writing: Promise<unknown>): Promise<void> {
    let isOver = false;
    const over = writing.then(
      () => {
        isOver = true;
      },
      () => {
        isOver = true;
      },
    );
    for (;;) {
      await Promise.race([over, sleep(FLUSH_EVERY_MS, undefined, { ref: false })]);
      if (isOver) return;
      try {
        await this.#disk.syncLater(fd);
      } catch (cause) {
        throw sinkFailure(path, 'syncing what is written of it', cause);
      }
      await this.#disk.forget(fd);
    }
  }

  /** Makes a file durable and gives it its name. Rejects with `SinkFailed`, having removed it. */
  async seal(
    { path, fd }: OpenFile,
    stem: string,
    ending: string,
    { size, sha256, pieces }: Omit<StoredFile, 'name'>,
  ): Promise<StoredFile> {
    const name = `${stem}-${sha256.slice(0, 16)}.${ending}`;
    let open = true;
    try {
      if (this.#disk.size(fd) !== size) throw new Error(`it has ${this.#disk.size(fd)} bytes, expected ${size}`);
      // A sync that failed is never tried again: the kernel may have dropped the pages.
      await this.#disk.syncLater(fd);
      await this.#disk.forget(fd);
      open = false;
      this.#disk.close(fd);
      this.#disk.rename(path, join(this.#folder, name));
    } catch (cause) {
      this.discard({ path, fd: open ? fd : -1 });
      throw sinkFailure(join(this.#folder, name), `making its ${size} bytes durable`, cause);
    }
    this.#sealed.add(name);
    return { name, size, sha256, pieces };
  }

  /** Gives up a file that was not sealed. */
  discard({ path, fd }: OpenFile): void {
    try {
      if (fd >= 0) this.#disk.close(fd);
      this.#disk.remove(path);
    } catch {
      // What brought us here is to be reported.
    }
  }

  /** Gives up the files that were sealed for a checkpoint that came to nothing. */
  discardSealed(): void {
    const needed = new Set(this.#kept.flatMap(({ files }) => [...files]));
    for (const name of this.#sealed) if (!needed.has(name)) this.#remove(name);
    this.#sealed.clear();
  }

  /** Writes a small file. Rejects with `SinkFailed`. */
  async put(stem: string, ending: string, bytes: Uint8Array): Promise<StoredFile> {
    const file = this.open(stem);
    try {
      writeFully(this.#disk, file.fd, [bytes]);
    } catch (cause) {
      this.discard(file);
      throw sinkFailure(file.path, `writing its ${bytes.length} bytes`, cause);
    }
    return this.seal(file, stem, ending, {
      size: bytes.length,
      sha256: hashBytes(createHash('sha256'), bytes).digest('hex'),
      pieces: null,
    });
  }

  /** Writes arrays one after the other, each a piece. Rejects with `SinkFailed`. */
  async putAll(stem: string, ending: string, arrays: readonly Uint8Array[]): Promise<StoredFile> {
    const file = this.open(stem);
    const whole = createHash('sha256');
    try {
      for (const bytes of arrays) {
        writeFully(this.#disk, file.fd, [bytes]);
        whole.update(hashBytes(createHash('sha256'), bytes).digest());
      }
    } catch (cause) {
      this.discard(file);
      throw sinkFailure(file.path, 'writing it', cause);
    }
    const size = arrays.reduce((sum, { length }) => sum + length, 0);
    const pieces = arrays.map(({ length }) => [1, length] as const);
    return this.seal(file, stem, ending, { size, sha256: whole.digest('hex'), pieces });
  }

  /** Makes a checkpoint of sealed files and synced logs, durable when it resolves. Rejects with `SinkFailed`. */
  async commit(content: C, files: readonly StoredFile[], logs: readonly StoredLog[]): Promise<Manifest<C>> {
    const sequence = this.#last.sequence + 1;
    const manifest: Manifest<C> = {
      format: CHECKPOINT_FORMAT,
      sequence,
      fence: this.#fence,
      parent: this.#last.digest,
      time: this.#now().toISOString(),
      content,
      files,
      logs,
    };
    const body = JSON.stringify(manifest);
    const digest = sha256(body);
    const name = manifestName(sequence);
    const path = join(this.#folder, name);
    this.#mayWrite();
    this.#last = { ...this.#last, sequence };
    try {
      const fd = this.#disk.create(path);
      try {
        writeFully(this.#disk, fd, [Buffer.from(`{"sha256":"${digest}","manifest":${body}}\n`)]);
        await this.#disk.syncLater(fd);
      } finally {
        this.#disk.close(fd);
      }
      // Its name and those of its files: one that lacks a file does not count.
      this.#disk.syncFolder(this.#folder);
    } catch (cause) {
      this.#remove(name);
      throw sinkFailure(path, 'writing it', cause);
    }
    this.#last = { sequence, digest };
    for (const { name: known } of files) this.#sealed.delete(known);
    this.#kept = [...this.#kept, { sequence, files: new Set(files.map(({ name }) => name)) }].slice(-KEPT);
    this.#prune();
    return manifest;
  }

  /** Removes what no checkpoint that stays needs. */
  #prune(): void {
    const stay = this.#kept.flatMap(({ sequence, files }) => [manifestName(sequence), ...files]);
    const needed = new Set([...stay, ...this.#sealed]);
    for (const name of this.#disk.list(this.#folder)) {
      const isOurs = MANIFEST.test(name) || STORED.test(name);
      if (isOurs && !needed.has(name)) this.#remove(name);
    }
  }

  #remove(name: string): void {
    try {
      this.#disk.remove(join(this.#folder, name));
    } catch {
      // It stays, and does no harm.
    }
  }
}

/** Names that `seal` gives. */
const STORED = /^[a-z]+-[0-9a-f]{16}\.[a-z]+$/;

/** Newest first. */
const sequencesIn = (folder: string, disk: Disk): readonly number[] =>
  disk
    .list(folder)
    .flatMap((name) => {
      const match = MANIFEST.exec(name);
      return match === null ? [] : [Number(match[1])];
    })
    .sort((a, b) => b - a);

/**
 * Finds the newest checkpoint all of whose files and logs are what they were.
 * @param run the run folder, to which logs are relative
 * @param folder the checkpoints'
 * @param look at everything, or at manifests alone
 * Throws `SinkFailed` where the folder cannot be read; RangeError for a format that this version does not know.
 */
export const recoverCheckpoint = <C>(
  run: string,
  folder: string,
  disk: Disk = nodeDisk,
  look: 'files' | 'manifest' = 'files',
): Recovered<C> => {
  const damages: DamagedFile[] = [];
  let sequences: readonly number[];
  try {
    sequences = sequencesIn(folder, disk);
  } catch (cause) {
    throw sinkFailure(folder, 'looking for checkpoints', cause);
  }
  for (const sequence of sequences) {
    try {
      const { manifest, digest } = readManifest<C>(join(folder, manifestName(sequence)), disk);
      if (look === 'manifest') return { manifest, digest, damages };
      for (const file of manifest.files) verifyFile(join(folder, file.name), file, disk);
      for (const log of manifest.logs) verifyLog(join(run, log.name), log, disk);
      return { manifest, digest, damages };
    } catch (cause) {
      if (!(cause instanceof DamagedFile)) throw cause;
      damages.push(cause);
    }
  }
  return { manifest: null, digest: null, damages };
};

/** A manifest that was written by another version of weightspan. */
export class UnknownFormat extends Error {
  constructor(path: string, found: unknown) {
    super(
      `${path}: written in checkpoint format ${String(found)}, and this version of weightspan reads format ` +
        `${CHECKPOINT_FORMAT}; continue with the version that wrote it, or start over with another --out`,
    );
  }
}

const readManifest = <C>(path: string, disk: Disk): { manifest: Manifest<C>; digest: string } => {
  const text = withFile(path, disk, (fd) => {
    const bytes = new Uint8Array(disk.size(fd));
    readFully(disk, fd, bytes, 0, path);
    return Buffer.from(bytes).toString();
  });
  let parsed: { readonly sha256?: unknown; readonly manifest?: Manifest<C> };
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new DamagedFile(path, 'it is not a whole manifest');
  }
  const { manifest } = parsed;
  if (manifest === undefined || sha256(JSON.stringify(manifest)) !== parsed.sha256)
    throw new DamagedFile(path, 'it does not hold what was written');
  if (manifest.format !== CHECKPOINT_FORMAT) throw new UnknownFormat(path, manifest.format);
  return { manifest, digest: String(parsed.sha256) };
};

const verifyFile = (path: string, { size, sha256: expected, pieces }: StoredFile, disk: Disk): void =>
  withFile(path, disk, (fd) => {
    const found = disk.size(fd);
    if (found !== size) throw new DamagedFile(path, `it has ${found} bytes, expected ${size}`);
    const whole = createHash('sha256');
    let at = 0;
    for (const [count, bytes] of pieces ?? [[1, size]]) {
      for (let i = 0; i < count; i++, at += bytes) {
        const piece = pieces === null ? whole : createHash('sha256');
        eachWindow(disk, fd, at, bytes, path, (window) => piece.update(window));
        if (pieces !== null) whole.update(piece.digest());
      }
    }
    if (at !== size || whole.digest('hex') !== expected)
      throw new DamagedFile(path, 'it does not hold what was written (sha256)');
  });

const verifyLog = (path: string, { size, sha256: expected }: StoredLog, disk: Disk): void =>
  withFile(path, disk, (fd) => {
    const found = disk.size(fd);
    if (found < size) throw new DamagedFile(path, `it has ${found} bytes, expected at least ${size}`);
    const hash = createHash('sha256');
    eachWindow(disk, fd, 0, size, path, (window) => hash.update(window));
    if (hash.digest('hex') !== expected) throw new DamagedFile(path, 'it does not hold what was written (sha256)');
  });

const eachWindow = (
  disk: Disk,
  fd: number,
  from: number,
  length: number,
  path: string,
  use: (window: Uint8Array) => void,
): void => {
  const window = new Uint8Array(Math.min(WINDOW, length));
  for (let done = 0; done < length; ) {
    const part = window.subarray(0, Math.min(window.length, length - done));
    readFully(disk, fd, part, from + done, path);
    use(part);
    done += part.length;
  }
};

const withFile = <R>(path: string, disk: Disk, use: (fd: number) => R): R => {
  let fd: number;
  try {
    fd = disk.open(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw new DamagedFile(path, 'it is not there');
    throw sinkFailure(path, 'opening it', cause);
  }
  try {
    return use(fd);
  } catch (cause) {
    if (cause instanceof DamagedFile || cause instanceof UnknownFormat) throw cause;
    throw sinkFailure(path, 'reading it', cause);
  } finally {
    disk.close(fd);
  }
};
