// Reads files past the page cache (O_DIRECT), many at a time, by Linux's asynchronous I/O. What comes through the cache costs a
// processor several times as much: each page is found, filled and copied, and where a virtual machine gives free memory back, its
// host makes it anew. This thread sends requests, does other work, and asks from time to time what has come. Some file systems, such
// as a compressed one, read while they are asked: so nothing is sent for long at a time.
import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { addressOf, cFunction, errorNumber, lastError } from './c-library.ts';

/** What disks may want addresses, positions and lengths of such reads to be multiples of. */
export const DIRECT_UNIT = 4096;

/** Bytes of a request: disks take no more at once. */
const REQUEST_BYTES = 2 ** 22;
/** Requests under way. */
const DEPTH = 16;
/** How long this thread does something else before it asks again, and how long it sends at most before others have their turn. */
const ASK_EVERY_MS = 1;
const MOST_BUSY_MS = 5;
/** Of other work between two times that it asks: after more nobody knows when what has come was there. */
const ON_TIME_MS = 3;

/** Bytes after which a disk's pace is known, and bytes a second below which it is what a run waits for. */
const TRIAL_BYTES = 2 ** 26;
const SLOW = 5e8;
/** Files of which nothing came, before no more are asked for. */
const MOST_REFUSED = 16;

/** The system's calls by number, and what of <linux/aio_abi.h> is used: sizes of structures, and where their fields stand. */
const NUMBERS = { x64: { setup: 206, events: 208, submit: 209 }, arm64: { setup: 0, events: 4, submit: 2 } } as const;
const CONTROL = { size: 64, tag: 0, fd: 20, address: 24, bytes: 32, position: 40 } as const;
const EVENT = { size: 32, tag: 0, result: 16 } as const;
/** Of a `struct timespec`, all zero: no wait at all. */
const TIME_LIMIT_BYTES = 16;

/** Bytes [from, from + bytes) of a file, to bytes from `to` on of memory; all three are multiples of `DIRECT_UNIT`. */
export interface DirectRead {
  /** A descriptor of the file, opened in any way. */
  readonly fd: number;
  readonly from: number;
  readonly bytes: number;
  readonly to: number;
}

/** Memory that begins with a unit, somewhere in a buffer. */
export interface DirectMemory {
  readonly buffer: SharedArrayBuffer;
  /** The byte of the buffer at which it begins. */
  readonly start: number;
  /** Where that is in the process. */
  readonly address: number;
}

export const directMemory = (buffer: SharedArrayBuffer): DirectMemory => {
  const address = addressOf(new Uint8Array(buffer));
  const start = (DIRECT_UNIT - (address % DIRECT_UNIT)) % DIRECT_UNIT;
  return { buffer, start, address: address + start };
};

/** One read on its way, in requests. */
interface Job extends DirectRead {
  /** Of the same file, past the cache; null until its first request is sent. */
  direct: number | null;
  readonly memory: DirectMemory;
  left: number;
  /** Bytes that came without a gap, by what is known. */
  came: number;
  isOver: boolean;
  readonly settle: () => void;
  readonly fail: (error: Error) => void;
}

interface Request {
  readonly job: Job;
  readonly at: number;
  readonly bytes: number;
}

/** Whether a disk that took so long for so many bytes is slower than what is done with them. */
export const isSlow = (bytes: number, seconds: number): boolean => bytes >= TRIAL_BYTES && bytes < SLOW * seconds;

interface Calls {
  readonly submit: (number: number, queue: number, count: number, controls: BigUint64Array) => number;
  readonly events: (
    number: number,
    queue: number,
    least: number,
    most: number,
    into: ArrayBuffer,
    limit: ArrayBuffer,
  ) => number;
  readonly numbers: { readonly submit: number; readonly events: number };
}

/** A queue of the kernel's, for as long as the process lives. */
export class DirectReads {
  readonly #calls: Calls;
  readonly #queue: number;
  readonly #waiting: Request[] = [];
  readonly #under = new Map<number, Request>();
  // What the kernel is handed by address stays where it is as long as the queue does.
  readonly #control = new DataView(new ArrayBuffer(CONTROL.size));
  readonly #controls = BigUint64Array.of(BigInt(addressOf(this.#control)));
  readonly #found = new DataView(new ArrayBuffer(DEPTH * EVENT.size));
  readonly #atOnce = new ArrayBuffer(TIME_LIMIT_BYTES);
  #tag = 0;
  #isRunning = false;
  #bytes = 0;
  #milliseconds = 0;
  #refused = 0;

  private constructor(calls: Calls, queue: number) {
    this.#calls = calls;
    this.#queue = queue;
  }

  /** Null where the system has no such queue, or gives none. */
  static open(): DirectReads | null {
    const numbers = NUMBERS[process.arch as keyof typeof NUMBERS];
    const call = <F>(takes: readonly string[]): F | null => cFunction<F>('syscall', 'long', takes);
    const setUp = call<(number: number, depth: number, queue: BigUint64Array) => number>(['long', 'long', 'void *']);
    const submit = call<Calls['submit']>(['long', 'uint64', 'long', 'void *']);
    const events = call<Calls['events']>(['long', 'uint64', 'long', 'long', 'void *', 'void *']);
    if (setUp === null || submit === null || events === null) return null;
    const queue = new BigUint64Array(1);
    if (setUp(numbers.setup, DEPTH, queue) !== 0) return null;
    return new DirectReads({ submit, events, numbers }, Number(queue[0]));
  }

