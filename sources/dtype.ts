// Number formats of safetensors, and the widening of the six that weightspan reads to float32.
// Widening moves bits and never rounds, but for F64, which is rounded to nearest even as Math.fround does (and may overflow
// to infinity); NaN payloads of the 16-bit formats survive. Cost: 0.55 ns an element for BF16, 0.75 for F16.
// Imports nothing at run time: worker threads load it too.
import type { Dtype } from './model.ts';

if (new Uint8Array(Uint32Array.of(1).buffer)[0] !== 1) throw new Error('weightspan needs a little-endian machine');

/** Bits an element of every dtype that the format knows. A Map, since dtypes come from strangers (`constructor`). */
export const dtypeBits: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64],
]);

const readable: Readonly<Record<Dtype, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1 };

/** Whether weightspan folds tensors of this dtype; others are left out by name. */
export const isReadableDtype = (dtype: string): dtype is Dtype => Object.hasOwn(readable, dtype);

/** Bytes that one element takes in the file. */
export const bytesPerElement = (dtype: Dtype): number => readable[dtype];

// Misaligned 16- and 64-bit data goes through here, 16 KiB at a time: fresh memory would cost more than the widening.
const scratch = new Uint8Array(16_384);

/** What every bit pattern of a 16- or 8-bit dtype widens to, in order: 65,536 or 256 numbers. */
export const widenedPatterns = (dtype: Dtype): Float32Array => {
  const size = 2 ** (8 * bytesPerElement(dtype));
  const patterns = dtype === 'F16' || dtype === 'BF16' ? new Uint16Array(size) : new Uint8Array(size);
  for (let i = 0; i < size; i++) patterns[i] = i;
  const values = new Float32Array(size);
  widen(dtype, new Uint8Array(patterns.buffer), values);
  return values;
};

/**
 * Widens `out.length` elements to float32.
 *
 * @param bytes little-endian elements, exactly `out.length` of them, at any byte offset
 * @throws RangeError where the lengths do not agree, which is a bug of the caller
 */
export function widen(dtype: Dtype, bytes: Uint8Array, out: Float32Array): void {
  const width = readable[dtype];
  if (bytes.byteLength !== out.length * width) {
    throw new RangeError(`widen: ${bytes.byteLength} bytes of ${dtype} into ${out.length} elements`);
  }
  if (dtype === 'F32') {
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
    return;
  }
  if (bytes.byteOffset % (dtype === 'F64' ? 8 : 4) === 0) {
    widenAligned(dtype, bytes, out);
    return;
  }
  for (let at = 0; at < bytes.byteLength; at += scratch.length) {
    const piece = bytes.subarray(at, at + scratch.length);
    scratch.set(piece);
    const target = out.subarray(at / width, (at + piece.length) / width);
    widenAligned(dtype, scratch.subarray(0, piece.length), target);
  }
}

/**
 * Widens elements to float64, without rounding those of F64.
 * @param bytes little-endian elements, at any byte offset
 */
export function widenToDouble(dtype: Dtype, bytes: Uint8Array): Float64Array {
  if (dtype === 'F64') return new Float64Array(bytes.slice().buffer);
  const values = new Float32Array(bytes.byteLength / readable[dtype]);
  widen(dtype, bytes, values);
  return Float64Array.from(values);
}

function widenAligned(dtype: Exclude<Dtype, 'F32'>, bytes: Uint8Array, out: Float32Array): void {
  const bits = new Int32Array(out.buffer, out.byteOffset, out.length);
  if (dtype === 'BF16') widenBfloat16(bytes, bits);
  else if (dtype === 'F16') widenFloat16(bytes, float16(), bits);
  else if (dtype === 'F8_E4M3') widenFloat8(bytes, e4m3, bits);
  else if (dtype === 'F8_E5M2') widenFloat8(bytes, e5m2, bits);
  else out.set(new Float64Array(bytes.buffer, bytes.byteOffset, out.length));
}

const words = (bytes: Uint8Array) => new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2);

