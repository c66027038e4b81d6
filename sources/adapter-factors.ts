// What a LoRA adapter is to an engine: for each of its modules two thin matrices whose product is the change of the weight.

/** A module of one adapter in canonical form: ΔW = left · right, scale included. */
export interface AdapterFactors {
  readonly rows: number; // of ΔW
  readonly cols: number;
  readonly rank: number; // r, may be 0 where ΔW is 0
  /** rows x rank, row-major. */
  readonly left: Float32Array;
  /** rank x cols, row-major. */
  readonly right: Float32Array;
}
