// The tables of a run folder: every column with its type, and the row types derived from them, so that the
// pipeline can neither forget a column nor misname one.
//
// Types: an id names a row of another table and is never null (int32). int32: positions in an order (component,
// rank, block, group, generation) and ids that may be missing. int64: sizes, counts, seeds. utf8: names, kinds.
// float64: everything measured. What is not known is null, never absent.
// `original_shape` is JSON, [64,64]; `dtypes` is separated by commas.

/** Stands as `schema_version` in the metadata of every file. */
export const SCHEMA_VERSION = 1;

export type ColumnType = 'id' | 'int32' | 'int64' | 'float64' | 'utf8';

type Columns = Readonly<Record<string, ColumnType>>;

export const tables = {
  slots: {
    slot_id: 'id',
    name: 'utf8',
    rows: 'int64',
    cols: 'int64',
    original_shape: 'utf8',
    dtypes: 'utf8',
    group: 'int32',
    models: 'int64',
    status: 'utf8',
    reason: 'utf8',
  },
  models: {
    model_id: 'id',
    name: 'utf8',
    source: 'utf8',
    kind: 'utf8',
    role: 'utf8',
    status: 'utf8',
    reason: 'utf8',
    fingerprint: 'utf8',
    content_sha256: 'utf8',
    bytes: 'int64',
    base_model: 'utf8',
    generation: 'int32',
    seed_group: 'utf8',
    /** The model_id of the first model with the same content. */
    duplicate_of: 'int32',
  },
  model_slots: {
    slot_id: 'id',
    model_id: 'id',
    status: 'utf8',
    reason: 'utf8',
    dtype: 'utf8',
    lora_rank: 'int64',
    lora_scale: 'float64',
    raw_norm2: 'float64',
    mean_entry: 'float64',
  },
  subspaces: {
    slot_id: 'id',
    mode: 'utf8',
    engine: 'utf8',
    n_models: 'int64',
    n_samples: 'int64',
    features: 'int64',
    rank: 'int32',
    state_rows: 'int64',
    total: 'float64',
    total_uncentred: 'float64',
    mean_norm2: 'float64',
    lost: 'float64',
    flat_evr: 'float64',
    captured: 'float64',
    mean_only: 'float64',
    n_effective: 'float64',
    components_90: 'int64',
    exactness: 'utf8',
    passes: 'int64',
    seed: 'int64',
  },
  spectrum: {
    slot_id: 'id',
    mode: 'utf8',
    component: 'int32',
    eigenvalue: 'float64',
    singular_value: 'float64',
    evr: 'float64',
    cumulative_evr: 'float64',
    bound_low: 'float64',
    bound_high: 'float64',
    bound_kind: 'utf8',
  },
  /** And c_0 … c_{k-1}, float32: see `openTable`'s extraFloat32. */
  coefficients: {
    slot_id: 'id',
    model_id: 'id',
    norm2: 'float64',
    residual2: 'float64',
  },
  /** Modes rows and cols. And e_0 … e_{k-1}, float32. */
  energies: {
    slot_id: 'id',
    mode: 'utf8',
    model_id: 'id',
    norm2: 'float64',
  },
  /** All three modes: what multilinear ranks keep of the scatter. */
  core: {
    slot_id: 'id',
    rank_models: 'int32',
    rank_rows: 'int32',
    rank_cols: 'int32',
    energy: 'float64',
    share: 'float64',
    bound_low: 'float64',
    bound_high: 'float64',
    share_low: 'float64',
    share_high: 'float64',
  },
  scores: {
    slot_id: 'id',
    mode: 'utf8',
    model_id: 'id',
    phase: 'utf8',
    block: 'int32',
    centred2: 'float64',
    captured2: 'float64',
    mean_only: 'float64',
  },
  convergence: {
    slot_id: 'id',
    mode: 'utf8',
    generation: 'int32',
    block: 'int32',
    models_seen: 'int64',
    total: 'float64',
    lost: 'float64',
    captured: 'float64',
    mean_only: 'float64',
    evr_1: 'float64',
    evr_4: 'float64',
    evr_16: 'float64',
    evr_k: 'float64',
    angle_max_1: 'float64',
    angle_max_4: 'float64',
    angle_max_16: 'float64',
    angle_max_k: 'float64',
    angle_mean_1: 'float64',
    angle_mean_4: 'float64',
    angle_mean_16: 'float64',
    angle_mean_k: 'float64',
    overlap_1: 'float64',
    overlap_4: 'float64',
    overlap_16: 'float64',
    overlap_k: 'float64',
  },
  convergence_spectrum: {
    slot_id: 'id',
    mode: 'utf8',
    models_seen: 'int64',
    component: 'int32',
    eigenvalue: 'float64',
  },
  /** A warning may concern no slot and no model: the ids are nullable here. */
  warnings: {
    code: 'utf8',
    slot_id: 'int32',
    mode: 'utf8',
    model_id: 'int32',
    value: 'float64',
    text: 'utf8',
  },
  /** What `weightspan compare` writes, not part of a run. And angle_0 … angle_{q-1}, float32, degrees. */
  comparison: {
    slot: 'utf8',
    mode: 'utf8',
    status: 'utf8',
    reason: 'utf8',
    rows: 'int64',
    cols: 'int64',
    features: 'int64',
    /** Of the slot in either run's tables. */
    slot_id_a: 'int32',
    slot_id_b: 'int32',
    rank_a: 'int32',
    rank_b: 'int32',
    angle_max: 'float64',
    angle_mean: 'float64',
    overlap: 'float64',
    chance: 'float64',
    chance_deviation: 'float64',
    chance_low: 'float64',
    chance_high: 'float64',
    grassmann: 'float64',
    chordal: 'float64',
  },
  timings: {
    group: 'int32',
    block: 'int32',
    models_seen: 'int64',
    seconds: 'float64',
    bytes: 'int64',
    read_s: 'float64',
    wait_s: 'float64',
    widen_s: 'float64',
    gram_s: 'float64',
    mix_s: 'float64',
    write_s: 'float64',
  },
} as const satisfies Record<string, Columns>;

export type TableName = keyof typeof tables;

interface CellOf {
  id: number;
  int32: number | null;
  int64: number | bigint | null;
  float64: number | null;
  utf8: string | null;
}

/** Many cells of one column. Typed arrays are copied when appended and may be reused. */
export type CellsOf<T extends ColumnType> =
  | readonly CellOf[T][]
  | (T extends 'utf8' ? never : Int32Array | Float64Array | Float32Array)
  | (T extends 'int64' ? BigInt64Array : never);

/** One row: every column, by name. */
export type TableRow<N extends TableName> = {
  readonly [C in keyof (typeof tables)[N]]: CellOf[(typeof tables)[N][C] & ColumnType];
};

/** Some rows, by columns: each an array with a cell a row, or one value that all of them share. */
export type TableBatch<N extends TableName> = {
  readonly [C in keyof (typeof tables)[N]]:
    | CellOf[(typeof tables)[N][C] & ColumnType]
    | CellsOf<(typeof tables)[N][C] & ColumnType>;
};
