// A worker thread that holds tiles: opens its device once, then does the tasks it is sent, in order.

import { parentPort, workerData } from 'node:worker_threads';
import { type DeviceSpec, openDevice } from './devices/device-spec.ts';
import type { TensorConnection } from './devices/tensor-messages.ts';
import { DeviceFailed, DeviceUnavailable } from './errors.ts';
import type { ScatterTask } from './scatter-tasks.ts';
import { performScatterTask } from './scatter-work.ts';
import { SpillFailed } from './spill-files.ts';
import { TileStore } from './tile-store.ts';
import type {
  FetchTask,
  FinishTask,
  LoadTask,
  ProjectTask,
  SaveTask,
  ScanTask,
  SlotLayout,
  VisitTask,
} from './tile-tasks.ts';
import type { TileTimings, TimeSpent } from './time-spent.ts';

/** What every worker is told at birth. */
export interface TileWorkerData {
  readonly device: DeviceSpec;
  /** Where its time is counted. */
  readonly spent: TimeSpent;
  /** To the thread that holds the GPU, where the device is one. */
  readonly connection: TensorConnection | null;
}

export type TileRequest =
  | { readonly kind: 'open'; readonly slots: readonly SlotLayout[]; readonly owned: readonly (readonly number[])[] }
  | { readonly kind: 'visit'; readonly task: VisitTask }
  | { readonly kind: 'scan'; readonly task: ScanTask }
  | { readonly kind: 'finish'; readonly task: FinishTask }
  | { readonly kind: 'project'; readonly task: ProjectTask }
  | { readonly kind: 'fetch'; readonly task: FetchTask }
  | { readonly kind: 'save'; readonly task: SaveTask }
  | { readonly kind: 'load'; readonly task: LoadTask }
  | { readonly kind: 'scatter'; readonly task: ScatterTask }
  | { readonly kind: 'ready' }
  /** Gives all tiles up; with `device`, what they are on too. */
  | { readonly kind: 'clear'; readonly device: boolean };

const port = parentPort!;
const { device: spec, spent, connection } = workerData as TileWorkerData;
const opened = openDevice(spec, connection).then((device) => ({ device, tiles: new TileStore(device, spent) }));
// Told to whoever asks for something first.
opened.catch(() => {});

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
      return tiles.open(request.slots, (slot, tile) => owned[slot]!.has(tile));
    }
    case 'visit':
      return tiles.visit(request.task);
    case 'scan':
      return tiles.scan(request.task);
    case 'finish':
      return tiles.finish(request.task);
    case 'project':
      return tiles.project(request.task);
    case 'fetch':
      return tiles.fetch(request.task);
    case 'save':
      return tiles.save(request.task);
    case 'load':
      return tiles.load(request.task);
    case 'scatter':
      return tiles.timed(timingOf[request.task.kind], () => performScatterTask(device, request.task));
    case 'clear':
      tiles.clear();
      return request.device ? device.close() : null;
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
    port.postMessage({ id, error: message, stack, spill, device: device && { device, reason, detail } });
  }
});