  /**
   * Whether more is to be read: not from a disk that a run waits for, where what the cache costs is nothing beside it and the next
   * run finds what it kept; and not where nothing comes.
   */
  get isOfUse(): boolean {
    return this.#refused < MOST_REFUSED && !isSlow(this.#bytes, this.#milliseconds / 1e3);
  }

  /**
   * Whoever reads keeps the file open. Resolves to the bytes that came: fewer than asked for at a file's end, or where the disk
   * fails; 0 where its file system reads nothing past the cache. When it has resolved, nothing is written to the memory any more.
   * Rejects when the kernel cannot tell what has come, which it always can.
   */
  read(memory: DirectMemory, read: DirectRead): Promise<number> {
    return new Promise((resolve, reject) => {
      const close = (): void => {
        job.isOver = true;
        try {
          if (job.direct !== null && job.direct >= 0) closeSync(job.direct);
        } catch {
          // It was read, or it was not.
        }
      };
      const settle = (): void => {
        close();
        if (job.came === 0 && read.bytes > 0) this.#refused++;
        resolve(job.came);
      };
      const fail = (error: Error): void => {
        close();
        reject(error);
      };
      const left = Math.ceil(read.bytes / REQUEST_BYTES);
      const job: Job = { ...read, direct: null, memory, left, came: read.bytes, isOver: false, settle, fail };
      if (left === 0) settle();
      for (let at = 0; at < read.bytes; at += REQUEST_BYTES)
        this.#waiting.push({ job, at, bytes: Math.min(REQUEST_BYTES, read.bytes - at) });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    try {
      let asked = performance.now();
      // Whoever asks for several reads has done so before the first is sent.
      await turn();
      while (this.#waiting.length > 0 || this.#under.size > 0) {
        const start = performance.now();
        const isBusy = this.#submit();
        const came = this.#collect();
        if (start - asked <= ON_TIME_MS) {
          this.#bytes += came;
          this.#milliseconds += performance.now() - asked;
        }
        asked = performance.now();
        if (isBusy || came > 0) await turn();
        else await sleep(ASK_EVERY_MS);
      }
    } catch (error) {
      // Those that the kernel has stay in `#under`: it may still write to their memory.
      const jobs = new Set([...this.#waiting, ...this.#under.values()].map(({ job }) => job));
      this.#waiting.length = 0;
      this.#refused = MOST_REFUSED;
      for (const job of jobs) job.fail(error as Error);
    } finally {
      this.#isRunning = false;
    }
  }

  /** Sends what the kernel takes; returns whether it has taken so long that there may be more. */
  #submit(): boolean {
    const start = performance.now();
    while (this.#waiting.length > 0 && this.#under.size < DEPTH) {
      const request = this.#waiting[0]!;
      const isSent = this.#send(request, this.#tag);
      // What the kernel has no room for now it may have when another is done.
      if (!isSent && request.job.direct! >= 0 && this.#under.size > 0) return false;
      this.#waiting.shift();
      if (isSent) this.#under.set(this.#tag++, request);
      else end(request, 0);
      if (performance.now() - start > MOST_BUSY_MS) return true;
    }
    return false;
  }

  #send({ job, at, bytes }: Request, tag: number): boolean {
    job.direct ??= openDirect(job.fd);
    if (job.direct < 0) return false;
    const control = this.#control;
    control.setBigUint64(CONTROL.tag, BigInt(tag), true);
    control.setUint32(CONTROL.fd, job.direct, true);
    control.setBigUint64(CONTROL.address, BigInt(job.memory.address + job.to + at), true);
    control.setBigUint64(CONTROL.bytes, BigInt(bytes), true);
    control.setBigInt64(CONTROL.position, BigInt(job.from + at), true);
    return this.#calls.submit(this.#calls.numbers.submit, this.#queue, 1, this.#controls) === 1;
  }

  /** Ends what has come; returns its bytes. */
  #collect(): number {
    const { events, numbers } = this.#calls;
    const found = this.#found;
    const count = events(numbers.events, this.#queue, 0, DEPTH, found.buffer as ArrayBuffer, this.#atOnce);
    if (count < 0 && lastError() !== errorNumber('EINTR'))
      throw new Error(`io_getevents failed with errno ${lastError()}`);
    let came = 0;
    for (let i = 0; i < count; i++) {
      const tag = Number(found.getBigUint64(i * EVENT.size + EVENT.tag, true));
      const result = Number(found.getBigInt64(i * EVENT.size + EVENT.result, true));
      const request = this.#under.get(tag)!;
      this.#under.delete(tag);
      end(request, Math.max(result, 0));
      came += Math.max(result, 0);
    }
    return came;
  }
}

/** A request is over, so many of its bytes have come. */
const end = ({ job, at, bytes }: Request, came: number): void => {
  if (job.isOver) return;
  if (came < bytes) job.came = Math.min(job.came, at + came);
  if (--job.left === 0) job.settle();
};

/** The file that is open, whatever has its name by now; −1 where its file system reads nothing past the cache. */
const openDirect = (fd: number): number => {
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY | constants.O_DIRECT);
  } catch {
    return -1;
  }
};

let known: DirectReads | null | undefined;

/** The process's own queue; null where there is none. */
export const directReads = (): DirectReads | null => {
  known ??= DirectReads.open();
  return known;
};
