// weightspan/sources: from paths to headers to a stream of blocks.
export type { AdapterFactors } from './adapter-factors.ts';
export { isReadableDtype, widen } from './dtype.ts';
export { SourceMalformed, SourceUnavailable } from './errors.ts';
export type { AdapterInfo, Dtype, LoraTensors, ModelHeader, ModelLocation, TensorEntry } from './model.ts';
export { readModelHeader } from './read-model-header.ts';
export type { PlannedModel, PlannedSlot, ReadingPlan, SlotGroup } from './reading-plan.ts';
export { resolveSources } from './resolve-sources.ts';
export { makeWeightBatch, weightRows } from './weight-batch.ts';
export { type ReadBlock, type WeightBlock, weightBlocks } from './weight-blocks.ts';
export type { StoredRows, WeightBatchDescriptor } from './weight-rows.ts';
