// The GPU's kernels against float64, and what tfjs and Dawn get wrong when nobody looks: products with a split-K that ignores
// the transpose and adds in any order, zeros instead of an allocation over the limit, small work done by the processor, one
// float32 accumulator over a long product, a process that ends before its GPU.
// Tolerances: a product of 4,096 float32 pairs in chunks of 1,024 is good to 6e-7 of the Gram matrix's diagonal (split-K with
// the transpose ignored is off by 1); what only moves bits is exact.
import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { isWorthIt } from '../../operators/devices/find-gpu.ts';
import { intoChunks, outOfChunks } from '../../operators/devices/tensor-chunks.ts';
import { bytesPerElement, widen } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import type { StoredRows } from '../../sources/weight-rows.ts';
import { hasSoftwareAdapter, softwareAdapter } from '../software-adapter.ts';
import { openGpu } from './devices.ts';
import { normals } from './planted.ts';

const stored = (dtype: Dtype, rows: readonly Uint8Array[]): StoredRows => ({
  kind: 'stored',
  dtype,
  width: rows[0]!.length / bytesPerElement(dtype),
  models: Int32Array.from(rows.keys()),
  bytes: Buffer.concat(rows),
  stride: rows[0]!.length,
});

const matrixOf = (rows: number, width: number, seed: number): Float32Array => {
  const normal = normals(seed);
  return Float32Array.from({ length: rows * width }, () => normal());
};

const dot = (x: Float32Array, i: number, j: number, width: number): number => {
  let sum = 0;
  for (let k = 0; k < width; k++) sum += x[i * width + k]! * x[j * width + k]!;
  return sum;
};

it.each([1, 3, 4, 1023, 1024, 1025, 5000])('chunks of %d features hold them all', (width) => {
  const rows = matrixOf(3, width, width);
  expect(outOfChunks(intoChunks(rows, 3, width), 3, width)).toEqual(rows);
});

it.each([
  ['a real one, faster than all threads', false, 1, 10, 4, true],
  ['one that is no faster than the threads together', false, 3, 10, 4, false],
  ['software, however fast', true, 1, 1000, 1, false],
] as const)('a GPU is taken unasked or not: %s', (_, isSoftware, gpu, processor, threads, expected) => {
  expect(isWorthIt({ isSoftware }, { gpu, processor }, threads)).toBe(expected);
});

/** A program on the built device in a process of its own. */
const inProcess = (body: string, env: Record<string, string> = {}): Promise<{ code: number; out: string }> => {
  const spec = pathToFileURL(resolve('dist/operators/devices/device-spec.js')).href;
  const program = `
    const { findDevice, openDevice } = await import('${spec}');
    const device = await openDevice((await findDevice('tfjs:webgpu')).spec);
    const matrix = device.allocate(20, 4096);
    device.write(matrix, 0, new Float32Array(20 * 4096).fill(0.5));
    ${body}`;
  return new Promise((done) => {
    const child = execFile(
      process.execPath,
      ['--input-type=module', '--eval', program],
      { env: { ...process.env, ...softwareAdapter, ...env } },
      (_, out, err) => done({ code: child.exitCode ?? -1, out: out + err }),
    );
  });
};

