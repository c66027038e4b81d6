// Where a group's blocks are read to: buffers that are used again and again, or nowhere, when their weights stay in files and
// come through the page cache.
import type { SlotGroup } from '../sources/reading-plan.ts';
import { closeBlock, type ReadBlock, type WeightBlock } from '../sources/weight-blocks.ts';

/** A block that was read, and when. */
export interface TimedRead {
  readonly read: ReadBlock;
  /** Where its weights are, or what of them was fetched; null where they are in files alone. */
  readonly buffer: SharedArrayBuffer | null;
  /** When they were there, on the clock of `performance`. */
  readonly ready: number;
  readonly seconds: number;
  /** Settles when no thread looks at it any more; null until somebody uses it. */
  using: Promise<unknown> | null;
}

/** What a block holds from before it is read until it is done with. */
export interface HeldBlock {
  readonly buffer: SharedArrayBuffer | null;
  timed: TimedRead | null;
}

export class BlockBuffers {
  readonly #free: SharedArrayBuffer[] = [];
  readonly #bytes: () => number;

  /** @param bytes what any block can need; asked for once, and not before a buffer is */
  constructor(bytes: () => number) {
    let known: number | undefined;
    this.#bytes = () => {
      known ??= bytes();
      return known;
    };
  }

  acquire({ inFiles, standby }: SlotGroup): HeldBlock {
    const buffer =
      inFiles === true && standby === undefined ? null : (this.#free.pop() ?? new SharedArrayBuffer(this.#bytes()));
    return { buffer, timed: null };
  }

  async read(block: WeightBlock, held: HeldBlock): Promise<TimedRead> {
    const start = performance.now();
    const read = await block.read(held.buffer);
    const ready = performance.now();
    held.timed = { read, buffer: held.buffer, ready, seconds: (ready - start) / 1e3, using: null };
    return held.timed;
  }

  /** A stream that fails gives blocks back while they are in use: their files are closed when that has ended. */
  release({ buffer, timed }: HeldBlock): void {
    if (timed !== null) {
      const close = (): void => closeBlock(timed.read);
      if (timed.using === null) close();
      else void timed.using.then(close, close);
    }
    if (buffer !== null) this.#free.push(buffer);
  }
}
