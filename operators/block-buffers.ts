// Where a group's blocks are read to: buffers that are used again and again, or nowhere, when their weights stay in files.
import type { SlotGroup } from '../sources/reading-plan.ts';
import { closeBlock, type ReadBlock, type WeightBlock } from '../sources/weight-blocks.ts';

/** A block that was read, and when. */
export interface TimedRead {
  readonly read: ReadBlock;
  /** Where its weights are; null where they are in files. */
  readonly buffer: SharedArrayBuffer | null;
  /** When they were there, on the clock of `performance`. */
  readonly ready: number;
  readonly seconds: number;
}

/** What a block holds from before it is read until it is done with. */
export interface HeldBlock {
  readonly buffer: SharedArrayBuffer | null;
  read: ReadBlock | null;
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

  acquire({ inFiles }: SlotGroup): HeldBlock {
    const buffer = inFiles === true ? null : (this.#free.pop() ?? new SharedArrayBuffer(this.#bytes()));
    return { buffer, read: null };
  }

  async read(block: WeightBlock, held: HeldBlock): Promise<TimedRead> {
    const start = performance.now();
    const read = await block.read(held.buffer);
    held.read = read;
    const ready = performance.now();
    return { read, buffer: held.buffer, ready, seconds: (ready - start) / 1e3 };
  }

  release({ buffer, read }: HeldBlock): void {
    if (read !== null) closeBlock(read);
    if (buffer !== null) this.#free.push(buffer);
  }
}
