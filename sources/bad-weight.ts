// Which weights cannot be folded: what is not finite, and what is too large to square and sum in float32. Imported by
// worker threads too, so it imports nothing.

/** Largest magnitude a weight may have: its square and sums of squares stay finite in float32. */
export const LARGEST_WEIGHT = 1e17;

/** Index of the first weight that cannot be folded, or −1. */
export const firstBadWeight = (weights: Float32Array): number =>
  weights.findIndex((weight) => !(Math.abs(weight) <= LARGEST_WEIGHT));

export const badWeightDetail = (index: number, value: number): string =>
  `entry ${index} is ${value}, expected finite weights of magnitude up to 1e17`;
