// `--tensorboard DIR`: event files beside a run, by a thread of its own. Whatever happens to it, the run goes on, and is not
// waited for longer than it takes a disk that works to write the rest.
import { basename, join, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';

export interface TensorboardThread {
  /** Writes what is left, or takes the file away. Resolves when the thread has ended. */
  close(end: 'keep' | 'remove'): Promise<void>;
}

/** Memory it may take, so that a run keeps to its own. */
const MOST_HEAP_MB = 96;
const PATIENCE_MS = 10_000;

/** A run has a folder of its own in DIR, so that TensorBoard shows several side by side. */
export const tensorboardFolder = (tensorboard: string, run: string): string =>
  join(tensorboard, basename(resolve(run)));

/** @param onLost told once, when it ends before it was asked to */
export function startTensorboardThread(
  run: string,
  tensorboard: string,
  onLost: (detail: string) => void,
): TensorboardThread {
  const worker = new Worker(new URL('./tensorboard-worker.js', import.meta.url), {
    workerData: { run, folder: tensorboardFolder(tensorboard, run) },
    resourceLimits: { maxOldGenerationSizeMb: MOST_HEAP_MB },
  });
  // A run that is done does not wait for it, unless it is closing.
  worker.unref();
  worker.on('error', (cause) => onLost(cause instanceof Error ? cause.message : String(cause)));
  const ended = new Promise<void>((done) => worker.once('exit', () => done()));
  return {
    close: async (end) => {
      worker.ref();
      worker.postMessage(end);
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<'late'>((done) => {
        timer = setTimeout(() => done('late'), PATIENCE_MS);
      });
      const outcome = await Promise.race([ended, late]);
      clearTimeout(timer);
      if (outcome !== 'late') return;
      onLost(`the rest was not written within ${PATIENCE_MS / 1e3} s`);
      worker.unref();
      void worker.terminate();
    },
  };
}
