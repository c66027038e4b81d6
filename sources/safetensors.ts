// The safetensors format, read strictly: 8 bytes of little-endian header length, a JSON object of {dtype, shape, data_offsets},
// data that fills the rest of the file without holes or overlaps. The reference parsers let more pass; here a header means one
// thing or is refused. Pure functions over bytes, linear in the header: 1 M tensors (86 MB) take about 2 s and block the thread.
// Format: https://github.com/huggingface/safetensors#format
import { displayName } from './display-name.ts';
import { dtypeBits } from './dtype.ts';
import { SourceMalformed } from './errors.ts';
import type { TensorEntry } from './model.ts';
import { sniff } from './sniff.ts';
import { JsonScanner } from './strict-json.ts';

/** The format's own limit on a header. */
export const maxHeaderBytes = 100_000_000;
/** As many dimensions as NumPy and PyTorch allow. */
const maxRank = 64;
/** Room for the longest training notes seen in the wild, ten times over. */
const maxMetadataBytes = 16_000_000;

export interface SafetensorsHeader {
  /** In storage order. */
  readonly tensors: readonly TensorEntry[];
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Checks a file's first bytes against its size.
 *
 * @param start the first bytes of the file: 8 at least, or all there are; with 512 a wrong kind of file is named
 * @returns the length of the header JSON, which starts at byte 8
 * @throws SourceMalformed
 */
export function headerLength(start: Uint8Array, fileSize: number, path: string): number {
  const fail = (rule: string, detail: string): never => {
    throw new SourceMalformed({ path, ...(sniff(start) ?? { rule, detail }) });
  };
  if (start.length < 8) {
    return fail('too-small', `found a file of ${fileSize} bytes, expected at least 8 for the header length`);
  }
  const length = new DataView(start.buffer, start.byteOffset).getBigUint64(0, true);
  if (length === 0n) return fail('header-length', 'found header length 0, expected at least 2');
  if (length > BigInt(maxHeaderBytes)) {
    return fail('header-length', `found header length ${length}, expected at most ${maxHeaderBytes}`);
  }
  if (length > BigInt(fileSize - 8)) {
    return fail(
      'header-length',
      `found header length ${length}, expected at most the ${fileSize - 8} bytes left in the file`,
    );
  }
  // A gzip stream can start with a plausible length; its ninth byte cannot start JSON.
  const foreign = start.length > 8 && !' \t\r\n{'.includes(String.fromCharCode(start[8]!)) ? sniff(start) : undefined;
  if (foreign !== undefined) throw new SourceMalformed({ path, ...foreign });
  return Number(length);
}

/**
 * Parses and checks a header.
 *
 * @param bytes the header JSON alone
 * @param fileSize of the whole file: the data must end exactly there
 * @param file what to put into {@link TensorEntry.file}
 * @throws SourceMalformed
 */
export function parseSafetensorsHeader(bytes: Uint8Array, fileSize: number, path: string, file = 0): SafetensorsHeader {
  let current: string | undefined;
  const fail = (rule: string, detail: string, tensor = current): never => {
    throw new SourceMalformed({ path, rule, detail, ...(tensor === undefined ? {} : { tensor: displayName(tensor) }) });
  };
  const json = new JsonScanner(bytes, fail);
  if (json.peek() !== 0x7b) json.unexpected('{ to open the header', 'not-an-object');
  const base = 8 + bytes.length;
  const names = new Set<string>();
  const tensors: TensorEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  json.object('the header', (name) => {
    if (names.has(name)) fail('duplicate-key', 'found the key twice, expected once', name);
    names.add(name);
    if (name === '__metadata__') {
      metadata = readMetadata(json, fail);
      return;
    }
    current = name;
    tensors.push(readTensor(json, fail, name, file, base));
    current = undefined;
  });
  json.end();
  return { tensors: inStorageOrder(tensors, base, fileSize, fail), metadata };
}

type FailTensor = (rule: string, detail: string, tensor?: string) => never;

function readMetadata(json: JsonScanner, fail: FailTensor): ReadonlyMap<string, string> {
  const metadata = new Map<string, string>();
  if (json.acceptNull()) return metadata;
  const start = json.at;
  if (json.peek() !== 0x7b) json.unexpected('an object of strings, or null, as __metadata__', 'metadata');
  json.object('__metadata__', (key) => {
    if (metadata.has(key))
      fail('duplicate-key', `found the key ${displayName(key)} of __metadata__ twice, expected once`);
    if (json.peek() !== 0x22) json.unexpected('a string as value in __metadata__', 'metadata');
    metadata.set(key, json.string('a value in __metadata__'));
  });
  const length = json.at - start;
  if (length > maxMetadataBytes) {
    fail('metadata', `found __metadata__ of ${length} bytes, expected at most ${maxMetadataBytes}`);
  }
  return metadata;
}

function readTensor(json: JsonScanner, fail: FailTensor, name: string, file: number, base: number): TensorEntry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  if (json.peek() !== 0x7b) json.unexpected('{ to open the entry of a tensor', 'tensor-entry');
  json.object('the entry of a tensor', (key) => {
    if (key === 'dtype') {
      if (dtype !== undefined) fail('duplicate-field', 'found dtype twice, expected once');
      if (json.peek() !== 0x22) json.unexpected('a string as dtype', 'dtype');
      dtype = json.string('dtype');
    } else if (key === 'shape') {
      if (shape !== undefined) fail('duplicate-field', 'found shape twice, expected once');
      shape = naturals(json, fail, 'shape', maxRank, 'rank');
    } else if (key === 'data_offsets') {
      if (offsets !== undefined) fail('duplicate-field', 'found data_offsets twice, expected once');
      offsets = naturals(json, fail, 'data_offsets', 2, 'offsets');
    } else {
      fail('unknown-field', `found the field ${displayName(key)}, expected dtype, shape and data_offsets`);
    }
  });
  if (dtype === undefined) return fail('missing-field', 'found no dtype, expected dtype, shape and data_offsets');
  if (shape === undefined) return fail('missing-field', 'found no shape, expected dtype, shape and data_offsets');
  if (offsets === undefined)
    return fail('missing-field', 'found no data_offsets, expected dtype, shape and data_offsets');
  const [begin = 0, end = 0] = offsets;
  if (offsets.length < 2) fail('offsets', `found ${offsets.length} data_offsets, expected [begin, end]`);
  if (begin > end) fail('offsets', `found data_offsets [${begin}, ${end}], expected begin <= end`);
  const byteLength = tensorBytes(dtype, shape, fail);
  if (byteLength !== end - begin) {
    const declared = `${dtype} [${shape.join(', ')}]`;
    fail('size', `found ${end - begin} bytes of data, expected ${byteLength} for ${declared}`);
  }
  return { name, dtype, shape, file, offset: base + begin, byteLength };
}

