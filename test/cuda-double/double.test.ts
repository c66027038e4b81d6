// The double itself: that it ends a process that uses CUDA wrongly, and that it does nothing sooner than it must.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cudaDouble } from './build.ts';

const koffi = createRequire(import.meta.url).resolve('koffi');

/** Runs lines of JavaScript that call the double as `f('int name(…)')(…)`; `cell()` is what a pointer is written into. */
const attempt = (lines: string) => {
  const script = `
    const koffi = require(${JSON.stringify(koffi)});
    const library = koffi.load(${JSON.stringify(join(cudaDouble!, 'libcudart.so.12'))});
    const f = (signature) => library.func(signature);
    const made = (call) => { const cell = new BigUint64Array(1); if (call(cell) !== 0) throw new Error('failed'); return cell[0]; };
    const malloc = (bytes) => made((cell) => f('int cudaMalloc(void *p, size_t n)')(cell, bytes));
    const mallocOn = (s, bytes) => made((cell) => f('int cudaMallocAsync(void *p, size_t n, uint64_t s)')(cell, bytes, s));
    const freeOn = f('int cudaFreeAsync(uint64_t p, uint64_t s)');
    const sync = f('int cudaStreamSynchronize(uint64_t s)');
    const pinned = (bytes) => made((cell) => f('int cudaHostAlloc(void *p, size_t n, unsigned int flags)')(cell, bytes, 0));
    const stream = () => made((cell) => f('int cudaStreamCreateWithFlags(void *s, unsigned int flags)')(cell, 1));
    const copy = f('int cudaMemcpyAsync(uint64_t to, uint64_t from, size_t n, int kind, uint64_t s)');
    const down = f('int cudaMemcpy2DAsync(void *to, size_t tp, uint64_t from, size_t fp, size_t w, size_t h, int kind, uint64_t s)');
    const free = f('int cudaFree(uint64_t p)');
    const gemm = f('int cublasSgemm_v2(uint64_t h, int ta, int tb, int m, int n, int k, const float *x, uint64_t a, int lda, uint64_t b, int ldb, const float *y, uint64_t c, int ldc)');
    const handle = () => made((cell) => f('int cublasCreate_v2(void *h)')(cell));
    const setStream = f('int cublasSetStream_v2(uint64_t h, uint64_t s)');
    const setWorkspace = f('int cublasSetWorkspace_v2(uint64_t h, uint64_t p, size_t n)');
    const one = Float32Array.of(1), zero = Float32Array.of(0);
    ${lines}
  `;
  return spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
};

describe.skipIf(cudaDouble === null)('the double of a card', () => {
  it.each([
    [
      'a copy beyond its target',
      'copy(malloc(100), pinned(200), 101, 1, stream());',
      /cudaMemcpyAsync: target: 101 bytes do not lie/,
    ],
    [
      'a copy from memory that was freed',
      'const p = malloc(100); free(p); copy(malloc(100), p, 10, 3, stream());',
      /source: 10 bytes do not lie/,
    ],
    [
      'a copy on another stream into memory that its own has not come to',
      'const s = stream(), u = stream(); copy(mallocOn(s, 100), pinned(100), 100, 1, u); sync(u);',
      /memory that its own stream has not come to/,
    ],
    [
      'a copy into memory that was given back to the pool',
      'const s = stream(), p = mallocOn(s, 100); freeOn(p, s); copy(p, pinned(100), 100, 1, s);',
      /target: 100 bytes do not lie/,
    ],
    ['the default stream', 'copy(malloc(100), pinned(100), 100, 1, 0n);', /not one \(the default stream is not used\)/],
    [
      'memory freed twice',
      'const p = malloc(100); free(p); free(p);',
      /cudaFree: memory that was not allocated, or is freed already/,
    ],
    [
      'a product without a workspace',
      'const h = handle(); setStream(h, stream()); const p = malloc(4); gemm(h, 0, 0, 1, 1, 1, one, p, 1, p, 1, zero, p, 1);',
      /no workspace was set/,
    ],
    [
      'a stream set after the workspace',
      'const h = handle(); const w = malloc(64); setStream(h, stream()); setWorkspace(h, w, 64); setStream(h, stream()); const p = malloc(4); gemm(h, 0, 0, 1, 1, 1, one, p, 1, p, 1, zero, p, 1);',
      /no workspace was set/,
    ],
    [
      'a leading dimension that is too small',
      'const h = handle(); setStream(h, stream()); setWorkspace(h, malloc(64), 64); const p = malloc(400); gemm(h, 0, 0, 3, 1, 1, one, p, 2, p, 1, zero, p, 3);',
      /A: leading dimension 2 below 3/,
    ],
    [
      'an operand beyond its allocation',
      'const h = handle(); setStream(h, stream()); setWorkspace(h, malloc(64), 64); const p = malloc(400); gemm(h, 0, 0, 10, 1, 11, one, p, 10, p, 11, zero, p, 10);',
      /A: 440 bytes do not lie in one allocation/,
    ],
  ])('ends the process: %s', (_what, lines, text) => {
    const { signal, stderr } = attempt(lines);
    expect(stderr).toMatch(text);
    expect(signal).toBe('SIGABRT');
  });

  it('takes pinned memory as it is when a copy is done, which is when somebody waits for it', () => {
    const { stdout, stderr } = attempt(`
      const [p, d, s] = [pinned(4), malloc(4), stream()];
      const view = new Int32Array(koffi.view(p, 4));
      const wait = f('int cudaStreamSynchronize(uint64_t s)');
      const read = () => { const out = new Int32Array(1); down(out, 4, d, 4, 4, 1, 2, s); return out[0]; };
      view[0] = 1;
      copy(d, p, 4, 1, s);
      view[0] = 2;
      const early = read();
      copy(d, p, 4, 1, s);
      wait(s);
      view[0] = 3;
      console.log(early, read());
    `);
    expect([stdout.trim(), stderr]).toEqual(['2 2', '']);
  });

  it('lets one stream run ahead of another but where an event holds it', () => {
    const { stdout, stderr } = attempt(`
      const [p, d, up, work] = [pinned(4), malloc(4), stream(), stream()];
      new Int32Array(koffi.view(p, 4))[0] = 7;
      const event = made((cell) => f('int cudaEventCreateWithFlags(void *e, unsigned int flags)')(cell, 2));
      const read = () => { const out = new Int32Array(1); down(out, 4, d, 4, 4, 1, 2, work); return out[0]; };
      copy(d, p, 4, 1, up);
      f('int cudaEventRecord(uint64_t e, uint64_t s)')(event, up);
      const ahead = read();
      f('int cudaStreamWaitEvent(uint64_t s, uint64_t e, unsigned int flags)')(work, event, 0);
      console.log(ahead, read());
    `);
    // Fresh memory is full of ones.
    expect([stdout.trim(), stderr]).toEqual(['-1 7', '']);
  });
});
