// Some weights of ΔW = left · right, out of the factors: what widening is for stored weights. Plain JavaScript, four rows of
// `right` at a time: about 1 ns a product and weight. A device with a faster product brings its own.
import type { AdapterFactors } from './adapter-factors.ts';

/** Parts of a range of the flattened rows x cols matrix: one row's part, or whole rows. */
export const eachRectangle = (
  cols: number,
  from: number,
  length: number,
  use: (row: number, rows: number, col: number, width: number, at: number) => void,
): void => {
  const end = from + length;
  for (let at = from; at < end; ) {
    const row = Math.floor(at / cols);
    const col = at - row * cols;
    const whole = col === 0 ? Math.floor((end - at) / cols) : 0;
    const width = whole > 0 ? cols : Math.min(cols - col, end - at);
    use(row, Math.max(whole, 1), col, width, at - from);
    at += Math.max(whole, 1) * width;
  }
};

/** Weights [from, from + out.length) of the flattened ΔW. */
export const decodeDelta = ({ cols, rank, left, right }: AdapterFactors, from: number, out: Float32Array): void => {
  eachRectangle(cols, from, out.length, (first, rows, col, width, at) => {
    for (let i = 0; i < rows; i++) {
      const row = (first + i) * rank;
      const target = out.subarray(at + i * width, at + (i + 1) * width);
      target.fill(0);
      let j = 0;
      for (; j + 4 <= rank; j += 4) {
        const a = left[row + j]!;
        const b = left[row + j + 1]!;
        const c = left[row + j + 2]!;
        const d = left[row + j + 3]!;
        const p = j * cols + col;
        for (let x = 0; x < width; x++) {
          target[x] =
            target[x]! +
            a * right[p + x]! +
            b * right[p + cols + x]! +
            (c * right[p + 2 * cols + x]! + d * right[p + 3 * cols + x]!);
        }
      }
      for (; j < rank; j++) {
        const a = left[row + j]!;
        const p = j * cols + col;
        for (let x = 0; x < width; x++) target[x] = target[x]! + a * right[p + x]!;
      }
    }
  });
};
