// One thread's work on the stacked factors of adapters; what the tasks mean stands in factor-tasks.ts. Long products are the
// device's, float32 in chunks; what is as wide as one adapter's rank is float64 throughout.
import { addSquares } from './devices/blas-device.ts';
import type { Device, Samples } from './devices/device.ts';
import { type StackedFactors, stackSamples, vectorStride } from './factor-stack.ts';
import type {
  FactorAnswers,
  FactorCoreTask,
  FactorEnergyTask,
  FactorTask,
  MeanAlongTask,
  MeanInnerTask,
  OuterTask,
  PairsTask,
  RootsTask,
  StackedRun,
} from './factor-tasks.ts';
import { type Extent, widthOf } from './linalg/packed-blocks.ts';

export const performFactorTask = (device: Device, task: FactorTask): FactorAnswers[FactorTask['kind']] => {
  switch (task.kind) {
    case 'pairs':
      return pairs(device, task);
    case 'outer':
      return outer(device, task);
    case 'roots':
      return roots(device, task);
    case 'mean-inner':
      return meanInner(device, task);
    case 'factor-energy':
      return factorEnergies(device, task);
    case 'factor-core':
      return factorCores(device, task);
    case 'mean-along':
      return meanAlong(device, task);
  }
};

const pairs = (device: Device, { a, b, rows, columns, same }: PairsTask): Float64Array => {
  const [ofRows, ofColumns] = [extentOf(rows), extentOf(columns)];
  const n = widthOf(ofColumns);
  const products = (side: 'left' | 'right'): Float64Array => {
    const out = new Float64Array(widthOf(ofRows) * n);
    const samples = stackSamples(a, side, 'columns');
    if (same) device.addScatter(samples, { index: 0, rows: ofRows, columns: ofRows, offset: 0 }, out);
    else device.addCross(samples, ofRows, stackSamples(b, side, 'columns'), ofColumns, out);
    return out;
  };
  const sums = new Float64Array(rows.ranks.length * columns.ranks.length);
  if (sums.length === 0 || widthOf(ofRows) === 0 || n === 0) return sums;
  const [left, right] = [products('left'), products('right')];
  let row = 0;
  rows.ranks.forEach((p, i) => {
    let column = 0;
    columns.ranks.forEach((q, j) => {
      let sum = 0;
      for (let s = row; s < row + p; s++) {
        // Of products of a run with itself the upper triangle alone is there; an adapter's own ones are symmetric.
        const own = same && i === j;
        const first = own ? s + 1 : column;
        let line = 0;
        for (let t = first; t < column + q; t++) line += left[s * n + t]! * right[s * n + t]!;
        sum += own ? 2 * line + left[s * n + s]! * right[s * n + s]! : line;
      }
      if (!same || j >= i) sums[i * columns.ranks.length + j] = sum;
      column += q;
    });
    row += p;
  });
  return sums;
};

const outer = (device: Device, { stack, rows, columns, sum, offset }: OuterTask): null => {
  const out = new Float64Array(sum, offset * 8, widthOf(rows) * widthOf(columns));
  device.addCross(stackSamples(stack, 'left', 'rows'), rows, stackSamples(stack, 'right', 'rows'), columns, out);
  return null;
};

const roots = (device: Device, { stack, run, modes }: RootsTask): Float64Array => {
  const norms2 = new Float64Array(run.ranks.length);
  eachAdapter(run, (i, at, r) => {
    const [left, right] = [vectors(stack, 'left', at, r), vectors(stack, 'right', at, r)];
    const [ofLeft, ofRight] = [ownProducts(device, left, r), ownProducts(device, right, r)];
    norms2[i] = ofLeft.reduce((sum, value, c) => sum + value * ofRight[c]!, 0);
    // What is no number has no roots: its norm tells of it.
    if (r === 0 || !Number.isFinite(norms2[i])) return;
    if (modes.includes('rows')) store(rooted(device, ofLeft, right, r), stack, 'right', at, r);
    if (modes.includes('cols')) store(rooted(device, ofRight, left, r), stack, 'left', at, r);
  });
  return norms2;
};

/** Λ^½ Qᵀ X with G = Q Λ Qᵀ: its products are Xᵀ G X. By eigenvectors, so that a singular G does no harm. */
const rooted = (device: Device, gram: Float64Array, x: Float64Array, r: number): Float64Array => {
  const { values, vectors: q } = device.solve(gram, r);
  const root = q.map((value, at) => value * Math.sqrt(Math.max(values[Math.floor(at / r)]!, 0)));
  const length = x.length / r;
  const out = new Float64Array(x.length);
  device.multiplyDouble({ a: false, b: false }, { m: r, n: length, k: r }, root, r, x, length, out, length);
  return out;
};

const ownProducts = (device: Device, x: Float64Array, r: number): Float64Array => {
  const length = x.length / r;
  const out = new Float64Array(r * r);
  device.multiplyDouble({ a: false, b: true }, { m: r, n: r, k: length }, x, length, x, length, out, r);
  return out;
};

const meanInner = (device: Device, { stack, vectors: some, mean, rows }: MeanInnerTask): Float64Array => {
  const [m, n] = [widthOf(some), widthOf(rows)];
  const products = new Float64Array(m * n);
  const right = stackSamples(stack, 'right', 'columns');
  device.addCross(right, some, meanSamples(stack, mean, 'columns'), rows, products);
  const { values, stride } = stackSamples(stack, 'left', 'columns');
  return Float64Array.from({ length: m }, (_, a) => {
    let sum = 0;
    const at = (some.from + a) * stride + rows.from;
    for (let p = 0; p < n; p++) sum += values[at + p]! * products[a * n + p]!;
    return sum;
  });
};

