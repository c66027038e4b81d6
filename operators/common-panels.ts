// Panels that all threads have in common: whoever is free takes a slot's next tile, and finds in it what another thread left there.
// A panel that is mixed into a thread's spare matrix stays in that one, and the thread has the panel's: where they are now stands in
// memory that threads have in common as well.
import { panelsIn, tilesOf } from '../sources/tile.ts';
import type { FloatArena } from './devices/float-arena.ts';
import type { SlotLayout } from './tile-tasks.ts';

/** A slot's panels, as one thread sees them. */
export interface CommonPanels {
  readonly buffers: readonly Float32Array[];
  /** Of each panel, then of each spare matrix: in which buffer it is, and at which float of it. */
  readonly places: Int32Array;
  /** The thread's own among the places; null where panels stay where they are. */
  readonly spare: number | null;
  /** Features of the widest. */
  readonly width: number;
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
 * Makes room for the panels of those of a group's slots that keep any in memory, and for what threads mix them into.
 * @param threads how many have tiles of each slot
 * @returns of each slot what each of its threads sees; nothing where none are kept
 */
export const placePanels = (
  arena: Pick<FloatArena, 'buffers' | 'place'>,
  slots: readonly SlotLayout[],
  { panel, floatsOf }: MatrixSizes,
  threads: readonly number[],
): readonly (readonly CommonPanels[])[] => {
  const kept = slots.map(({ features, maxRows, passingRows, spill }, slot) => {
    const width = Math.min(features, panel);
    const holds = maxRows > 0 && spill === null;
    const tiles = holds ? tilesOf(features) : [];
    const panels = panelsIn(tiles, width);
    // What is made of rows that pass is kept where it was put.
    const mixes = holds && passingRows === null;
    return { width, tiles: tiles.length, panels, spares: mixes ? threads[slot]! : 0, floats: floatsOf(maxRows, width) };
  });
  // A group's stand in one piece of memory: what is sent to a thread is searched for each piece that it has.
  const total = (of: (slot: (typeof kept)[number]) => number): number => kept.reduce((sum, slot) => sum + of(slot), 0);
  const places = new Int32Array(new SharedArrayBuffer(total(({ panels, spares }) => panels + spares) * 8));
  const shiftSums = new Float64Array(new SharedArrayBuffer(total(({ tiles }) => tiles) * 8));
  const { buffers } = arena;
  let [place, tile] = [0, 0];
  return kept.map(({ width, tiles, panels, spares, floats }, slot) => {
    const own = places.subarray(2 * place, 2 * (place + panels + spares));
    for (let i = 0; i < panels + spares; i++) {
      const { buffer, at } = arena.place(floats);
      own.set([buffer, at], 2 * i);
    }
    const seen = { buffers, places: own, width, floats, shiftSums: shiftSums.subarray(tile, tile + tiles) };
    place += panels + spares;
    tile += tiles;
    if (panels === 0) return [];
    return Array.from({ length: threads[slot]! }, (_, i) => ({ ...seen, spare: spares === 0 ? null : panels + i }));
  });
};

/** Where a panel or spare matrix is now. */
export const memoryOf = ({ buffers, places, floats }: CommonPanels, place: number): Float32Array => {
  const at = places[2 * place + 1]!;
  return buffers[places[2 * place]!]!.subarray(at, at + floats);
};

/** A panel and the thread's spare matrix change places. */
export const exchangeWithSpare = ({ places, spare }: CommonPanels, panel: number): void => {
  const [from, to] = [2 * panel, 2 * spare!];
  const place = places.slice(from, from + 2);
  places.copyWithin(from, to, to + 2);
  places.set(place, to);
};
