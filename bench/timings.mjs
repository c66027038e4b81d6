// What timings.parquet says of a run: whose the wall time was.
import { join } from 'node:path';
import { readTable } from '../examples/read-table.mjs';

const PARTS = ['seconds', 'bytes', 'read_s', 'wait_s', 'widen_s', 'gram_s', 'mix_s', 'write_s'];

/** One object a block, with numbers only, and `models`: how many were folded in it. */
export async function readTimings(run) {
  const rows = await readTable(join(run, 'timings.parquet'));
  let before = 0;
  return rows.map((row) => {
    const numbers = Object.fromEntries(Object.entries(row).map(([name, value]) => [name, Number(value)]));
    const models = numbers.models_seen - (numbers.block === 0 ? 0 : before);
    before = numbers.models_seen;
    return { ...numbers, models };
  });
}

/** The sums of all blocks. */
export function sumTimings(rows) {
  return Object.fromEntries(PARTS.map((part) => [part, rows.reduce((sum, row) => sum + row[part], 0)]));
}

/**
 * Shares of `wall` seconds, from the first read to the last table: waiting for files, reading by the threads and work on
 * tiles as if it were spread evenly over them (of runs whose weights stay in files), basis and mean files. What is left is
 * small algebra, messages, uneven threads, opening tiles, and tables; nothing, where reading past the page cache or writing
 * overlap the rest.
 */
export function sharesOf(rows, threads, wall) {
  const { read_s, wait_s, widen_s, gram_s, mix_s, write_s } = sumTimings(rows);
  const shares = {
    wait: wait_s / wall,
    read: read_s / threads / wall,
    widen: widen_s / threads / wall,
    gram: gram_s / threads / wall,
    mix: mix_s / threads / wall,
    write: write_s / wall,
  };
  const rest = 1 - Object.values(shares).reduce((sum, share) => sum + share, 0);
  return { ...shares, rest: Math.max(0, rest) };
}

export const percent = (share) => `${(share * 100).toFixed(0)}%`;
