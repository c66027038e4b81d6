// Writes PEFT adapters for tests: adapter_config.json and adapter_model.safetensors.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TensorToWrite, writeSafetensors } from './write-safetensors.ts';

/** Factors of one module: A rank x inputs, B outputs x rank, row-major. */
export interface ModuleToWrite {
  readonly path: string;
  readonly rank: number;
  readonly a: Float32Array | Float64Array;
  readonly b: Float32Array | Float64Array;
  /** Default F64 for float64 data, else F32. */
  readonly dtype?: string;
}

export const factorTensors = ({ path, rank, a, b, dtype }: ModuleToWrite): TensorToWrite[] => {
  const tensor = (letter: string, shape: number[], data: Float32Array | Float64Array): TensorToWrite => ({
    name: `base_model.model.${path}.lora_${letter}.weight`,
    dtype: dtype ?? (data instanceof Float64Array ? 'F64' : 'F32'),
    shape,
    data: data instanceof Float64Array ? new Uint8Array(data.slice().buffer) : data,
  });
  return [tensor('A', [rank, a.length / rank], a), tensor('B', [b.length / rank, rank], b)];
};

/** @param config an object, or the text of the file; null writes none */
export function writeAdapter(
  folder: string,
  config: Readonly<Record<string, unknown>> | string | null,
  tensors: readonly TensorToWrite[],
): void {
  mkdirSync(folder, { recursive: true });
  const text = typeof config === 'string' ? config : JSON.stringify({ peft_type: 'LORA', ...config });
  if (config !== null) writeFileSync(join(folder, 'adapter_config.json'), text);
  writeSafetensors(join(folder, 'adapter_model.safetensors'), tensors);
}
