// weightspan/operators: the engines as RxJS streams, the devices it runs on, and the algebra behind it.
export { type CoreEnergy, type ModelVectors, modelVectors } from './core-tensor.ts';
export type { DeviceInfo } from './devices/device.ts';
export type { DeviceChoice } from './devices/device-choice.ts';
export { DeviceUnavailable, NumericalFailure } from './errors.ts';
export { type ExactModesOptions, exactModes, type ModesOfSlot } from './exact-modes.ts';
export { type ExactPcaOptions, type ExactSlot, exactPca } from './exact-pca.ts';
export { type BlockUpdate, type IncrementalPcaOptions, incrementalPca, type SlotUpdate } from './incremental-pca.ts';
export { type PrincipalAngles, principalAngles } from './linalg/principal-angles.ts';
export type { SlotEnergies } from './mode-scatter.ts';
export type { ModeSpectrum } from './scatter-spectrum.ts';
export type { Subspace } from './subspace.ts';
export { emptySubspace, type SubspaceSpec, type SubspaceState } from './subspace-state.ts';
export { openTiles, type Tiles } from './tile-pool.ts';
export { type BlockGram, type SubspaceUpdate, updateSubspace } from './update-subspace.ts';
