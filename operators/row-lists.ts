// What lists of rows look like. The same lists serve all panels of a visit, so each is looked at once.

export interface RowExtent {
  /** The smallest of them; infinite where there are none. */
  readonly first: number;
  /** One more than the largest; 0 where there are none. */
  readonly end: number;
  /** Whether there are rows, and each is the one after that before it. */
  readonly areNeighbours: boolean;
}

const known = new WeakMap<readonly number[], RowExtent>();

/** @param rows a list that stays as it is */
export const extentOf = (rows: readonly number[]): RowExtent => {
  let extent = known.get(rows);
  if (extent === undefined) {
    extent = measure(rows);
    known.set(rows, extent);
  }
  return extent;
};

export const areNeighbours = (rows: readonly number[]): boolean => extentOf(rows).areNeighbours;

const measure = (rows: readonly number[]): RowExtent => {
  let [first, end] = [Number.POSITIVE_INFINITY, 0];
  for (const row of rows) {
    first = Math.min(first, row);
    end = Math.max(end, row + 1);
  }
  return { first, end, areNeighbours: rows.length > 0 && rows.every((row, i) => row === rows[0]! + i) };
};
