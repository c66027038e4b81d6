// Loops over float64 arrays where `map` or a spread would do: those make an object of every number, half of what an update left to be
// collected.

/** A new matrix: row i, `width` numbers, times `factors[i]`. */
export const scaledRows = (a: Float64Array, width: number, factors: Float64Array): Float64Array => {
  const out = new Float64Array(a.length);
  for (let i = 0, at = 0; at < a.length; i++)
    for (const end = Math.min(at + width, a.length); at < end; at++) out[at] = a[at]! * factors[i]!;
  return out;
};

/** All numbers, one array after the other. */
export const joined = (...parts: readonly Float64Array[]): Float64Array => {
  const out = new Float64Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
};

/** Σ of the numbers [from, to). */
export const sumOf = (values: Float64Array, from = 0, to = values.length): number => {
  let sum = 0;
  for (let i = from; i < to; i++) sum += values[i]!;
  return sum;
};

/** Σ of the first `rows` entries on the diagonal of a matrix, side x side. */
export const traceOf = (matrix: Float64Array, side: number, rows = side): number => {
  let trace = 0;
  for (let i = 0; i < rows; i++) trace += matrix[i * side + i]!;
  return trace;
};
