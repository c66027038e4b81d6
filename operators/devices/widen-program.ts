// A WebGPU program that makes float32 chunks of rows as they are stored: weights cross the bus in the bytes they have on disk.
// It moves bits and rounds nothing. 8- and 16-bit floats but bfloat16 are looked up in a table that the processor's widening
// made, so that both agree in every pattern.
import * as tf from '@tensorflow/tfjs-core';
import { widenedPatterns } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import { chunkCount, chunkWidth } from './tensor-chunks.ts';

/** What this needs of tfjs's WebGPU backend. */
export interface ProgramRunner {
  runWebGPUProgram(
    program: object,
    inputs: readonly tf.TensorInfo[],
    dtype: 'float32',
    uniforms: object[],
  ): tf.TensorInfo;
}

/** Of tfjs's `webgpu_util`. */
export interface DispatchUtil {
  flatDispatchLayout(shape: readonly number[]): object;
  computeDispatch(layout: object, shape: readonly number[], group: readonly number[]): readonly number[];
}

/** Dtypes it takes; F64 is rounded by the processor. */
export const widenedByPrograms: readonly Dtype[] = ['F32', 'BF16', 'F16', 'F8_E4M3', 'F8_E5M2'];

/** WGSL that makes `bits`, the float32's, out of element `column` of a row that begins at word `line`. */
const bitsOf: Readonly<Record<string, string>> = {
  F32: 'bits = u32(x[line + column]);',
  BF16: 'bits = (u32(x[line + (column >> 1)]) >> (16u * u32(column & 1))) << 16u;',
  F16: 'bits = u32(table[(u32(x[line + (column >> 1)]) >> (16u * u32(column & 1))) & 0xffffu]);',
  F8: 'bits = u32(table[(u32(x[line + (column >> 2)]) >> (8u * u32(column & 3))) & 0xffu]);',
};

const WORKGROUP = [64, 1, 1] as const;

/** Widens rows on the GPU, with a table a dtype that stays there. */
export class WidenProgram {
  readonly #backend: ProgramRunner;
  readonly #util: DispatchUtil;
  readonly #tables = new Map<Dtype, tf.Tensor1D>();

  constructor(backend: ProgramRunner, util: DispatchUtil) {
    this.#backend = backend;
    this.#util = util;
  }

  /** Tensors that it keeps. */
  get tables(): readonly tf.Tensor[] {
    return [...this.#tables.values()];
  }

  /** @param words rows x words a row */
  run(dtype: Dtype, words: Int32Array, rows: number, width: number): tf.Tensor3D {
    const w = chunkWidth(width);
    const shape = [chunkCount(width), rows, w];
    const table = this.#tableOf(dtype);
    const kind = dtype.startsWith('F8') ? 'F8' : dtype;
    const dispatchLayout = this.#util.flatDispatchLayout(shape);
    const program = {
      outputShape: shape,
      variableNames: table === null ? ['x'] : ['x', 'table'],
      uniforms: 'width : i32, words : i32,',
      workgroupSize: WORKGROUP,
      dispatchLayout,
      dispatch: this.#util.computeDispatch(dispatchLayout, shape, WORKGROUP),
      shaderKey: `widen_${kind}`,
      size: true,
      // tfjs puts `fn _start(@builtin…)` before what begins with `fn main(index : i32)`.
      getUserCode: () => `
        fn main(index : i32) {
          if (index < uniforms.size) {
            let coords = getCoordsFromIndex(index);
            let column = coords.x * uniforms.outShape.z + coords.z;
            var bits = 0u;
            if (column < uniforms.width) {
              let line = coords.y * uniforms.words;
              ${bitsOf[kind]}
            }
            result[index] = bitcast<f32>(bits);
          }
        }`,
    };
    const x = tf.tensor1d(words, 'int32');
    const inputs = table === null ? [x] : [x, table];
    const out = this.#backend.runWebGPUProgram(program, inputs, 'float32', [
      { type: 'int32', data: [width] },
      { type: 'int32', data: [words.length / rows] },
    ]);
    x.dispose();
    return tf.engine().makeTensorFromTensorInfo(out) as tf.Tensor3D;
  }

  /** The float32 bits of each pattern. */
  #tableOf(dtype: Dtype): tf.Tensor1D | null {
    if (dtype === 'F32' || dtype === 'BF16') return null;
    const known = this.#tables.get(dtype);
    if (known !== undefined) return known;
    const table = tf.tensor1d(new Int32Array(widenedPatterns(dtype).buffer), 'int32');
    this.#tables.set(dtype, table);
    return table;
  }
}
