// By which entry a direction's sign is settled: its largest in magnitude, made positive.

/** Whichever is larger in magnitude: the peak so far, or the first largest of a row's entries. */
export const largerPeak = (peak: number, row: Float32Array): number => {
  let largest = peak;
  let magnitude = Math.abs(peak);
  for (let i = 0; i < row.length; i++) {
    const value = Math.abs(row[i]!);
    if (value > magnitude) {
      magnitude = value;
      largest = row[i]!;
    }
  }
  return largest;
};
