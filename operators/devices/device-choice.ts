// Who may be asked to multiply. Imports nothing: the options' schema knows it too.

/** `tfjs` and `tfjs:wasm` are the embedded backend. */
export const deviceChoices = ['auto', 'blas', 'cuda', 'tfjs', 'tfjs:wasm', 'tfjs:webgpu', 'tfjs:node-gpu'] as const;

export type DeviceChoice = (typeof deviceChoices)[number];

/** Those that run on a GPU by tfjs, with packages that the user installs. */
export type TensorChoice = Extract<DeviceChoice, 'tfjs:webgpu' | 'tfjs:node-gpu'>;

/** All that run on a GPU. */
export type GpuChoice = TensorChoice | 'cuda';

/** What products may be made of. */
export const precisionChoices = ['fp32', 'tf32'] as const;

export type PrecisionChoice = (typeof precisionChoices)[number];
