// The thread that owns a tfjs backend, and with it the GPU: it does what connected threads send, each one's commands in order,
// and awaits what comes down while it goes on with the next commands. Reading back is asynchronous in WebGPU and everything
// that asks is synchronous, so nobody who waits may be the one who reads. It is alone with the device: there is one set of
// shaders, one count of what is alive, and one place where a loss is seen.
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs-core';
import { openTensorBackend, type TensorBackend } from './tensor-backend.ts';
import type {
  TensorAnswer,
  TensorCommand,
  TensorConnection,
  TensorFailure,
  TensorMemory,
  TensorThreadData,
} from './tensor-messages.ts';
import { type PendingProduct, TensorStore } from './tensor-store.ts';

interface Connected {
  readonly port: MessagePort;
  readonly signal: Int32Array;
  readonly store: TensorStore;
}

const connections = new Set<Connected>();
/** What is on its way down. */
const leaving = new Set<tf.Tensor>();
let failed: TensorFailure | null = null;

const { spec, idle } = workerData as TensorThreadData;
const opened: Promise<TensorBackend | null> = openTensorBackend(spec).catch((error: Error) => {
  failed = { reason: 'other', detail: `it did not start: ${error.message}` };
  return null;
});

const answer = ({ port, signal }: Connected, message: TensorAnswer): void => {
  const arrays = [message.values, ...(message.products ?? []).map(({ values }) => values)];
  // A backend may hand out a view of memory that it goes on using.
  const owned = arrays.flatMap((array) => (array?.buffer instanceof ArrayBuffer ? [array.buffer] : []));
  port.postMessage(message, owned);
  Atomics.add(signal, 0, 1);
  Atomics.notify(signal, 0);
};

const ownCopy = (values: ArrayLike<number>): Float32Array => Float32Array.from(values);

/** Brings a tensor down and disposes of it. */
const bring = async (tensor: tf.Tensor): Promise<Float32Array> => {
  leaving.add(tensor);
  try {
    return ownCopy((await tensor.data()) as Float32Array);
  } finally {
    leaving.delete(tensor);
    tensor.dispose();
  }
};

/** Everything alive has an owner: a tensor that was forgotten would fill the GPU block by block. */
const assertNoLeaks = (backend: TensorBackend): void => {
  const { numTensors, numBytes } = tf.memory();
  const beside = [...leaving, ...(backend.program?.tables ?? [])];
  let tensors = beside.length;
  let bytes = beside.reduce((sum, { size }) => sum + size * 4, 0);
  for (const { store } of connections) {
    tensors += store.owned.tensors;
    bytes += store.owned.bytes;
  }
  if (numTensors === tensors && numBytes === bytes) return;
  throw new Error(`${numTensors} tensors of ${numBytes} bytes are alive, expected ${tensors} of ${bytes}`);
};

/** What brings an answer; null where none is waited for. */
const perform = (
  backend: TensorBackend,
  store: TensorStore,
  command: TensorCommand,
): Promise<Omit<TensorAnswer, 'ticket'>> | null => {
  switch (command.op) {
    case 'upload':
      store.upload(command);
      return null;
    case 'widen':
      store.widen(command);
      return null;
    case 'combine':
      store.combine(command);
      return null;
    case 'accumulate':
      store.accumulate(command);
      return null;
    case 'free':
      store.free(command.id);
      if (leaving.size === 0 && [...connections].every((each) => each.store.owned.tensors === 0)) backend.trim();
      return null;
    case 'gram': {
      const pending = store.gram(command);
      const down = bringAll(pending);
      assertNoLeaks(backend);
      return down;
    }
    case 'read': {
      const values = bring(store.rows(command));
      return values.then((values) => ({ values }));
    }
    case 'product':
      return bring(store.product(command)).then((values) => ({ values }));
    case 'describe':
      return Promise.resolve({ facts: backend.facts });
    case 'memory':
      return Promise.resolve({ memory: memoryOf(backend) });
  }
};

const bringAll = async (pending: readonly PendingProduct[]): Promise<Omit<TensorAnswer, 'ticket'>> => ({
  products: await Promise.all(pending.map(async ({ tensor, ...place }) => ({ ...place, values: await bring(tensor) }))),
});

const memoryOf = (backend: TensorBackend): TensorMemory => {
  const { numTensors, numBytes } = tf.memory();
  return { tensors: numTensors, bytes: numBytes, ...backend.memory() };
};

const failureOf = (error: unknown): TensorFailure => ({ reason: 'other', detail: (error as Error).message });

const serve = async (connected: Connected, command: TensorCommand): Promise<void> => {
  const ticket = 'ticket' in command ? command.ticket : null;
  const backend = await opened;
  try {
    failed ??= backend?.failure() ?? null;
    if (backend === null || failed !== null) throw failed;
    const result = perform(backend, connected.store, command);
    if (result === null || ticket === null) return;
    // The errors of all work up to here, its own included, are known before it is answered.
    const [values] = await Promise.all([result, backend.settle()]);
    failed ??= backend.failure();
    if (failed !== null) throw failed;
    answer(connected, { ticket, ...values });
  } catch (error) {
    await backend?.settle();
    // What the device says of itself explains more than what it did to those who asked.
    failed ??= backend?.failure() ?? failureOf(error);
    if (ticket !== null) answer(connected, { ticket, failure: failed });
  }
};

const connect = ({ port, signal }: TensorConnection): void => {
  Atomics.store(new Int32Array(signal), 2, 1);
  void opened.then((backend) => {
    const store = new TensorStore(backend?.program ?? null, backend?.facts.largestTensor ?? 0);
    const connected = { port, signal: new Int32Array(signal), store };
    connections.add(connected);
    port.on('message', (command: TensorCommand) => void serve(connected, command));
    port.on('close', () => {
      connections.delete(connected);
      if (failed === null) store.clear();
    });
  });
};

/** Then nothing keeps this thread, and it ends by itself: to end it in the middle of Dawn's work aborts the process. */
const close = async (): Promise<void> => {
  const backend = await opened;
  failed ??= { reason: 'other', detail: 'it has been closed' };
  await backend?.close();
  for (const { port } of connections) port.close();
  parentPort!.close();
};

process.on('exit', () => {
  const ended = new Int32Array(idle);
  Atomics.store(ended, 0, 1);
  Atomics.notify(ended, 0);
  for (const { signal } of connections) {
    Atomics.store(signal, 1, 1);
    Atomics.add(signal, 0, 1);
    Atomics.notify(signal, 0);
  }
});

parentPort!.on('message', (message: { readonly connect: TensorConnection } | 'close') => {
  if (message === 'close') void close();
  else connect(message.connect);
});
