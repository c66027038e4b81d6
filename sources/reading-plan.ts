// What is to be read, and in which order: the part of a plan that the data lane needs.
import type { ModelHeader, TensorEntry } from './model.ts';

/** A model of the stream; `id` is its place in the order of folding. */
export interface PlannedModel {
  readonly id: number;
  readonly name: string;
  readonly header: ModelHeader;
}

/** A weight matrix that all models of the stream share. */
export interface PlannedSlot {
  readonly id: number;
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  /** rows * cols */
  readonly features: number;
  /** The slot's tensor in a model, or in the base. */
  readonly tensorIn: (model: PlannedModel) => TensorEntry;
  /**
   * Set where the weights are changes, ΔW of LoRA modules: their origin is 0, and no shift is subtracted, which would take
   * their low rank away.
   */
  readonly isDelta?: true;
}

/** The tensors of a file that a slot's weights are made of. */
export const storedTensors = (slot: PlannedSlot, model: PlannedModel): readonly TensorEntry[] => {
  const tensor = slot.tensorIn(model);
  return tensor.lora === undefined ? [tensor] : [tensor.lora.a, tensor.lora.b];
};

/** Slots that are streamed together, because they fit the memory together. */
export interface SlotGroup {
  readonly index: number;
  readonly slots: readonly PlannedSlot[];
  /** Set where the only slot is too large for the memory: its state is kept in a file and visited so many tiles at a time. */
  readonly tilesAtOnce?: number;
  /** Set where weights stay in their files until whoever multiplies reads them, a tile at a time. */
  readonly inFiles?: true;
  /**
   * Of those, set where buffers stand by for what is not in the page cache: how many, and bytes of each. A block that fits is read
   * past it. The same for all groups of a plan, which take turns with them.
   */
  readonly standby?: { readonly buffers: number; readonly bytes: number };
  /** Set where a checkpoint has the state of the slots: what the first models, in so many blocks, left of them. */
  readonly folded?: { readonly models: number; readonly blocks: number };
  /** Set where what is read for mode models feeds the modes rows and cols too. */
  readonly beside?: true;
  /**
   * Set where the only slot's adapters are multiplied by their factors, and no ΔW is made: whether all factors stay in
   * memory, and the bytes that stacks of them may take for a Gram matrix.
   */
  readonly factored?: { readonly holds: boolean; readonly stackBytes: number };
}

export interface ReadingPlan {
  /** The models to fold, in order. */
  readonly models: readonly PlannedModel[];
  readonly base: PlannedModel | null;
  readonly groups: readonly SlotGroup[];
  /** Models a block. */
  readonly block: number;
  /** How often each group's models are streamed, one pass after the other. Default 1. */
  readonly passes?: number;
}

/** Models that the group has still to fold. */
export const modelsToFold = <M extends PlannedModel>({ folded }: SlotGroup, models: readonly M[]): readonly M[] =>
  folded === undefined ? models : models.slice(folded.models);

/** Bytes of the models' weights in these slots, as stored. */
export const weightBytes = (slots: readonly PlannedSlot[], models: readonly PlannedModel[]): number => {
  let bytes = 0;
  for (const model of models) for (const slot of slots) bytes += slot.tensorIn(model).byteLength;
  return bytes;
};
