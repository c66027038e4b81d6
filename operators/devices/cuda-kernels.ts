// What cuBLAS has no function for, as CUDA C that NVRTC compiles for the card at hand, once a process: rows as they
// are stored made float32, and products of chunks added up in float64. Parameters are 8 bytes each, pointers and long long.

/** Threads of a block of threads. */
export const CUDA_THREADS = 256;

/** How elements are stored, as the kernel `widen` numbers it. */
export const storedAs = { F32: 0, F64: 1, BF16: 2, F16: 3, F8_E4M3: 4, F8_E5M2: 4 } as const;

export const kernelNames = ['widen', 'add_chunks', 'row_peaks'] as const;

/** Threads that share a row in `row_peaks`. */
export const PEAK_LANES = 64;

/** Kernels as they are in the process's context: any of its threads may launch them. */
export type LoadedKernels = Readonly<Record<(typeof kernelNames)[number], bigint>>;

export const CUDA_KERNELS = `
// Row i of rows x width elements, pitch bytes apart, becomes row i of out, stride floats apart; shift (width floats, or 0) is
// added. 16- and 8-bit floats other than bfloat16 are looked up in the float32 bits that the processor makes of each pattern.
extern "C" __global__ void widen(const unsigned char *raw, long long pitch, long long stored, const unsigned int *table,
                                 float *out, long long stride, const float *shift, long long rows, long long width)
{
  long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= rows * width) return;
  long long row = at / width;
  long long column = at % width;
  const unsigned char *line = raw + row * pitch;
  float x;
  if (stored == 0) x = ((const float *)line)[column];
  else if (stored == 1) x = __double2float_rn(((const double *)line)[column]);
  else if (stored == 2) x = __uint_as_float((unsigned int)((const unsigned short *)line)[column] << 16);
  else if (stored == 3) x = __uint_as_float(table[((const unsigned short *)line)[column]]);
  else x = __uint_as_float(table[line[column]]);
  if (shift != 0) x = __fadd_rn(x, shift[column]);
  out[row * stride + column] = x;
}

// sums[i] += the products of all chunks for cell i, in the order of chunks.
extern "C" __global__ void add_chunks(const float *products, double *sums, long long chunks, long long cells)
{
  long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= cells) return;
  double sum = sums[at];
  for (long long c = 0; c < chunks; c++) sum += (double)products[c * cells + at];
  sums[at] = sum;
}

// Of each row's columns c, c + lanes, c + 2 lanes … the entry of largest magnitude, the first of equals, and its column.
extern "C" __global__ void row_peaks(const float *rows, long long stride, long long width, long long lanes, float *peaks,
                                     int *columns, long long count)
{
  long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= count * lanes) return;
  const float *line = rows + at / lanes * stride;
  float peak = 0;
  long long column = width;
  for (long long c = at % lanes; c < width; c += lanes) {
    float x = line[c];
    if (fabsf(x) > fabsf(peak)) { peak = x; column = c; }
  }
  peaks[at] = peak;
  columns[at] = (int)column;
}
`;
