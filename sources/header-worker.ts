// A worker thread that reads headers and fingerprints, in batches. It answers in parts of a few thousand tensors, each when it
// is asked for: the thread that plans takes a part in some 10 ms, whatever a stranger's header holds, and hears signals between.
// Imports nothing of effect but its errors.
import { parentPort } from 'node:worker_threads';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { type Fingerprint, type FingerprintTask, fingerprintNow } from './fingerprint.ts';
import type { AdapterInfo, ModelFile, ModelLocation, TensorEntry } from './model.ts';
import { readRawHeader } from './model-header.ts';

export type HeaderRequest =
  | { readonly kind: 'headers'; readonly locations: readonly ModelLocation[] }
  | { readonly kind: 'fingerprints'; readonly tasks: readonly FingerprintTask[] }
  | { readonly kind: 'more' };

/** An error of the sources as plain data. */
export type PlainError =
  | {
      readonly tag: 'SourceMalformed';
      readonly path: string;
      readonly tensor?: string;
      readonly rule: string;
      readonly detail: string;
    }
  | { readonly tag: 'SourceUnavailable'; readonly path: string; readonly detail: string };

/** Parts come in the order of the request; `tensors` belong to the header that comes next, all others end a model. */
export type HeaderPart =
  | { readonly kind: 'tensors'; readonly tensors: readonly TensorEntry[] }
  | {
      readonly kind: 'header';
      readonly files: readonly ModelFile[];
      readonly headerDigests: readonly string[];
      /** Equal keys, equal tensors: they are sent with the first header only. */
      readonly key: string;
      readonly adapter?: AdapterInfo;
    }
  | { readonly kind: 'fingerprint'; readonly fingerprint: Fingerprint }
  | { readonly kind: 'failed'; readonly error: PlainError };

export type HeaderReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'parts'; readonly parts: readonly HeaderPart[]; readonly done: boolean }
  | { readonly kind: 'bug'; readonly message: string; readonly stack: string };

/** What one reply carries at most; a part may fill up one that was begun. */
const tensorsAtOnce = 4096;

const port = parentPort!;
const sent = new Set<string>();
let parts: Iterator<HeaderPart> = [][Symbol.iterator]();

function* headerParts(locations: readonly ModelLocation[]): Generator<HeaderPart> {
  for (const location of locations) {
    try {
      const { files, headerDigests, key, parse, adapter } = readRawHeader(location);
      if (!sent.has(key)) {
        const tensors = parse();
        for (let i = 0; i < tensors.length; i += tensorsAtOnce) {
          yield { kind: 'tensors', tensors: tensors.slice(i, i + tensorsAtOnce) };
        }
        sent.add(key);
      }
      yield { kind: 'header', files, headerDigests, key, ...(adapter === undefined ? {} : { adapter }) };
    } catch (error) {
      yield { kind: 'failed', error: plain(error) };
    }
  }
}

function* fingerprintParts(tasks: readonly FingerprintTask[]): Generator<HeaderPart> {
  for (const task of tasks) {
    let part: HeaderPart;
    try {
      part = { kind: 'fingerprint', fingerprint: fingerprintNow(task) };
    } catch (error) {
      part = { kind: 'failed', error: plain(error) };
    }
    yield part;
  }
}

/** Anything but an error of the sources is a bug, and thrown on. */
function plain(error: unknown): PlainError {
  if (error instanceof SourceUnavailable) return { tag: 'SourceUnavailable', path: error.path, detail: error.detail };
  if (!(error instanceof SourceMalformed)) throw error;
  const { path, tensor, rule, detail } = error;
  return { tag: 'SourceMalformed', path, rule, detail, ...(tensor === undefined ? {} : { tensor }) };
}

const nextReply = (): HeaderReply => {
  const taken: HeaderPart[] = [];
  for (let tensors = 0; tensors < tensorsAtOnce; ) {
    const next = parts.next();
    if (next.done === true) return { kind: 'parts', parts: taken, done: true };
    taken.push(next.value);
    if (next.value.kind === 'tensors') tensors += next.value.tensors.length;
  }
  return { kind: 'parts', parts: taken, done: false };
};

port.on('message', (request: HeaderRequest) => {
  try {
    if (request.kind === 'headers') parts = headerParts(request.locations);
    else if (request.kind === 'fingerprints') parts = fingerprintParts(request.tasks);
    port.postMessage(nextReply() satisfies HeaderReply);
  } catch (error) {
    const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
    port.postMessage({ kind: 'bug', message, stack } satisfies HeaderReply);
  }
});
port.postMessage({ kind: 'ready' } satisfies HeaderReply);
