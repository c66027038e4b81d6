// What threads spend on tiles, by kind of work. Each counts where the others can look, so that nobody need be asked.

/** Seconds of work by kind, summed over threads. */
export interface TileTimings {
  /** Of weights that were left in their files. */
  readonly read: number;
  readonly widen: number;
  readonly gram: number;
  readonly mix: number;
}

/** Milliseconds of a thread's work by kind, in the order of `KINDS`: whoever else wants to know looks at them as they grow. */
export type TimeSpent = Float64Array;

export const KINDS = ['read', 'widen', 'gram', 'mix'] as const;

export const newTimeSpent = (): TimeSpent => new Float64Array(new SharedArrayBuffer(KINDS.length * 8));

/** Tells what has been spent since it was asked last, summed over threads. */
export const timingsOf = (threads: readonly TimeSpent[]): (() => TileTimings) => {
  let known = KINDS.map(() => 0);
  return () => {
    const now = KINDS.map((_, i) => threads.reduce((sum, spent) => sum + spent[i]!, 0));
    const [read, widen, gram, mix] = now.map((ms, i) => (ms - known[i]!) / 1e3);
    known = now;
    return { read: read!, widen: widen!, gram: gram!, mix: mix! };
  };
};
