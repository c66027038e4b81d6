// When a slot counts as settled: the largest principal angle of its first four directions stayed below 5° in every block
// over the last tenth of the models, and in at least three blocks. A slot with fewer than four directions has no such
// angle and never counts as settled.

export const SETTLED_DEGREES = 5;
export const SETTLED_SHARE = 0.1;
export const SETTLED_BLOCKS = 3;

export const SETTLED_TEXT =
  'settled: the largest principal angle between the first 4 directions before and after a block stayed below 5° over the last tenth of the models, and in at least three blocks';

export interface Calm {
  /** Blocks in a row below the limit. */
  readonly blocks: number;
  /** Models seen at the last block that was not. */
  readonly lastMoved: number;
}

export const restless: Calm = { blocks: 0, lastMoved: 0 };

/** @param drift degrees; null where there is no angle */
export const calmAfter = (calm: Calm, modelsSeen: number, drift: number | null): Calm =>
  drift !== null && drift < SETTLED_DEGREES
    ? { blocks: calm.blocks + 1, lastMoved: calm.lastMoved }
    : { blocks: 0, lastMoved: modelsSeen };

export const isSettled = ({ blocks, lastMoved }: Calm, modelsSeen: number): boolean =>
  blocks >= SETTLED_BLOCKS && lastMoved <= (1 - SETTLED_SHARE) * modelsSeen;
