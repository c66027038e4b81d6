// Panels that all threads have in common: whoever is free takes a slot's next tile, and finds in it what another thread left there.
// A panel that is mixed into a thread's spare matrix stays in that one, and the thread has the panel's: where they are now stands in
// memory that threads have in common as well.
import { tilesOf } from '../sources/tile.ts';
import type { FloatArena } from './devices/float-arena.ts';
import type { SlotLayout } from './tile-tasks.ts';

/** Floats of a line of the cache, in which places are counted. */
const LINE = 16;

/** A slot's panels, as one thread sees them. */
export interface CommonPanels {
  readonly buffers: readonly Float32Array[];
  /** Of each panel, then of each spare matrix: in which buffer it is, and at which line of it. */
  readonly places: Int32Array;
  /** The thread's own among the places; none where panels stay where they are. */
  readonly spare: number;
  /** Floats of each. */
  readonly floats: number;
  /** Of each tile: Σ of its shift's entries. */
  readonly shiftSums: Float64Array;
}

/** How large a device's matrices are. */
export interface MatrixSizes {
  /** Features of the widest. */
  readonly panel: number;
  readonly floatsOf: (rows: number, width: number) => number;
}

/**
 * Makes room for a slot's panels, and for what each thread mixes them into.
 * @returns what each of the threads sees
 */
export const placePanels = (
  arena: Pick<FloatArena, 'buffers' | 'place'>,
  { features, maxRows, passingRows }: SlotLayout,
  { panel, floatsOf }: MatrixSizes,
  threads: number,
): readonly CommonPanels[] => {
  const tiles = tilesOf(features);
  const width = Math.min(features, panel);
  const panels = tiles.reduce((sum, tile) => sum + Math.ceil(tile.width / width), 0);
  // What is made of rows that pass is kept where it was put.
  const spares = passingRows === null ? threads : 0;
  const floats = floatsOf(maxRows, width);
  const places = new Int32Array(new SharedArrayBuffer((panels + spares) * 2 * Int32Array.BYTES_PER_ELEMENT));
  for (let i = 0; i < panels + spares; i++) {
    const { buffer, at } = arena.place(floats);
    places.set([buffer, at / LINE], 2 * i);
  }
  const shiftSums = new Float64Array(new SharedArrayBuffer(tiles.length * Float64Array.BYTES_PER_ELEMENT));
  const { buffers } = arena;
  return Array.from({ length: threads }, (_, i) => ({ buffers, places, spare: panels + i, floats, shiftSums }));
};

/** Where a panel or spare matrix is now. */
export const memoryOf = ({ buffers, places, floats }: CommonPanels, place: number): Float32Array => {
  const at = places[2 * place + 1]! * LINE;
  return buffers[places[2 * place]!]!.subarray(at, at + floats);
};

/** A panel and the thread's spare matrix change places. */
export const exchangeWithSpare = ({ places, spare }: CommonPanels, panel: number): void => {
  const [from, to] = [2 * panel, 2 * spare];
  const place = places.slice(from, from + 2);
  places.copyWithin(from, to, to + 2);
  places.set(place, to);
};