describe.runIf(hasSoftwareAdapter)('kernels', { timeout: 180_000 }, () => {
  it.each(['F32', 'BF16', 'F16', 'F8_E4M3', 'F8_E5M2', 'F64'] as const)(
    'widens every pattern of %s as the processor does, odd widths too',
    async (dtype) => {
      const device = await openGpu();
      const size = bytesPerElement(dtype);
      for (const width of [1, 7, 1500]) {
        const rows = Array.from({ length: 46 }, (_, row) =>
          Uint8Array.from({ length: width * size }, (_, i) => {
            // All 65,536 patterns of two bytes in turn, and something of everything else.
            const at = row * width + Math.floor(i / size);
            return i % size === 0 ? at & 0xff : (at >> 8) & 0xff;
          }),
        );
        const matrix = device.allocate(rows.length, width);
        const places = rows.map((_, i) => i);
        device.widen([{ batch: stored(dtype, rows), rows: places, at: places }], 0, matrix, null);
        const found = device.read(matrix, 0, rows.length);
        const expected = new Float32Array(width);
        rows.forEach((bytes, i) => {
          widen(dtype, bytes, expected);
          const bits = (x: Float32Array) => new Uint32Array(x.slice().buffer);
          expect(bits(found.subarray(i * width, (i + 1) * width))).toEqual(bits(expected));
        });
        device.free(matrix);
      }
    },
  );

  // K = 4,096 with K % 4 = 0 and n % 4 = 0, in one matrix, is where split-K is chosen and ignores transposeB.
  it('multiplies with the transpose where tfjs would not, and gives the same bits again', async () => {
    const device = await openGpu();
    const [rows, width] = [20, 4096];
    const x = matrixOf(rows, width, 5);
    const matrix = device.allocate(rows, width);
    device.write(matrix, 0, x);
    const grams = [0, 1, 2].map(() => {
      const out = new Float64Array(rows * 8);
      device.gram(matrix, 0, rows, 12, 8, out);
      device.settle();
      return out;
    });
    grams[0]!.forEach((value, at) => {
      const truth = dot(x, Math.floor(at / 8), 12 + (at % 8), width);
      expect(Math.abs(value - truth) / width).toBeLessThan(6e-7);
    });
    expect(grams[1]).toEqual(grams[0]);
    expect(grams[2]).toEqual(grams[0]);
    device.free(matrix);
  });

  it('mixes thousands of rows, where split-K would add in any order', async () => {
    const device = await openGpu();
    const [rows, width, m] = [2400, 8, 4];
    const x = matrixOf(rows, width, 7);
    const [matrix, out] = [device.allocate(rows, width), device.allocate(rows, width)];
    device.write(matrix, 0, x);
    const p = Float64Array.from(matrixOf(m, rows, 9));
    const mixed = [0, 1].map(() => {
      device.combine(p, m, matrix, 0, rows, out, 0);
      return device.read(out, 0, m).slice();
    });
    expect(mixed[1]).toEqual(mixed[0]);
    for (let j = 0; j < m; j++) {
      for (let i = 0; i < width; i++) {
        let truth = 0;
        for (let r = 0; r < rows; r++) truth += p[j * rows + r]! * x[r * width + i]!;
        expect(Math.abs(mixed[0]![j * width + i]! - truth) / Math.sqrt(rows)).toBeLessThan(2e-6);
      }
    }
    device.free(matrix);
    device.free(out);
  });

  // One float32 accumulator over 65,536 products of like sign is 1e-5 off, with a bias; chunks keep it at that of a chunk.
  it('sums long products in float64, chunk by chunk, whatever the panel', async () => {
    const device = await openGpu();
    const width = 16_384;
    const x = matrixOf(2, width, 11).map((value) => 1 + 0.1 * value);
    const out = new Float64Array(4);
    for (let panel = 0; panel < 4; panel++) {
      const matrix = device.allocate(2, width);
      device.write(matrix, 0, x);
      device.gramOfAll(matrix, 2, out);
      device.settle();
      device.free(matrix);
    }
    expect(Math.abs(out[1]! / (4 * dot(x, 0, 1, width)) - 1)).toBeLessThan(3e-7);
  });

  it('gives back every tensor and byte', async () => {
    const device = await openGpu();
    const before = device.memory();
    const [a, b] = [device.allocate(30, 3000), device.allocate(30, 3000)];
    device.write(a, 0, matrixOf(20, 3000, 1));
    const p = new Float64Array(5 * 20).fill(0.1);
    const visit = (): void => {
      const batch = stored('BF16', [new Uint8Array(6000), new Uint8Array(6000)]);
      device.widen([{ batch, rows: [0, 1], at: [20, 21] }], 0, a, 1);
      device.gram(a, 0, 22, 20, 2, new Float64Array(44));
      device.combine(p, 5, a, 0, 20, b, 0);
    };
    // What tfjs has dropped is given up when it submits.
    const settledMemory = () => {
      device.read(b, 0, 1);
      return device.memory();
    };
    visit();
    const settled = settledMemory();
    for (let i = 0; i < 3; i++) visit();
    expect({ ...settledMemory(), gpuBytesKept: 0 }).toEqual({ ...settled, gpuBytesKept: 0 });
    device.free(a);
    device.free(b);
    // Mixing weights of the freed matrices are gone too.
    expect(device.memory()).toEqual({ ...before, gpuBytesKept: expect.any(Number) });
  });

  it('never takes an allocation over the limit for zeros', async () => {
    const { code, out } = await inProcess(`
      const rows = 300_000;
      const huge = device.allocate(rows, 4096);
      device.combine(new Float64Array(rows).fill(1), rows, matrix, 0, 1, huge, 0);
      try {
        console.log('read', device.read(huge, 0, 1)[0]);
      } catch (error) {
        console.log(error._tag, error.reason);
      }
      await device.close();`);
    expect(out).toMatch(/^DeviceFailed (invalid|out-of-memory)$/m);
    expect(code, out).toBe(0);
  });

  it('does not go on by the processor where the GPU is lost', async () => {
    const fault = { NODE_OPTIONS: `--import ${resolve('test/gpu-faults.mjs')}`, GPU_FAULT: 'lost:2' };
    const { out } = await inProcess(
      `for (let i = 0; i < 3; i++) {
        try {
          console.log(device.read(matrix, 0, 1)[0]);
        } catch (error) {
          console.log(error._tag, error.reason);
        }
      }
      await device.close();`,
      fault,
    );
    expect(out).toBe('0.5\nDeviceFailed lost\nDeviceFailed lost\n');
  });

  it.each([
    ['exits', 'process.exit(3);', 3],
    ['ends by itself', '', 0],
    ['throws', "throw new Error('a test');", 1],
    ['closes', 'await device.close(); process.exit(4);', 4],
  ])('a process that %s with work pending keeps its exit code', async (_, end, expected) => {
    const { code, out } = await inProcess(`device.gramOfAll(matrix, 20, new Float64Array(400)); ${end}`);
    expect(code, out).toBe(expected);
  });
});
