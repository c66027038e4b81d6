// Which threads visit which tiles of a group of slots, and where the panels are that threads have in common.
import { tilesOf } from '../sources/tile.ts';
import { type CommonPanels, type MatrixSizes, placePanels } from './common-panels.ts';
import type { FloatArena } from './devices/float-arena.ts';
import type { SlotLayout } from './tile-tasks.ts';

/** What a thread has, slot by slot. */
export interface Dealt {
  readonly owned: readonly (readonly number[])[];
  /** Null where a slot's panels are each thread's own. */
  readonly common: readonly (CommonPanels | null)[];
}

/**
 * Whether any thread that was dealt some of a slot's tiles may visit all of them: they keep nothing, or where all can take it.
 * @param haveMemory whether matrices are in memory that threads have in common
 */
export const isShared = ({ maxRows, spill }: SlotLayout, haveMemory: boolean): boolean =>
  spill === null && (maxRows === 0 || haveMemory);

/**
 * Deals tiles in turn, through all slots, so that small slots spread too. Of slots that are shared a thread that is held up takes fewer.
 * @param sizes of matrices in memory that threads have in common; null where there is none
 * @param arena where that memory comes from
 * @returns what each thread has
 */
export const dealTiles = (
  slots: readonly SlotLayout[],
  threads: number,
  sizes: MatrixSizes | null,
  arena: Pick<FloatArena, 'buffers' | 'place'>,
): readonly Dealt[] => {
  const owned = Array.from({ length: threads }, () => slots.map((): readonly number[] => []));
  const holders = slots.map((): number[] => []);
  let turn = 0;
  slots.forEach((layout, slot) => {
    // Of a slot that is visited in parts to no more threads than can be at work: what they make room for is counted.
    const among = Math.min(threads, layout.tilesAtOnce ?? threads);
    const all = tilesOf(layout.features).map(({ index }) => index);
    const dealt = owned.map((): number[] => []);
    for (const index of all) dealt[turn++ % among]!.push(index);
    dealt.forEach((some, thread) => {
      if (some.length === 0) return;
      holders[slot]!.push(thread);
      owned[thread]![slot] = isShared(layout, sizes !== null) ? all : some;
    });
  });
  const common =
    sizes === null
      ? []
      : placePanels(
          arena,
          slots,
          sizes,
          holders.map(({ length }) => length),
        );
  return owned.map((of, thread) => ({
    owned: of,
    common: slots.map((_, slot) => common[slot]?.[holders[slot]!.indexOf(thread)] ?? null),
  }));
};