// V8 does not vectorise: whole words in, eight elements a turn, is 2.5 times the plain loop.
function widenBfloat16(bytes: Uint8Array, to: Int32Array): void {
  const from = words(bytes);
  const whole = from.length & ~3;
  for (let i = 0, j = 0; i < whole; i += 4, j += 8) {
    const a = from[i]!;
    const b = from[i + 1]!;
    const c = from[i + 2]!;
    const d = from[i + 3]!;
    to[j] = a << 16;
    to[j + 1] = a & 0xffff0000;
    to[j + 2] = b << 16;
    to[j + 3] = b & 0xffff0000;
    to[j + 4] = c << 16;
    to[j + 5] = c & 0xffff0000;
    to[j + 6] = d << 16;
    to[j + 7] = d & 0xffff0000;
  }
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, to.length);
  for (let j = whole * 2; j < to.length; j++) to[j] = halves[j]! << 16;
}

// A table of all 65,536 values (256 KiB) takes half the time of the integer trick that fills it.
function widenFloat16(bytes: Uint8Array, table: Int32Array, to: Int32Array): void {
  const from = words(bytes);
  const whole = from.length & ~3;
  for (let i = 0, j = 0; i < whole; i += 4, j += 8) {
    const a = from[i]!;
    const b = from[i + 1]!;
    const c = from[i + 2]!;
    const d = from[i + 3]!;
    to[j] = table[a & 0xffff]!;
    to[j + 1] = table[a >>> 16]!;
    to[j + 2] = table[b & 0xffff]!;
    to[j + 3] = table[b >>> 16]!;
    to[j + 4] = table[c & 0xffff]!;
    to[j + 5] = table[c >>> 16]!;
    to[j + 6] = table[d & 0xffff]!;
    to[j + 7] = table[d >>> 16]!;
  }
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, to.length);
  for (let j = whole * 2; j < to.length; j++) to[j] = table[halves[j]!]!;
}

function widenFloat8(bytes: Uint8Array, table: Int32Array, to: Int32Array): void {
  const from = words(bytes);
  for (let i = 0, j = 0; i < from.length; i++, j += 4) {
    const a = from[i]!;
    to[j] = table[a & 0xff]!;
    to[j + 1] = table[(a >>> 8) & 0xff]!;
    to[j + 2] = table[(a >>> 16) & 0xff]!;
    to[j + 3] = table[a >>> 24]!;
  }
  for (let j = from.length * 4; j < to.length; j++) to[j] = table[bytes[j]!]!;
}

/** The float32 bits of a float16, by integers alone. */
function float16Bits(h: number): number {
  const sign = (h & 0x8000) << 16;
  const magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return sign | 0x7f800000 | ((magnitude & 0x3ff) << 13);
  if (magnitude >= 0x0400) return sign | ((magnitude << 13) + 0x38000000);
  if (magnitude === 0) return sign;
  const shift = Math.clz32(magnitude) - 21;
  return sign | ((113 - shift) << 23) | (((magnitude << shift) & 0x3ff) << 13);
}

let table16: Int32Array | null = null;

/** All of them; made when they are first needed, not by every thread that starts. */
function float16(): Int32Array {
  table16 ??= Int32Array.from({ length: 65_536 }, (_, h) => float16Bits(h));
  return table16;
}

// E5M2 is the upper byte of a float16. E4M3 (the "fn" kind) has no infinity, and NaN only where all seven bits are set.
const e5m2 = Int32Array.from({ length: 256 }, (_, b) => float16Bits(b << 8));
const e4m3 = Int32Array.from({ length: 256 }, (_, b) => {
  const sign = (b & 0x80) << 24;
  const magnitude = b & 0x7f;
  if (magnitude === 0x7f) return sign | 0x7fc00000;
  if (magnitude >= 8) return sign | ((magnitude << 20) + 0x3c000000);
  if (magnitude === 0) return sign;
  const shift = Math.clz32(magnitude) - 28;
  return sign | ((121 - shift) << 23) | (((magnitude << shift) & 7) << 20);
});
