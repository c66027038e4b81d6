// What threads spend on tiles, by kind of work. Each counts where the others can look, so that nobody need be asked.

/** Seconds of work by kind, summed over threads. */
export interface TileTimings {
  /** Of weights that were left in their files. */
  readonly read: number;
  readonly widen: number;
  readonly gram: number;
  readonly mix: number;
}

/** Blocks take turns, since their visits may begin before the last block is told. All other work is of turn 0. */
export type Turn = 0 | 1 | 2;
const TURNS: readonly Turn[] = [0, 1, 2];

/**
 * Milliseconds of a thread's work by kind, in the order of `KINDS`, turn after turn: whoever else wants to know looks at them
 * as they grow.
 */
export type TimeSpent = Float64Array;

export const KINDS = ['read', 'widen', 'gram', 'mix'] as const;

export const newTimeSpent = (): TimeSpent => new Float64Array(new SharedArrayBuffer(TURNS.length * KINDS.length * 8));

/** Tells what has been spent in a turn and outside of all, or in any, since it was asked last, summed over threads. */
export const timingsOf = (threads: readonly TimeSpent[]): ((turn?: Turn) => TileTimings) => {
  const known = newTimeSpent();
  const take = (kind: number, turn: Turn): number => {
    const at = turn * KINDS.length + kind;
    const before = known[at]!;
    known[at] = threads.reduce((sum, spent) => sum + spent[at]!, 0);
    return (known[at] - before) / 1e3;
  };
  return (turn) => {
    const turns = TURNS.filter((one) => turn === undefined || one === 0 || one === turn);
    const [read, widen, gram, mix] = KINDS.map((_, kind) =>
      turns.reduce<number>((sum, one) => sum + take(kind, one), 0),
    );
    return { read: read!, widen: widen!, gram: gram!, mix: mix! };
  };
};
