// Starts the server beside a run and ends it after. Whatever happens to it, the run goes on.
import { Worker } from 'node:worker_threads';
import type { WatchOptions } from './watch-server.ts';

export interface WatchThread {
  readonly url: string;
  /** Sends what is left to send, and resolves when the thread has ended. */
  close(): Promise<void>;
}

/** Memory it may take, so that a run keeps to its own. */
const MOST_HEAP_MB = 128;

/**
 * Rejects where the server cannot start, as with a port that is taken.
 * @param onLost told when it ends by itself later
 */
export function startWatchThread(options: WatchOptions, onLost: (cause: Error) => void): Promise<WatchThread> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./watch-worker.js', import.meta.url), {
      workerData: options,
      resourceLimits: { maxOldGenerationSizeMb: MOST_HEAP_MB },
    });
    // A run that is done does not wait for those who look at it.
    worker.unref();
    let report = reject;
    worker.on('error', (cause) => report(cause as Error));
    const ended = new Promise<void>((done) => worker.once('exit', () => done()));
    worker.once('message', ({ url }: { readonly url: string }) => {
      report = onLost;
      resolve({
        url,
        close: () => {
          worker.ref();
          worker.postMessage('close');
          return ended;
        },
      });
    });
  });
}