const factorEnergies = (device: Device, task: FactorEnergyTask): Float64Array => {
  const { stack, run, mode, rank: k } = task;
  const directions = Float64Array.from(new Float32Array(task.directions));
  const [seen, made] = mode === 'rows' ? (['right', 'left'] as const) : (['left', 'right'] as const);
  const side = directions.length / k;
  const samples = mode === 'rows' ? stack.rows : stack.cols;
  const along = task.meanAlong === null ? null : new Float64Array(task.meanAlong);
  const energies = new Float64Array(run.ranks.length * k);
  const y = new Float64Array(k * samples);
  eachAdapter(run, (i, at, r) => {
    if (along === null) y.fill(0);
    else for (let s = 0; s < y.length; s++) y[s] = -along[s]!;
    if (r > 0) {
      // (ΔW − M) v = L (R v) − M v.
      const inner = new Float64Array(r * k);
      const x = vectors(stack, seen, at, r);
      device.multiplyDouble({ a: false, b: true }, { m: r, n: k, k: side }, x, side, directions, side, inner, k);
      const back = vectors(stack, made, at, r);
      device.multiplyDouble({ a: true, b: false }, { m: k, n: samples, k: r }, inner, k, back, samples, y, samples);
    }
    addSquares(y, k, samples, energies.subarray(i * k, (i + 1) * k));
  });
  return energies;
};

const factorCores = (device: Device, { stack, run, rows, cols }: FactorCoreTask): Float64Array => {
  const [ofRows, ofCols] = [rows, cols].map(({ values }) => Float64Array.from(new Float32Array(values)));
  const cores = new Float64Array(run.ranks.length * rows.rank * cols.rank);
  eachAdapter(run, (i, at, r) => {
    if (r === 0) return;
    // U_r (L R)ᵀ U_cᵀ = (R U_rᵀ)ᵀ (Lᵀ U_cᵀ), r vectors each.
    const alongDirections = (side: 'left' | 'right', directions: Float64Array, k: number): Float64Array => {
      const x = vectors(stack, side, at, r);
      const length = x.length / r;
      const out = new Float64Array(r * k);
      device.multiplyDouble({ a: false, b: true }, { m: r, n: k, k: length }, x, length, directions, length, out, k);
      return out;
    };
    const right = alongDirections('right', ofRows!, rows.rank);
    const left = alongDirections('left', ofCols!, cols.rank);
    const core = cores.subarray(i * rows.rank * cols.rank, (i + 1) * rows.rank * cols.rank);
    const size = { m: rows.rank, n: cols.rank, k: r };
    device.multiplyDouble({ a: true, b: false }, size, right, rows.rank, left, cols.rank, core, cols.rank);
  });
  return cores;
};

const meanAlong = (device: Device, task: MeanAlongTask): null => {
  const { rows, cols, mean, mode, rank: k, samples } = task;
  const stand = mode === 'rows' ? 'columns' : 'rows';
  const side = mode === 'rows' ? cols : rows;
  const given = new Float32Array(task.directions);
  const directions: Samples =
    stand === 'columns'
      ? { values: given, stride: side, stand, side: k, count: side }
      : { values: transposed(given, k, side), stride: k, stand, side: k, count: side };
  const width = widthOf(samples);
  const products = new Float64Array(k * width);
  device.addCross(directions, { from: 0, to: k }, meanSamples({ rows, cols }, mean, stand), samples, products);
  const out = new Float64Array(task.meanAlong);
  const all = out.length / k;
  for (let j = 0; j < k; j++) out.set(products.subarray(j * width, (j + 1) * width), j * all + samples.from);
  return null;
};

const meanSamples = (
  { rows, cols }: Pick<StackedFactors, 'rows' | 'cols'>,
  mean: SharedArrayBuffer,
  stand: Samples['stand'],
): Samples => ({
  values: new Float32Array(mean),
  stride: vectorStride(cols),
  stand,
  side: stand === 'columns' ? rows : cols,
  count: stand === 'columns' ? cols : rows,
});

const transposed = (matrix: Float32Array, rows: number, cols: number): Float32Array => {
  const out = new Float32Array(matrix.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[j * rows + i] = matrix[i * cols + j]!;
  return out;
};

const extentOf = ({ at, ranks }: StackedRun): Extent => ({ from: at, to: at + ranks.reduce((a, b) => a + b, 0) });

const eachAdapter = ({ at, ranks }: StackedRun, use: (i: number, at: number, rank: number) => void): void => {
  let next = at;
  ranks.forEach((rank, i) => {
    use(i, next, rank);
    next += rank;
  });
};

/** r vectors of a side in float64, without their padding. */
const vectors = (stack: StackedFactors, side: 'left' | 'right', at: number, r: number): Float64Array => {
  const length = side === 'left' ? stack.rows : stack.cols;
  const { values, stride } = stackSamples(stack, side, 'columns');
  const out = new Float64Array(r * length);
  for (let a = 0; a < r; a++) out.set(values.subarray((at + a) * stride, (at + a) * stride + length), a * length);
  return out;
};

const store = (x: Float64Array, stack: StackedFactors, side: 'left' | 'right', at: number, r: number): void => {
  const length = x.length / r;
  const { values, stride } = stackSamples(stack, side, 'columns');
  for (let a = 0; a < r; a++) values.set(x.subarray(a * length, (a + 1) * length), (at + a) * stride);
};
