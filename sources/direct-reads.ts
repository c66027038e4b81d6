// Reads files past the page cache (O_DIRECT), many at a time, by Linux's asynchronous I/O. What comes through the cache costs a
// processor several times as much: each page is found, filled and copied, and where a virtual machine gives free memory back, its
// host makes it anew. No thread waits meanwhile: this one asks from time to time what has come.
import { closeSync, constants, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';

/** What disks may want addresses, positions and lengths of such reads to be multiples of. */
export const DIRECT_UNIT = 4096;

/** Bytes of a request: disks take no more at once. */
const REQUEST_BYTES = 2 ** 22;
/** Requests under way. */
const DEPTH = 16;
/** How long this thread does something else before it asks again. */
const ASK_EVERY_MS = 1;

/** Bytes after which a disk's pace is known, and bytes a second below which it is what a run waits for. */
const TRIAL_BYTES = 2 ** 26;
const SLOW = 5e8;

/** The system's calls by number, and what of <linux/aio_abi.h> is used: sizes of structures, and where their fields stand. */
const NUMBERS = { x64: { setup: 206, events: 208, submit: 209 }, arm64: { setup: 0, events: 4, submit: 2 } } as const;
const CONTROL = { size: 64, tag: 0, fd: 20, address: 24, bytes: 32, position: 40 } as const;
const EVENT = { size: 32, tag: 0, result: 16 } as const;

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
  const address = Number(koffi.address(new Uint8Array(buffer)));
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
  readonly settle: () => void;
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
    into: Uint8Array,
    limit: Uint8Array,
  ) => number;
  readonly numbers: { readonly submit: number; readonly events: number };
}

/** A queue of the kernel's, for as long as the process lives. */
export class DirectReads {
  readonly #calls: Calls;
  readonly #queue: number;
  readonly #waiting: Request[] = [];
  readonly #under = new Map<number, Request>();
  #tag = 0;
  #isRunning = false;
  #bytes = 0;
  #seconds = 0;

  private constructor(calls: Calls, queue: number) {
    this.#calls = calls;
    this.#queue = queue;
  }

  /** Null where the system has no such queue, or gives none. */
  static open(): DirectReads | null {
    if (process.platform !== 'linux' || !(process.arch in NUMBERS)) return null;
    const numbers = NUMBERS[process.arch as keyof typeof NUMBERS];
    try {
      const library = koffi.load(null);
      const call = <F>(takes: readonly string[]): F => library.func('syscall', 'long', [...takes]) as unknown as F;
      const setUp = call<(number: number, depth: number, queue: BigUint64Array) => number>(['long', 'long', 'void *']);
      const queue = new BigUint64Array(1);
      if (setUp(numbers.setup, DEPTH, queue) !== 0) return null;
      const calls: Calls = {
        submit: call(['long', 'uint64', 'long', 'void *']),
        events: call(['long', 'uint64', 'long', 'long', 'void *', 'void *']),
        numbers,
      };
      return new DirectReads(calls, Number(queue[0]));
    } catch {
      return null;
    }
  }

  /** Whether a run waits for this disk: then what the cache costs is nothing beside it, and the next run finds what it kept. */
  get isSlow(): boolean {
    return isSlow(this.#bytes, this.#seconds);
  }

  /**
   * Whoever reads keeps the file open. Resolves to the bytes that came: fewer than asked for at a file's end, or where the disk fails; 0 where its file system
   * reads nothing past the cache. Never rejects; when it has resolved, nothing is written to the memory any more.
   */
  read(memory: DirectMemory, read: DirectRead): Promise<number> {
    return new Promise((resolve) => {
      const left = Math.ceil(read.bytes / REQUEST_BYTES);
      const settle = (): void => {
        if (job.direct! >= 0) closeSync(job.direct!);
        this.#bytes += job.came;
        resolve(job.came);
      };
      const job: Job = { ...read, direct: null, memory, left, came: read.bytes, settle };
      for (let at = 0; at < read.bytes; at += REQUEST_BYTES)
        this.#waiting.push({ job, at, bytes: Math.min(REQUEST_BYTES, read.bytes - at) });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    const start = performance.now();
    while (this.#waiting.length > 0 || this.#under.size > 0) {
      this.#submit();
      if (!this.#collect()) await sleep(ASK_EVERY_MS);
    }
    this.#seconds += (performance.now() - start) / 1e3;
    this.#isRunning = false;
  }

  #submit(): void {
    while (this.#waiting.length > 0 && this.#under.size < DEPTH) {
      const request = this.#waiting[0]!;
      const isSent = this.#send(request, this.#tag);
      // What the kernel has no room for now it may have when another is done.
      if (!isSent && request.job.direct! >= 0 && this.#under.size > 0) return;
      this.#waiting.shift();
      if (isSent) this.#under.set(this.#tag++, request);
      else end(request, 0);
    }
  }

  #send({ job, at, bytes }: Request, tag: number): boolean {
    job.direct ??= openDirect(job.fd);
    if (job.direct < 0) return false;
    const control = new DataView(new ArrayBuffer(CONTROL.size));
    control.setBigUint64(CONTROL.tag, BigInt(tag), true);
    control.setUint32(CONTROL.fd, job.direct, true);
    control.setBigUint64(CONTROL.address, BigInt(job.memory.address + job.to + at), true);
    control.setBigUint64(CONTROL.bytes, BigInt(bytes), true);
    control.setBigInt64(CONTROL.position, BigInt(job.from + at), true);
    const controls = BigUint64Array.of(BigInt(koffi.address(new Uint8Array(control.buffer))));
    return this.#calls.submit(this.#calls.numbers.submit, this.#queue, 1, controls) === 1;
  }

  /** Whether anything had come. */
  #collect(): boolean {
    const { events, numbers } = this.#calls;
    const found = new DataView(new ArrayBuffer(DEPTH * EVENT.size));
    const atOnce = new Uint8Array(16);
    const count = events(numbers.events, this.#queue, 0, DEPTH, new Uint8Array(found.buffer), atOnce);
    for (let i = 0; i < count; i++) {
      const tag = Number(found.getBigUint64(i * EVENT.size + EVENT.tag, true));
      const result = Number(found.getBigInt64(i * EVENT.size + EVENT.result, true));
      const request = this.#under.get(tag)!;
      this.#under.delete(tag);
      end(request, Math.max(result, 0));
    }
    return count > 0;
  }
}

/** A request is over, so many of its bytes have come. */
const end = ({ job, at, bytes }: Request, came: number): void => {
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
