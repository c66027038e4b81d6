// Merges the states of one slot as they stand in files, tile after tile: memory is one panel of all rows, whatever the size
// of the slot. The rows are read twice, for their Gram and for the mixing; nothing is written but the merged rows.
// Cost a weight: about R² + 2 ℓ R flops for R rows held by all states, on the calling thread.
import { createHash } from 'node:crypto';
import { displayName } from '../sources/display-name.ts';
import type { PlannedSlot } from '../sources/reading-plan.ts';
import { type Tile, tilesOf } from '../sources/tile.ts';
import type { Device } from './devices/device.ts';
import { NumericalFailure } from './errors.ts';
import { allFinite } from './find-faults.ts';
import { largerPeak } from './linalg/larger-peak.ts';
import type { EigenSolver } from './linalg/symmetric-eigen.ts';
import { type HeldState, type MergedSubspace, mergeSubspaces, rowsOfPart } from './merge-subspaces.ts';
import { readValues, writeValues } from './spill-files.ts';
import type { SubspaceSpec } from './subspace-state.ts';
import type { SavedRows } from './tile-tasks.ts';
import { savedRows } from './update-subspace.ts';

/** A state with the place of its rows, as a checkpoint has them. */
export interface StoredState extends HeldState {
  readonly rows: SavedRows;
}

export interface MergedState extends MergedSubspace {
  /** Where its rows are: all of them the state's own. */
  readonly rows: SavedRows;
  /** Of its rows' part of the file, in bytes. */
  readonly size: number;
  /** sha256 of each tile's bytes, in order. */
  readonly digests: readonly Uint8Array[];
  /** Each row's entry of largest magnitude. */
  readonly peaks: Float64Array;
}

/**
 * @param parts of one model at least each, in an order that does not depend on who asks: bits depend on it
 * @param to where the merged rows go
 * Throws `NumericalFailure` where rows are not finite; `SpillFailed` for what the disk says.
 */
export const mergeStates = (
  slot: PlannedSlot,
  spec: SubspaceSpec,
  parts: readonly StoredState[],
  to: SavedRows,
  device: Device,
  solve: EigenSolver,
): MergedState => {
  const rows = parts.reduce((sum, part, i) => sum + rowsOfPart(part, i), 1);
  const widest = Math.min(slot.features, device.panelFor(rows, false));
  const matrix = device.allocate(rows, widest);
  const gram = new Float64Array(rows * rows);
  const tiles = tilesOf(slot.features);
  let panel = matrix;
  const eachPanel = (tile: Tile, use: (start: number, width: number) => void): void => {
    const values = readTile(tile, parts, rows);
    for (let start = 0; start < tile.width; start += widest) {
      const width = Math.min(widest, tile.width - start);
      panel = device.reshape(matrix, width);
      const cut = new Float32Array(rows * width);
      for (let i = 0; i < rows; i++) {
        const at = i * tile.width + start;
        cut.set(values.subarray(at, at + width), i * width);
      }
      device.write(panel, 0, cut);
      use(start, width);
    }
  };
  try {
    for (const tile of tiles) eachPanel(tile, () => device.gramOfAll(panel, rows, gram));
    device.settle();
    for (let i = 0; i < rows; i++) for (let j = 0; j < i; j++) gram[i * rows + j] = gram[j * rows + i]!;
    if (!allFinite(gram)) {
      const { library, version } = device.info;
      const detail = `${library} ${version} made products of state rows that are not finite`;
      throw new NumericalFailure({ slot: displayName(slot.name), detail });
    }
    const merged = mergeSubspaces(spec, parts, gram, solve, device.multiplyDouble);
    const { eigenvalues } = merged.state;
    const saved = savedRows(eigenvalues.length);
    const spare = device.allocate(saved, widest);
    const digests: Uint8Array[] = [];
    const peaks = new Float64Array(eigenvalues.length);
    try {
      for (const tile of tiles) {
        const values = new Float32Array(saved * tile.width);
        eachPanel(tile, (start, width) => {
          const out = device.reshape(spare, width);
          device.combine(merged.mix, saved - 1, panel, 1, rows - 1, out, 1);
          const own = device.read(out, 0, saved);
          for (let i = 0; i < saved; i++) values.set(own.subarray(i * width, (i + 1) * width), i * tile.width + start);
        });
        for (let j = 0; j < peaks.length; j++)
          peaks[j] = largerPeak(peaks[j]!, values.subarray((2 + j) * tile.width, (3 + j) * tile.width));
        writeValues(to.path, to.fd, to.at + tile.start * saved * 4, values);
        digests.push(createHash('sha256').update(values).digest());
      }
    } finally {
      device.free(spare);
    }
    return { ...merged, rows: to, size: saved * slot.features * 4, digests, peaks };
  } finally {
    device.free(matrix);
  }
};

/** A tile's rows of all parts: the first one's negated shift, then what each holds, and how far its shift lies from the first. */
const readTile = ({ start, width }: Tile, parts: readonly StoredState[], rows: number): Float32Array => {
  const out = new Float32Array(rows * width);
  let at = 1;
  for (const [i, part] of parts.entries()) {
    const own = savedRows(part.state.eigenvalues.length);
    const { path, fd, at: from } = part.rows;
    const values = new Float32Array(own * width);
    readValues(path, fd, from + start * own * 4, values);
    out.set(values.subarray(width), at * width);
    at += own - 1;
    if (i === 0) out.set(values.subarray(0, width));
    else {
      // Rows hold shifts negated.
      for (let l = 0; l < width; l++) out[at * width + l] = out[l]! - values[l]!;
      at++;
    }
  }
  return out;
};
