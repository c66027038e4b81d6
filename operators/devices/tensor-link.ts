// Both ends of the way to a tensor thread: the thread itself, and a connection to it whose owner waits for answers without an
// event loop, so that kernels stay synchronous calls for engines. Waiting is Atomics.wait: no processor time is spent.
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { DeviceFailed } from '../errors.ts';
import type {
  BackendSpec,
  TensorAnswer,
  TensorCommand,
  TensorConnection,
  TensorThreadData,
} from './tensor-messages.ts';

/** Longest wait for a thread that does not say that it lives. */
const START_MS = 60_000;

/** Longest wait of a process that exits without having closed its device. */
const EXIT_MS = 20_000;

/** A thread that owns a tfjs backend. */
export class TensorThread {
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  /** Int32: 1 when the thread has ended. */
  readonly #idle = new Int32Array(new SharedArrayBuffer(4));
  /** A process that exits while Dawn is at work is aborted by it, and loses its exit code: it waits for that, not for long. */
  readonly #beforeExit = (): void => {
    this.#worker.postMessage('close');
    Atomics.wait(this.#idle, 0, 0, EXIT_MS);
  };

  constructor(spec: BackendSpec) {
    const workerData: TensorThreadData = { spec, idle: this.#idle.buffer as SharedArrayBuffer };
    this.#worker = new Worker(new URL('./tensor-thread.js', import.meta.url), { workerData, execArgv: [] });
    process.on('exit', this.#beforeExit);
    // A failure of the thread reaches those who wait through their connections.
    this.#worker.on('error', () => {});
    this.#ended = new Promise((resolve) => void this.#worker.on('exit', () => resolve()));
    void this.#ended.then(() => process.off('exit', this.#beforeExit));
    this.#worker.unref();
  }

  /** A new connection, to be handed to the thread that uses it. */
  connect(): TensorConnection {
    const { port1, port2 } = new MessageChannel();
    const signal = new SharedArrayBuffer(12);
    this.#worker.postMessage({ connect: { port: port1, signal } satisfies TensorConnection }, [port1]);
    return { port: port2, signal };
  }

  /** Ends the device, then the thread: a process that exits before is aborted by Dawn. */
  async close(): Promise<void> {
    this.#worker.ref();
    this.#worker.postMessage('close');
    await this.#ended;
  }
}

type Ticketed = Extract<TensorCommand, { readonly ticket: number }>;
type Untold<T> = T extends Ticketed ? Omit<T, 'ticket'> : never;

/** What one thread says to a tensor thread. */
export class TensorLink {
  readonly #device: string;
  readonly #connection: TensorConnection;
  readonly #signal: Int32Array;
  readonly #arrived = new Map<number, TensorAnswer>();
  #next = 0;

  constructor(device: string, connection: TensorConnection) {
    this.#device = device;
    this.#connection = connection;
    this.#signal = new Int32Array(connection.signal);
  }

  /** Sends what nobody waits for. */
  send(command: Exclude<TensorCommand, Ticketed>, transfer: readonly ArrayBuffer[] = []): void {
    this.#connection.port.postMessage(command, transfer);
  }

  /** Sends a question; `wait` brings the answer. */
  ask(command: Untold<Ticketed>, transfer: readonly ArrayBuffer[] = []): number {
    const ticket = this.#next++;
    this.#connection.port.postMessage({ ...command, ticket }, transfer);
    return ticket;
  }

  /**
   * Blocks until a question is answered.
   * @throws DeviceFailed when the device does not work any more
   */
  wait(ticket: number): TensorAnswer {
    const start = performance.now();
    for (;;) {
      const seen = Atomics.load(this.#signal, 0);
      const hasEnded = Atomics.load(this.#signal, 1) === 1;
      for (let got = receiveMessageOnPort(this.#connection.port); got !== undefined; ) {
        const message = got.message as TensorAnswer;
        this.#arrived.set(message.ticket, message);
        got = receiveMessageOnPort(this.#connection.port);
      }
      const answer = this.#arrived.get(ticket);
      if (answer !== undefined) {
        this.#arrived.delete(ticket);
        if (answer.failure !== undefined) throw new DeviceFailed({ device: this.#device, ...answer.failure });
        return answer;
      }
      if (hasEnded) throw this.#failure('the thread that held it has ended');
      const isThere = Atomics.load(this.#signal, 2) === 1;
      if (!isThere && performance.now() - start > START_MS) throw this.#failure('its thread did not start');
      Atomics.wait(this.#signal, 0, seen, isThere ? Number.POSITIVE_INFINITY : 100);
    }
  }

  close(): void {
    this.#connection.port.close();
  }

  #failure(detail: string): DeviceFailed {
    return new DeviceFailed({ device: this.#device, reason: 'lost', detail });
  }
}
