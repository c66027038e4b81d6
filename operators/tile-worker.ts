// A worker thread that holds tiles: opens its device once, then does the tasks it is sent, in order.

import { parentPort, workerData } from 'node:worker_threads';
import { addGrams } from './add-grams.ts';
import { openDevice } from './devices/device-spec.ts';
import { DeviceFailed, DeviceUnavailable, NumericalFailure } from './errors.ts';
import type { ScatterTask } from './scatter-tasks.ts';
import { performScatterTask } from './scatter-work.ts';
import { SpillFailed } from './spill-files.ts';
import { OPENED, type TileRequest, type TileWorkerData } from './tile-messages.ts';
import { TileStore } from './tile-store.ts';
import type { TileTimings } from './time-spent.ts';

const port = parentPort!;
const { device: spec, spent, connection } = workerData as TileWorkerData;
const opened = openDevice(spec, connection).then((device) => ({ device, tiles: new TileStore(device, spent) }));
const told = (): void => port.postMessage(OPENED);
// A failure is told to whoever asks for something first.
opened.then(told, told);

/** Under which name a task's time is told. */
const timingOf: Readonly<Record<ScatterTask['kind'], keyof TileTimings>> = {
  survey: 'widen',
  origin: 'widen',
  sample: 'widen',
  fold: 'gram',
  follow: 'gram',
  turn: 'mix',
  energy: 'gram',
  core: 'gram',
  multiply: 'mix',
  pairs: 'gram',
  outer: 'gram',
  roots: 'mix',
  'mean-inner': 'gram',
  'factor-energy': 'gram',
  'factor-core': 'gram',
  'mean-along': 'gram',
};

const perform = ({ device, tiles }: Awaited<typeof opened>, request: TileRequest): unknown => {
  switch (request.kind) {
    case 'open': {
      const owned = request.owned.map((list) => new Set(list));
      return tiles.open(request.slots, (slot, tile) => owned[slot]!.has(tile), request.common);
    }
    case 'visit':
      return tiles.visit(request.task, request.grams, request.queue);
    case 'add':
      return tiles.timed('gram', () => addGrams(device.multiplyDouble, request.task));
    case 'scan':
      return tiles.scan(request.task, request.queue);
    case 'finish':
      return tiles.finish(request.task, request.queue);
    case 'project':
      return tiles.project(request.task, request.queue);
    case 'fetch':
      return tiles.fetch(request.task, request.queue);
    case 'save':
      return tiles.save(request.task, request.queue);
    case 'load':
      return tiles.load(request.task, request.queue);
    case 'scatter':
      return tiles.timed(timingOf[request.task.kind], () => performScatterTask(device, request.task));
    case 'solve':
      return device.solve(request.matrix, request.n, request.vectors);
    case 'close':
      tiles.clear();
      return device.close();
    case 'ready':
      return null;
  }
};

port.on('message', async ({ id, request }: { id: number; request: TileRequest }) => {
  try {
    port.postMessage({ id, result: await perform(await opened, request) });
  } catch (error) {
    const { message, stack } = error as Error;
    const spill = error instanceof SpillFailed ? { path: error.path, code: error.code } : undefined;
    // It was there when the run was planned.
    const failed = error instanceof DeviceUnavailable ? new DeviceFailed({ ...error, reason: 'other' }) : error;
    const { device, reason, detail } = failed instanceof DeviceFailed ? failed : {};
    const unsolved = error instanceof NumericalFailure ? { slot: error.slot, detail: error.detail } : undefined;
    port.postMessage({ id, error: message, stack, spill, unsolved, device: device && { device, reason, detail } });
  }
});
