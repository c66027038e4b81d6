// Writes a slot's basis and mean files from the device's rows, a window of tiles at a time, through memory that the last
// block of weights has left, or that slots use one after the other.
import type { ModesOfSlot } from '../operators/exact-modes.ts';
import type { Subspace } from '../operators/subspace.ts';
import { openMatrixFile } from '../sinks/matrix-file.ts';
import { windowTiles } from './memory-plan.ts';

/** Where a slot's files stand in the run folder. */
export const slotFile = (slotId: number): string => `slot-${String(slotId).padStart(5, '0')}`;

export interface WrittenBasis {
  /** By file. */
  readonly bytes: ReadonlyMap<string, number>;
  /** Settles when the files have their names: the disk is waited for on another thread. */
  readonly durable: Promise<void>;
}

/**
 * Writes `basis/slot-….models.parquet` (pc_0 … pc_{k-1}, one row a weight in storage order, each column of unit length)
 * and, where there is a mean, `mean/slot-….parquet`. The subspace may be given up when it returns.
 */
export const writeBasis = async (folder: string, subspace: Subspace, windows: BasisWindows): Promise<WrittenBasis> => {
  const { slot, tiles, rank, spec } = subspace;
  const metadata = { slot: slot.name, slot_id: String(slot.id), rows: String(slot.rows), cols: String(slot.cols) };
  const name = slotFile(slot.id);
  const columns = Array.from({ length: rank }, (_, j) => `pc_${j}`);
  const basis =
    rank === 0
      ? null
      : openMatrixFile(`${folder}/basis/${name}.models.parquet`, {
          columns,
          metadata: { ...metadata, mode: 'models' },
        });
  const mean = spec.center ? openMatrixFile(`${folder}/mean/${name}.parquet`, { columns: ['mean'], metadata }) : null;
  try {
    const step = windowTiles(rank);
    const window = windows.of(subspace, step);
    for (let from = 0; from < tiles.length; from += step) {
      const part = tiles.slice(from, from + step);
      await subspace.readTiles(from, from + part.length, window);
      const rows: Float32Array[][] = [];
      let at = 0;
      for (const { width } of part) {
        rows.push(Array.from({ length: 1 + rank }, (_, j) => new Float32Array(window, (at + j * width) * 4, width)));
        at += (1 + rank) * width;
      }
      basis?.appendRowGroup(rows.map((tile) => tile.slice(1)));
      mean?.appendRowGroup(rows.map((tile) => tile.slice(0, 1)));
    }
  } catch (error) {
    basis?.abort();
    mean?.abort();
    throw error;
  }
  const written = new Map<string, number>();
  if (basis !== null) written.set(`basis/${name}.models.parquet`, slot.features * 4 * rank);
  if (mean !== null) written.set(`mean/${name}.parquet`, slot.features * 4);
  const durable = async (): Promise<void> => {
    try {
      await basis?.closeLater();
      await mean?.closeLater();
    } catch (error) {
      basis?.abort();
      mean?.abort();
      throw error;
    }
  };
  return { bytes: written, durable: durable() };
};

/** Rows of a page: as one, a large slot's mean has more bytes than a page can say. */
const ROWS_AT_ONCE = 2 ** 18;

/**
 * Writes `basis/slot-….rows.parquet` or `….cols.parquet` for each mode (pc_0 … pc_{k-1}, one row a feature), and the mean
 * where no other mode does. Small files: they are durable when it returns.
 */
export const writeModeBases = (
  folder: string,
  { slot, spectra, mean }: ModesOfSlot,
  withMean: boolean,
): ReadonlyMap<string, number> => {
  const metadata = { slot: slot.name, slot_id: String(slot.id), rows: String(slot.rows), cols: String(slot.cols) };
  const name = slotFile(slot.id);
  const written = new Map<string, number>();
  const write = (
    path: string,
    columns: readonly string[],
    mode: string | null,
    values: readonly Float32Array[],
  ): void => {
    const file = openMatrixFile(`${folder}/${path}`, {
      columns,
      metadata: mode === null ? metadata : { ...metadata, mode },
    });
    try {
      const rows = values[0]!.length;
      for (let at = 0; at < rows; at += ROWS_AT_ONCE)
        file.appendRowGroup([values.map((column) => column.subarray(at, at + ROWS_AT_ONCE))]);
      file.close();
    } catch (error) {
      file.abort();
      throw error;
    }
    written.set(
      path,
      values.reduce((sum, { byteLength }) => sum + byteLength, 0),
    );
  };
  for (const { mode, side, rank, directions } of spectra) {
    if (rank === 0) continue;
    const columns = Array.from({ length: rank }, (_, j) => `pc_${j}`);
    const values = columns.map((_, j) => directions.subarray(j * side, (j + 1) * side));
    write(`basis/${name}.${mode}.parquet`, columns, mode, values);
  }
  if (withMean && mean !== null) write(`mean/${name}.parquet`, ['mean'], null, [mean]);
  return written;
};

/** Memory for windows, of one slot at a time: fresh shared memory a slot would pile up until V8 collects what owns it. */
export class BasisWindows {
  #own = new SharedArrayBuffer(0);

  /** Memory for a slot's widest window: the subspace's scratch where it is large enough. */
  of({ tiles, rank, scratch }: Subspace, step: number): SharedArrayBuffer {
    const features = tiles.slice(0, step).reduce((sum, { width }) => sum + width, 0);
    const bytes = features * (1 + rank) * 4;
    if (scratch !== null && scratch.byteLength >= bytes) return scratch;
    if (this.#own.byteLength < bytes) this.#own = new SharedArrayBuffer(bytes);
    return this.#own;
  }
}

/** Folders that the files above need. */
export const basisFolders = (center: boolean): readonly string[] => (center ? ['basis', 'mean'] : ['basis']);
