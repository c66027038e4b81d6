// What a card can do at best, through weightspan's own bindings: copies up from pinned memory, and one large float32 product.
// Prints one JSON object. card-limit.mjs [--quick]
import { CudaCard } from '../dist/operators/devices/cuda-card.js';
import { COPY } from '../dist/operators/devices/cuda-library.js';
import { findCuda } from '../dist/operators/devices/find-cuda.js';
import { generator } from './random.mjs';

const quick = process.argv.includes('--quick');
const BYTES = quick ? 2 ** 20 : 2 ** 28;
const SIDE = quick ? 256 : 8192;

const card = new CudaCard(findCuda(), 'float32');
const { runtime, blas } = card.library;

/** Seconds of the fastest of some rounds, after one that warms up. */
function fastest(work) {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    work();
    card.wait();
    if (i > 0) best = Math.min(best, (performance.now() - start) / 1000);
  }
  return best;
}

const pinned = card.pin(BYTES);
const target = card.allocate(BYTES);
const copy_s = fastest(() => runtime.cudaMemcpyAsync(target, pinned.at, BYTES, COPY.up, card.stream));

const [a, b, c] = [0, 1, 2].map(() => card.allocate(SIDE * SIDE * 4));
// Not zeros: a card may multiply those faster.
const normal = generator(7);
const values = Float32Array.from({ length: SIDE * SIDE }, normal);
for (const matrix of [a, b]) card.copyUp(matrix, SIDE * 4, values, SIDE * 4, SIDE * 4, SIDE);
const [one, zero] = [Float32Array.of(1), Float32Array.of(0)];
const gemm_s = fastest(() =>
  blas.cublasSgemm_v2(card.blas, 0, 0, SIDE, SIDE, SIDE, one, a, SIDE, b, SIDE, zero, c, SIDE),
);
console.log(
  JSON.stringify({
    ...card.facts,
    up_bytes_per_s: BYTES / copy_s,
    gemm_flops_per_s: (2 * SIDE ** 3) / gemm_s,
  }),
);
card.unpin(pinned);
card.close();
