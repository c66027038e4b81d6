// The worker threads that read headers and fingerprints for a plan, so that the thread that plans stays awake: a header of a
// million tensors takes 3 s to parse, and files may lie on a disk that does not answer. In a worker, files are read by
// synchronous calls, which cost a tenth of asynchronous ones: the headers of 20,000 small models take 1.2 s of processor time.
// A worker that runs out of memory over a header takes only that model with it.
import { Worker } from 'node:worker_threads';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import type { Fingerprint, FingerprintTask } from './fingerprint.ts';
import type { HeaderPart, HeaderReply, HeaderRequest, PlainError } from './header-worker.ts';
import type { ModelHeader, ModelLocation, TensorEntry } from './model.ts';

/** Models a request, at most; fewer where there are few, so that all workers have some. */
const modelsAtOnce = 64;
/** As many reads at once as node:fs itself has under way: a network disk is kept busy. */
const mostWorkers = 4;
/** What the heap of a worker may grow to: a header of the largest size allowed, 1.7 M tensors, takes 600 MB. */
const heapMebibytes = 1024;

export interface HeaderWorkersOptions {
  /** MiB of heap a worker may take. */
  readonly heap?: number;
}

type SourceError = SourceMalformed | SourceUnavailable;

/** Some models' worth of work, and where its results go. */
interface Batch {
  readonly request: HeaderRequest;
  /** The file to blame where the worker dies. */
  readonly paths: readonly string[];
  readonly results: unknown[];
  readonly at: number;
}

export class HeaderWorkers {
  readonly #heap: number;
  /** Tensors by key, one map for all models that share a header. */
  readonly #layouts = new Map<string, ReadonlyMap<string, TensorEntry>>();
  /** Started ones that wait; the first starts with the pool, so that it is ready when it is needed. */
  readonly #idle: HeaderThread[];
  #closed = false;

  constructor({ heap = heapMebibytes }: HeaderWorkersOptions = {}) {
    this.#heap = heap;
    this.#idle = [new HeaderThread(heap)];
  }

  /** The header of each model, or why it has none. Rejects only for a bug. */
  readHeaders(locations: readonly ModelLocation[]): Promise<readonly (ModelHeader | SourceError)[]> {
    return this.#all(
      locations,
      (some) => ({ kind: 'headers', locations: some }),
      ({ entry }) => entry,
    );
  }

  /** The fingerprint of each model, or why it has none. Rejects only for a bug. */
  fingerprints(tasks: readonly FingerprintTask[]): Promise<readonly (Fingerprint | SourceError)[]> {
    return this.#all(
      tasks,
      (some) => ({ kind: 'fingerprints', tasks: some }),
      ({ files }) => files[0]!.path,
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#idle.splice(0).map((thread) => thread.close()));
  }

  async #all<Task, Result>(
    tasks: readonly Task[],
    request: (some: readonly Task[]) => HeaderRequest,
    pathOf: (task: Task) => string,
  ): Promise<readonly Result[]> {
    const results = new Array<unknown>(tasks.length);
    const batch = (at: number, size: number): Batch => {
      const some = tasks.slice(at, at + size);
      return { request: request(some), paths: some.map(pathOf), results, at };
    };
    const size = Math.min(modelsAtOnce, Math.ceil(tasks.length / mostWorkers));
    const queue: { at: number; size: number }[] = [];
    for (let at = 0; at < tasks.length; at += size) queue.push({ at, size });
    queue.reverse();
    const work = async (): Promise<void> => {
      for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
        const current = batch(next.at, next.size);
        const thread = this.#take();
        try {
          await this.#perform(thread, current);
          this.#giveBack(thread);
        } catch (cause) {
          await thread.close();
          if (!(cause instanceof WorkerDied)) throw cause;
          if (current.paths.length === 1) results[next.at] = tooMuch(current.paths[0]!, cause, this.#heap);
          // One of them did it: each on its own tells which.
          else for (let i = current.paths.length - 1; i >= 0; i--) queue.push({ at: next.at + i, size: 1 });
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(mostWorkers, queue.length) }, work));
    return results as readonly Result[];
  }

  /** Takes the parts of a batch as they come. */
  async #perform(thread: HeaderThread, { request, results, at }: Batch): Promise<void> {
    let index = at;
    let tensors = new Map<string, TensorEntry>();
    const take = (part: HeaderPart): void => {
      if (part.kind === 'tensors') {
        for (const tensor of part.tensors) tensors.set(tensor.name, tensor);
        return;
      }
      if (part.kind === 'header') {
        const { files, headerDigests, key, adapter } = part;
        const known = this.#layouts.get(key);
        if (known === undefined) this.#layouts.set(key, tensors);
        const header: ModelHeader = { files, headerDigests, tensors: known ?? tensors };
        results[index++] = adapter === undefined ? header : { ...header, adapter };
      } else results[index++] = part.kind === 'fingerprint' ? part.fingerprint : revive(part.error);
      tensors = new Map();
    };
    for (let ask = request; ; ask = { kind: 'more' }) {
      const { parts, done } = await thread.ask(ask);
      for (const part of parts) take(part);
      if (done) return;
    }
  }

  #take(): HeaderThread {
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    return new HeaderThread(this.#heap);
  }

  #giveBack(thread: HeaderThread): void {
    if (this.#closed) void thread.close();
    else this.#idle.push(thread);
  }
}

/** The thread ended before it answered. */
class WorkerDied extends Error {}

/** One worker, which answers one question at a time. */
class HeaderThread {
  readonly #worker: Worker;
  #isReady = false;
  #answer: { readonly resolve: (reply: Parts) => void; readonly reject: (error: Error) => void } | null = null;
  #dead: Error | null = null;

  constructor(heap: number) {
    this.#worker = new Worker(new URL('./header-worker.js', import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: heap },
    });
    this.#worker.on('message', (reply: HeaderReply) => {
      if (reply.kind === 'ready') this.#isReady = true;
      else if (reply.kind === 'parts') this.#answer?.resolve(reply);
      else this.#answer?.reject(Object.assign(new Error(reply.message), { stack: reply.stack }));
    });
    // A worker that never came up is no fault of a file.
    this.#worker.on('error', (error: Error) => this.#fail(this.#isReady ? new WorkerDied(error.message) : error));
    this.#worker.on('exit', (code) => this.#fail(new WorkerDied(`it ended with code ${code}`)));
  }

  ask(request: HeaderRequest): Promise<Parts> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      this.#answer = { resolve, reject };
      this.#worker.postMessage(request);
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: Error): void {
    this.#dead ??= error;
    this.#answer?.reject(this.#dead);
  }
}

type Parts = Extract<HeaderReply, { kind: 'parts' }>;

const tooMuch = (path: string, cause: Error, heap: number): SourceMalformed =>
  new SourceMalformed({
    path,
    rule: 'header-memory',
    detail: `found headers whose reader did not survive (${cause.message}), expected headers that ${heap} MiB can hold`,
  });

const revive = ({ tag, ...fields }: PlainError): SourceError =>
  tag === 'SourceMalformed'
    ? new SourceMalformed(fields as ConstructorParameters<typeof SourceMalformed>[0])
    : new SourceUnavailable(fields);
