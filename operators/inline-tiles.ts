// Tiles held by the calling thread: for tests of engines and devices, and for callers that bring their own threads.
import type { Device } from './devices/device.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { performScatterTask } from './scatter-work.ts';
import { addVisits, firstOfEachModel, inTileOrder, largestPeaks, projectionOf, type Tiles } from './tile-pool.ts';
import { TileStore } from './tile-store.ts';
import { newTimeSpent, timingsOf } from './time-spent.ts';

export const inlineTiles = (device: Device, solve: EigenSolver): Tiles => {
  const spent = newTimeSpent();
  const store = new TileStore(device, spent);
  return {
    info: device.info,
    solve,
    solveApart: async (matrix, n, vectors) => solve(matrix, n, vectors),
    swapsRows: device.swapRows !== undefined,
    threads: 1,
    open: async (slots) => store.open(slots, () => true),
    visit: async (task, onto) => addVisits(store.visit(task), task, device.multiplyDouble, onto),
    scan: async (task) => firstOfEachModel(store.scan(task)),
    finish: async (task) => largestPeaks(store.finish(task), task.mix.m - 1),
    project: async (task) => projectionOf(store.project(task), task),
    scatter: async (task) => performScatterTask(device, task) as never,
    multiplyDouble: device.multiplyDouble,
    fetch: async (task) => store.fetch(task),
    save: async (task) => inTileOrder(store.save(task)),
    load: async (task) => store.load(task),
    takeTimings: timingsOf([spent]),
    close: async () => store.clear(),
  };
};
