// Who may be asked to multiply. Imports nothing: the options' schema knows it too.

/** `tfjs` and `tfjs:wasm` are the embedded backend. */
export const deviceChoices = ['auto', 'blas', 'tfjs', 'tfjs:wasm', 'tfjs:webgpu', 'tfjs:node-gpu'] as const;

export type DeviceChoice = (typeof deviceChoices)[number];

/** Those that run on a GPU, with packages that the user installs. */
export type GpuChoice = Extract<DeviceChoice, 'tfjs:webgpu' | 'tfjs:node-gpu'>;
