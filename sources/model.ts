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
  /** Set where the weights are a LoRA module's ΔW: `shape` is that of ΔW, `byteLength` that of both factors. */
  readonly lora?: LoraTensors;
  /** Why it is no slot, whatever its shape: what an adapter keeps beside its factors. */
  readonly leftOut?: string;
}

/** The tensors that a LoRA module's ΔW is made of: scale · B A, rows x cols, or its transpose. */
export interface LoraTensors {
  /** rank x (a layer's inputs), row-major whatever its dims. */
  readonly a: TensorEntry;
  /** (a layer's outputs) x rank. */
  readonly b: TensorEntry;
  readonly rank: number;
  /** α/r, or α/√r. */
  readonly scale: number;
  /** Whether the layer stores its weight as inputs x outputs. */
  readonly transposed: boolean;
  /** Of ΔW as the layer stores it. */
  readonly rows: number;
  readonly cols: number;
}

/** Where a model stands: one input of the stream. */
export interface ModelLocation {
  /** The path below the argument that named it, or `org/name` in a Hugging Face cache; unique in the run. */
  readonly name: string;
  /** The argument as given. */
  readonly source: string;
  /** The model folder, or the `.safetensors` file. */
  readonly path: string;
  readonly layout: 'file' | 'sharded' | 'adapter';
  /** The safetensors file (of an adapter: beside its adapter_config.json), or the index file of a sharded checkpoint. */
  readonly entry: string;
  /** The repository of a Hugging Face cache that the model stands in: its links may lead anywhere inside, and nowhere else. */
  readonly repository?: string;
}

/** All that the headers of a model say; no weights. */
export interface ModelHeader {
  readonly files: readonly ModelFile[];
  /** sha256 (hex) of each file's raw header bytes, for the fingerprint. */
  readonly headerDigests: readonly string[];
  /** In storage order: file, then offset. Of an adapter: its modules by their paths, and what else is there. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** Set for a LoRA adapter. */
  readonly adapter?: AdapterInfo;
}

/** What an adapter says of itself. */
export interface AdapterInfo {
  /** `base_model_name_or_path`, as written: a name to compare, never opened; null where it has none. */
  readonly baseModel: string | null;
}
