export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** {min, median, max} of the finite values, or null where there are none. */
export function spread(values) {
  const known = values.filter(Number.isFinite);
  return known.length ? { min: Math.min(...known), median: median(known), max: Math.max(...known) } : null;
}

/** The largest relative difference of two lists of singular values. */
export function worstDifference(found, expected) {
  return Math.max(...expected.map((value, i) => Math.abs((found[i] ?? 0) - value) / value));
}
