// The server of `run --watch`, in a thread of its own: it reads what the run has written, like any other process, so that no
// page, however many and however slow, takes time from the thread that folds.
import { parentPort, workerData } from 'node:worker_threads';
import { startWatchServer, type WatchOptions } from './watch-server.ts';

const server = await startWatchServer(workerData as WatchOptions);
parentPort!.postMessage({ url: server.url });
parentPort!.once('message', () => {
  // The last events go out, and pages that are there may read the tables once.
  void server.look().then(() => {
    const wait = server.clients > 0 ? LAST_LOOK_MS : 0;
    setTimeout(() => void server.close().then(() => process.exit()), wait);
  });
});

const LAST_LOOK_MS = 1_000;
