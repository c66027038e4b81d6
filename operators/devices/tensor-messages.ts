// The words between a thread that computes and the thread that owns the tensors: plain data. Commands are done in the order
// they are sent; those with a ticket are answered, maybe out of order, and nobody waits for the others.

import type { Dtype } from '../../sources/model.ts';
import type { TensorChoice } from './device-choice.ts';

/** Which tfjs backend a tensor thread opens, as plain data. */
export interface BackendSpec {
  /** As `--device` names it, e.g. `tfjs:webgpu`. */
  readonly device: TensorChoice;
  /** As runs record it, e.g. `tfjs-webgpu`. */
  readonly library: string;
  /** Under which name tfjs knows it. */
  readonly registered: string;
  /** The module whose import registers it; null for webgpu, which is opened here. */
  readonly module: string | null;
}

/** What a tensor thread tells of its backend. */
export interface BackendFacts {
  readonly version: string;
  /** The adapter and its driver. */
  readonly kernel: string;
  /** Bytes of the largest tensor. */
  readonly largestTensor: number;
  /** Whether a processor only pretends to be a GPU. */
  readonly isSoftware: boolean;
  /** Whether rows may be sent as they are stored. */
  readonly widens: boolean;
}

/** A matrix of float32 numbers, in chunks: chunks x rows x chunk width. */
interface OnMatrix {
  readonly id: number;
  readonly width: number;
}

/** Mixing weights, m x n; the values come once, and `key` stands for them afterwards. */
export interface Weights {
  readonly key: number;
  readonly values: Float64Array | null;
  readonly m: number;
  readonly n: number;
}

export type TensorCommand =
  /** Rows [start, start + rows), in chunks already; row `shift` of the matrix is added to each. */
  | (OnMatrix & {
      readonly op: 'upload';
      readonly start: number;
      readonly rows: number;
      readonly values: Float32Array;
      readonly shift: number | null;
    })
  /** The same from elements as stored, row after row, each of whole 32-bit words. */
  | (OnMatrix & {
      readonly op: 'widen';
      readonly start: number;
      readonly rows: number;
      readonly dtype: Dtype;
      readonly words: Int32Array;
      readonly shift: number | null;
    })
  /** Answers `products`. */
  | (OnMatrix & {
      readonly op: 'gram';
      readonly ticket: number;
      readonly aStart: number;
      readonly aRows: number;
      readonly bStart: number;
      readonly bRows: number;
    })
  | (OnMatrix & {
      readonly op: 'combine';
      readonly weights: Weights;
      readonly aStart: number;
      readonly out: number;
      readonly at: number;
    })
  | (OnMatrix & { readonly op: 'accumulate'; readonly weights: Weights; readonly at: number })
  /** Answers `values`, in chunks. */
  | (OnMatrix & { readonly op: 'read'; readonly ticket: number; readonly at: number; readonly rows: number })
  /** A batch of products of what is sent. Answers `values`. */
  | {
      readonly op: 'product';
      readonly ticket: number;
      readonly a: Float32Array;
      readonly aShape: readonly [number, number, number];
      readonly b: Float32Array;
      readonly bShape: readonly [number, number, number];
      readonly transposeA: boolean;
      readonly transposeB: boolean;
    }
  | { readonly op: 'free'; readonly id: number }
  /** Answers `facts`. */
  | { readonly op: 'describe'; readonly ticket: number }
  /** Answers `memory`. */
  | { readonly op: 'memory'; readonly ticket: number };

/** The products of some chunks of rows [a, a + aRows) and [b, b + bRows): chunks x aRows x bRows. */
export interface ChunkProducts {
  readonly a: number;
  readonly aRows: number;
  readonly b: number;
  readonly bRows: number;
  readonly values: Float32Array;
}

/** What is alive in a tensor thread. */
export interface TensorMemory {
  readonly tensors: number;
  readonly bytes: number;
  /** Bytes of buffers in use on the GPU, and kept to be used again; null where the backend does not tell. */
  readonly gpuBytes: number | null;
  readonly gpuBytesKept: number | null;
}

/**
 * `lost`: the device is gone; `out-of-memory`: an allocation failed; `invalid`: a shader, or a buffer over the limits, was
 * refused; `other`: all else.
 */
export type FailureReason = 'lost' | 'out-of-memory' | 'invalid' | 'other';

export interface TensorFailure {
  readonly reason: FailureReason;
  readonly detail: string;
}

export type TensorAnswer = {
  readonly ticket: number;
  readonly failure?: TensorFailure;
  readonly values?: Float32Array;
  readonly products?: readonly ChunkProducts[];
  readonly facts?: BackendFacts;
  readonly memory?: TensorMemory;
};

/** What a tensor thread is told at birth. */
export interface TensorThreadData {
  readonly spec: BackendSpec;
  /** Int32, set to 1 when the thread ends. */
  readonly idle: SharedArrayBuffer;
}

/** How a thread is told of a connection. */
export interface TensorConnection {
  readonly port: import('node:worker_threads').MessagePort;
  /** Int32: [answers sent, 1 when the thread has ended, 1 when it knows of the connection]. */
  readonly signal: SharedArrayBuffer;
}