/** An array of at most `most` whole numbers; a longer one is refused before it fills the memory. */
function naturals(json: JsonScanner, fail: FailTensor, field: string, most: number, rule: string): number[] {
  const values: number[] = [];
  if (json.peek() !== 0x5b) json.unexpected(`an array of whole numbers as ${field}`, field);
  json.array(field, () => {
    if (values.length === most) fail(rule, `found more than ${most} numbers in ${field}, expected at most ${most}`);
    values.push(json.natural(`an element of ${field}`));
  });
  return values;
}

/** Bytes of a tensor; the product of the dimensions other than 0 must not overflow, whatever their order. */
function tensorBytes(dtype: string, shape: readonly number[], fail: FailTensor): number {
  const bits = dtypeBits.get(dtype);
  if (bits === undefined)
    return fail('dtype', `found dtype ${displayName(dtype)}, expected one of ${[...dtypeBits.keys()].join(' ')}`);
  let elements = 1;
  let empty = false;
  for (const dimension of shape) {
    if (dimension === 0) empty = true;
    else elements *= dimension;
    // A product that was rounded is above 2^53, and so is everything after it.
    if (elements * bits > Number.MAX_SAFE_INTEGER) {
      return fail('shape-overflow', `found shape [${shape.join(', ')}] of ${dtype}, expected at most 2^53 - 1 bits`);
    }
  }
  if (empty) return 0;
  if ((elements * bits) % 8 !== 0) {
    return fail('sub-byte', `found ${elements} elements of ${bits} bits, expected a whole number of bytes`);
  }
  return (elements * bits) / 8;
}

/** Sorts by place, and checks that the tensors fill the data from its first byte to the last one of the file. */
function inStorageOrder(
  tensors: TensorEntry[],
  base: number,
  fileSize: number,
  fail: FailTensor,
): readonly TensorEntry[] {
  const before = (a: TensorEntry, b: TensorEntry): number => a.offset - b.offset || a.byteLength - b.byteLength;
  if (!tensors.every((tensor, i) => i === 0 || before(tensors[i - 1]!, tensor) <= 0)) tensors.sort(before);
  let end = base;
  for (const { name, offset, byteLength } of tensors) {
    if (offset > end) fail('hole', `found data at byte ${offset - base}, expected it at ${end - base}: a hole`, name);
    if (offset < end)
      fail('overlap', `found data at byte ${offset - base}, expected it at ${end - base}: an overlap`, name);
    end += byteLength;
  }
  if (end < fileSize)
    fail('trailing-bytes', `found ${fileSize - end} bytes after the data, expected the file to end at ${end}`);
  if (end > fileSize) fail('truncated', `found a file of ${fileSize} bytes, expected ${end}: it is cut off`);
  return tensors;
}
