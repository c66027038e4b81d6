// How float32 matrices stand in tensors: [chunks, rows, chunk width], so that one batched matMul multiplies all chunks, each
// in an accumulator of its own. Besides being what the numbers policy asks for, it keeps tfjs's WebGPU backend away from its
// split-K program, which ignores `transposeB` and adds in no fixed order (it takes one product with K >= 2,000).

/** Features one float32 accumulator takes. */
export const TENSOR_CHUNK = 1024;

/** Of a matrix `width` features wide: narrow ones are one chunk, no wider than needed. */
export const chunkWidth = (width: number): number => Math.min(TENSOR_CHUNK, Math.ceil(width / 4) * 4);

export const chunkCount = (width: number): number => Math.ceil(width / TENSOR_CHUNK);

/** Floats of a matrix's row, with what fills the last chunk. */
export const paddedWidth = (width: number): number => chunkCount(width) * chunkWidth(width);

/** rows x width, row-major, into chunks; zeros fill the last one. */
export const intoChunks = (values: Float32Array, rows: number, width: number): Float32Array => {
  const w = chunkWidth(width);
  const out = new Float32Array(rows * paddedWidth(width));
  for (let c = 0; c * w < width; c++) {
    const columns = Math.min(w, width - c * w);
    for (let i = 0; i < rows; i++) {
      const from = i * width + c * w;
      out.set(values.subarray(from, from + columns), (c * rows + i) * w);
    }
  }
  return out;
};

/** The way back. */
export const outOfChunks = (chunks: Float32Array, rows: number, width: number): Float32Array => {
  const w = chunkWidth(width);
  const out = new Float32Array(rows * width);
  for (let c = 0; c * w < width; c++) {
    const columns = Math.min(w, width - c * w);
    for (let i = 0; i < rows; i++) {
      const from = (c * rows + i) * w;
      out.set(chunks.subarray(from, from + columns), i * width + c * w);
    }
  }
  return out;
};
