// The words of the sources: what a model is before any of its weights are read.

/** Floating dtypes that weightspan reads, by their safetensors names. */
export type Dtype = 'F64' | 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'F8_E5M2';

/** A file that holds weights, as it was when the plan was made. */
export interface ModelFile {
  /** Where to open it. */
  readonly path: string;
  readonly size: number;
  readonly mtimeMs: number;
}

/** A tensor as its header declares it. */
export interface TensorEntry {
  readonly name: string;
  /** The header's dtype: a {@link Dtype}, or another safetensors dtype that weightspan leaves out. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Index into {@link ModelHeader.files}. */
  readonly file: number;
  /** Absolute byte offset in that file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** Where a model stands: one input of the stream. */
export interface ModelLocation {
  /** The path below the argument that named it, or `org/name` in a Hugging Face cache; unique in the run. */
  readonly name: string;
  /** The argument as given. */
  readonly source: string;
  /** The model folder, or the `.safetensors` file. */
  readonly path: string;
  readonly layout: 'file' | 'sharded';
  /** The safetensors file, or the index file of a sharded checkpoint. */
  readonly entry: string;
  /** The repository of a Hugging Face cache that the model stands in: its links may lead anywhere inside, and nowhere else. */
  readonly repository?: string;
}

/** All that the headers of a model say; no weights. */
export interface ModelHeader {
  readonly files: readonly ModelFile[];
  /** sha256 (hex) of each file's raw header bytes, for the fingerprint. */
  readonly headerDigests: readonly string[];
  /** In storage order: file, then offset. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}
