// Writes safetensors files for tests. Float32Array data is encoded to the tensor's dtype (F32, F64, BF16, F16: rounded to
// nearest even); Uint8Array data goes in as it is, so a test can store any bit pattern, or too few bytes.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array | Float32Array;
}

export interface WriteOptions {
  readonly metadata?: Readonly<Record<string, string>>;
  /** The header is padded with blanks to a multiple of this; 1 makes misaligned data possible. Default 8. */
  readonly align?: number;
}

/** The bytes of a safetensors file that holds the tensors in the order given. */
export function safetensorsBytes(tensors: readonly TensorToWrite[], options: WriteOptions = {}): Uint8Array {
  const payloads = tensors.map(encode);
  const fields: string[] = [];
  if (options.metadata !== undefined) fields.push(`"__metadata__":${JSON.stringify(options.metadata)}`);
  let at = 0;
  for (const [i, { name, dtype, shape }] of tensors.entries()) {
    const end = at + payloads[i]!.byteLength;
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [at, end] })}`);
    at = end;
  }
  let header = Buffer.from(`{${fields.join(',')}}`);
  const align = options.align ?? 8;
  header = Buffer.concat([header, Buffer.alloc((align - (header.length % align)) % align, ' ')]);
  return withHeader(header, Buffer.concat(payloads));
}

/** Any header bytes and any data, put together as a file. */
export function withHeader(header: string | Uint8Array, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = Buffer.from(header as Uint8Array);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(bytes.length));
  return Buffer.concat([prefix, bytes, data]);
}

/** Writes the file, and the folders above it where they are missing. */
export function writeSafetensors(path: string, tensors: readonly TensorToWrite[], options?: WriteOptions): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, safetensorsBytes(tensors, options));
}

/** Writes shards `model-0000i-of-0000n.safetensors`, one for each list of tensors, and their index. */
export function writeSharded(folder: string, shards: readonly (readonly TensorToWrite[])[]): void {
  const weightMap: Record<string, string> = Object.create(null);
  let total = 0;
  for (const [i, tensors] of shards.entries()) {
    const file = `model-${String(i + 1).padStart(5, '0')}-of-${String(shards.length).padStart(5, '0')}.safetensors`;
    writeSafetensors(`${folder}/${file}`, tensors);
    for (const tensor of tensors) {
      weightMap[tensor.name] = file;
      total += encode(tensor).byteLength;
    }
  }
  const index = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap });
  writeFileSync(`${folder}/model.safetensors.index.json`, index);
}

function encode({ dtype, data }: TensorToWrite): Uint8Array {
  if (data instanceof Uint8Array) return data;
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  switch (dtype) {
    case 'F32':
      return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    case 'F64':
      return new Uint8Array(Float64Array.from(data).buffer);
    case 'BF16':
      return new Uint8Array(Uint16Array.from(bits, bfloat16).buffer);
    case 'F16':
      return new Uint8Array(Uint16Array.from(data, float16).buffer);
    default:
      throw new Error(`give the bytes of a ${dtype} tensor yourself`);
  }
}

function bfloat16(u: number): number {
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
}

function float16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const a = Math.abs(value);
  if (Number.isNaN(a)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  const exponent = Math.max(a === 0 ? -14 : Math.floor(Math.log2(a)), -14);
  // A mantissa that rounds up to the next power of two carries into the exponent field by itself.
  const steps = roundHalfEven(a / 2 ** (exponent - 10));
  return sign | ((exponent + 14) * 1024 + steps);
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
