// How long a device takes for a little of what a run is made of: rows that come in, a Gram, a mixing. A tenth of a second on a
// processor.
import type { StoredRows } from '../../sources/weight-rows.ts';
import type { Device } from './device.ts';

const STATE = 67;
const BLOCK = 32;
const FEATURES = 65_536;

/** Milliseconds of the fastest of two rounds, after one that compiles and allocates. */
export const probeDevice = (device: Device): number => {
  const rows = STATE + BLOCK;
  const panel = Math.min(FEATURES, device.panelFor(rows, false));
  const bytes = new Uint8Array(new Float32Array(BLOCK * panel).fill(0.01).buffer);
  const batch: StoredRows = {
    kind: 'stored',
    dtype: 'F32',
    width: panel,
    models: Int32Array.from({ length: BLOCK }, (_, i) => i),
    bytes,
    stride: panel * 4,
  };
  const placed = [{ batch, rows: [...batch.models], at: [...batch.models].map((i) => STATE + i) }];
  const weights = new Float64Array(STATE * rows).fill(0.01);
  const gram = new Float64Array(rows * BLOCK);
  let [matrix, spare] = [device.allocate(rows, panel), device.allocate(rows, panel)];
  device.write(matrix, 0, new Float32Array(STATE * panel).fill(0.01));
  const round = (): number => {
    const start = performance.now();
    for (let done = 0; done < FEATURES; done += panel) {
      device.widen(placed, 0, matrix, 1);
      device.gram(matrix, 0, rows, STATE, BLOCK, gram);
      device.combine(weights, STATE, matrix, 0, rows, spare, 0);
      [matrix, spare] = [spare, matrix];
    }
    device.settle();
    device.read(matrix, 0, 1);
    return performance.now() - start;
  };
  round();
  const best = Math.min(round(), round());
  device.free(matrix);
  device.free(spare);
  return best;
};
