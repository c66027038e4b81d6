// The Gram matrix of several slots seen as one: weights one after the other have inner products that add up, so the
// spectrum of whole models, or of some of their modules, is known when the Grams of their slots are.
import type { PlannedModel, PlannedSlot } from '../sources/reading-plan.ts';
import type { ExactGram } from './exact-spectrum.ts';
import { rowsBeforeBlock } from './update-subspace.ts';

const BEFORE = rowsBeforeBlock(0);

export interface SummedGram {
  /** Models that are in every slot, in order. */
  readonly models: readonly PlannedModel[];
  readonly gram: ExactGram;
  /** Weights of all slots. */
  readonly features: number;
}

export class GramSum {
  readonly #models: readonly PlannedModel[];
  readonly #values: Float64Array;
  readonly #missing = new Set<PlannedModel>();
  #shiftSum = 0;
  #features = 0;

  /** @param models all of the stream, in order */
  constructor(models: readonly PlannedModel[]) {
    this.#models = models;
    this.#values = new Float64Array((BEFORE + models.length) ** 2);
  }

  /** @param models those that are in the slot, as in its Gram */
  add({ features }: PlannedSlot, models: readonly PlannedModel[], { values, shiftSum }: ExactGram): void {
    const rowOf = new Map(models.map((model, i) => [model, BEFORE + i]));
    const rows = [...Array(BEFORE).keys(), ...this.#models.map((model) => rowOf.get(model) ?? -1)];
    const [size, own] = [rows.length, BEFORE + models.length];
    for (let i = 0; i < size; i++) {
      if (rows[i]! < 0) {
        this.#missing.add(this.#models[i - BEFORE]!);
        continue;
      }
      for (let j = 0; j < size; j++) {
        if (rows[j]! >= 0)
          this.#values[i * size + j] = this.#values[i * size + j]! + values[rows[i]! * own + rows[j]!]!;
      }
    }
    this.#shiftSum += shiftSum;
    this.#features += features;
  }

  /** All of it, for a checkpoint: float64 numbers, of a length that only the number of models decides. */
  save(): Float64Array {
    const missing = Float64Array.from(this.#models, (model) => (this.#missing.has(model) ? 1 : 0));
    const saved = new Float64Array(this.savedLength);
    saved.set([this.#shiftSum, this.#features]);
    saved.set(missing, 2);
    saved.set(this.#values, 2 + missing.length);
    return saved;
  }

  /** How many numbers `save` gives. */
  get savedLength(): number {
    return 2 + this.#models.length + this.#values.length;
  }

  /** Takes what `save` gave. */
  load(saved: Float64Array): void {
    this.#shiftSum = saved[0]!;
    this.#features = saved[1]!;
    const missing = saved.subarray(2, 2 + this.#models.length);
    this.#models.forEach((model, i) => {
      if (missing[i] === 1) this.#missing.add(model);
    });
    this.#values.set(saved.subarray(2 + missing.length));
  }

  result(): SummedGram {
    const models = this.#models.filter((model) => !this.#missing.has(model));
    const kept = [
      ...Array(BEFORE).keys(),
      ...[...this.#models.keys()].filter((i) => !this.#missing.has(this.#models[i]!)).map((i) => BEFORE + i),
    ];
    const size = BEFORE + this.#models.length;
    const values = new Float64Array(kept.length ** 2);
    kept.forEach((from, i) => {
      kept.forEach((column, j) => {
        values[i * kept.length + j] = this.#values[from * size + column]!;
      });
    });
    return { models, gram: { values, models: models.length, shiftSum: this.#shiftSum }, features: this.#features };
  }
}
