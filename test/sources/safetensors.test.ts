// Group S of hostile input, as far as bytes alone go: one named case each. What needs a file system is in read-model-header.test.ts.
import { describe, expect, test } from 'vitest';
import { SourceMalformed } from '../../sources/errors.ts';
import type { SafetensorsHeader } from '../../sources/safetensors.ts';
import { headerLength, parseSafetensorsHeader } from '../../sources/safetensors.ts';
import { safetensorsBytes, withHeader } from './write-safetensors.ts';

const path = 'zoo/model.safetensors';

function read(bytes: Uint8Array, fileSize = bytes.length): SafetensorsHeader {
  const length = headerLength(bytes.subarray(0, 512), fileSize, path);
  return parseSafetensorsHeader(bytes.subarray(8, 8 + length), fileSize, path);
}

function refusal(bytes: Uint8Array, fileSize?: number): SourceMalformed {
  try {
    read(bytes, fileSize);
  } catch (error) {
    expect(error).toBeInstanceOf(SourceMalformed);
    return error as SourceMalformed;
  }
  throw new Error('was accepted');
}

const lengthOnly = (length: bigint): Uint8Array => {
  const bytes = Buffer.alloc(64);
  bytes.writeBigUInt64LE(length);
  return bytes;
};
const data = (size: number): Uint8Array => new Uint8Array(size);
const entry = (dtype: string, shape: string, offsets: string): string =>
  `{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`;
/** Tensor `w` of one F32, with parts replaced. */
const one = (parts: { dtype?: string; shape?: string; offsets?: string } = {}, size = 4): Uint8Array =>
  withHeader(`{"w":${entry(parts.dtype ?? '"F32"', parts.shape ?? '[1]', parts.offsets ?? '[0,4]')}}`, data(size));
const ranges = (size: number, ...all: [number, number][]): Uint8Array => {
  const members = all.map(([a, b], i) => `"${'abcdef'[i]}":${entry('"U8"', `[${b - a}]`, `[${a},${b}]`)}`);
  return withHeader(`{${members.join(',')}}`, data(size));
};
const good = one();
const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
const f32 = '"F32"';

const refused: readonly [name: string, bytes: Uint8Array, rule: string, detail: RegExp, fileSize?: number][] = [
  ['S1 an empty file', data(0), 'too-small', /file of 0 bytes/],
  ['S2 under 8 bytes', data(7), 'too-small', /file of 7 bytes, expected at least 8/],
  ['S3 header length 0', lengthOnly(0n), 'header-length', /found header length 0/],
  ['S4 header longer than the file', lengthOnly(57n), 'header-length', /length 57, expected at most the 56 bytes left/],
  ['S5 header of 100,000,001', lengthOnly(100_000_001n), 'header-length', /at most 100000000/, 200_000_000],
  ['S6 header length 2^53', lengthOnly(2n ** 53n), 'header-length', /9007199254740992/],
  ['S6 header length 2^53 + 2^33 + 2', lengthOnly(2n ** 53n + 2n ** 33n + 2n), 'header-length', /9007207844675586/],
  ['S6 header length 2^63', lengthOnly(2n ** 63n), 'header-length', /9223372036854775808/],
  ['S6 header length 2^64 - 1', lengthOnly(2n ** 64n - 1n), 'header-length', /18446744073709551615/],
  ['S7 invalid UTF-8 in a name', withHeader(Buffer.from('{"\xff":{}}', 'latin1')), 'utf8', /not UTF-8/],
  ['S7 a surrogate as raw bytes', withHeader(Buffer.from('{"\xed\xa0\x80":{}}', 'latin1')), 'utf8', /not UTF-8/],
  ['S8 a byte order mark', withHeader(`\ufeff${Buffer.from(good.subarray(8, -4))}`, data(4)), 'bom', /byte order mark/],
  ['S9 {', withHeader('{'), 'json', /found the end at byte 1/],
  ['S9 a string cut off', withHeader('{"w'), 'json', /found the end inside a string/],
  ['S9 a backslash at the end', withHeader('{"w\\'), 'json', /found the end inside a string/],
  ['S9 an unknown escape', withHeader('{"\\x41":{}}'), 'json', /escape that JSON does not know/],
  ['S9 a raw control character in a string', withHeader('{"a\nb":{}}'), 'json', /control character 10/],
  ['S9 a trailing comma', withHeader(`{"w":${entry(f32, '[1]', '[0,4]')},}`, data(4)), 'json', /found } at byte/],
  ['S9 no colon', withHeader('{"w" {}}'), 'json', /expected : after a key/],
  ['S9 no comma', withHeader(`{"w":${entry(f32, '[1]', '[0,4]')} "v":{}}`, data(4)), 'json', /expected } or ,/],
  ['S10 an array on top', withHeader('[]'), 'not-an-object', /found \[\]/],
  ['S10 a string on top', withHeader('"w"'), 'not-an-object', /found "w"/],
  ['S10 null on top', withHeader('null'), 'not-an-object', /found null/],
  ['S11 garbage after the JSON', withHeader('{}x'), 'trailing-json', /found x at byte 2/],
  ['S11 a NUL after the JSON', withHeader('{}\0'), 'trailing-json', /u\{0\} at byte 2/],
  ['S11 a second object', withHeader('{} {}'), 'trailing-json', /found \{\} at byte 3/],
  [
    'S12 a tensor twice',
    withHeader('{"a":E,"a":E}'.replaceAll('E', entry(f32, '[0]', '[0,0]'))),
    'duplicate-key',
    /twice/,
  ],
  [
    'S12 a tensor twice, once escaped',
    withHeader('{"a":E,"\\u0061":E}'.replaceAll('E', entry(f32, '[0]', '[0,0]'))),
    'duplicate-key',
    /twice/,
  ],
  [
    'S12 data_offsets twice',
    withHeader(`{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"data_offsets":[0,0]}}`),
    'duplicate-field',
    /data_offsets twice/,
  ],
  [
    'S12 shape twice, once escaped',
    withHeader(`{"w":{"dtype":"F32","shape":[0],"sh\\u0061pe":[0],"data_offsets":[0,0]}}`),
    'duplicate-field',
    /shape twice/,
  ],
  [
    'S12 dtype twice',
    withHeader(`{"w":{"dtype":"F32","dtype":"F16","shape":[0],"data_offsets":[0,0]}}`),
    'duplicate-field',
    /dtype twice/,
  ],
  ['S12 __metadata__ twice', withHeader('{"__metadata__":{},"__metadata__":{}}'), 'duplicate-key', /twice/],
  [
    'S12 a key of __metadata__ twice',
    withHeader('{"__metadata__":{"a":"1","\\u0061":"2"}}'),
    'duplicate-key',
    /key a of __metadata__/,
  ],
  ['S13 an overlap', ranges(6, [0, 4], [2, 6]), 'overlap', /found data at byte 2, expected it at 4/],
  ['S13 the same range twice', ranges(4, [0, 4], [0, 4]), 'overlap', /at byte 0, expected it at 4/],
  ['S13 one range inside another', ranges(8, [0, 8], [2, 4]), 'overlap', /at byte 2/],
  ['S13 an empty tensor inside another', ranges(8, [0, 8], [4, 4]), 'overlap', /at byte 4/],
  ['S14 a hole at the start', ranges(6, [2, 6]), 'hole', /at byte 2, expected it at 0/],
  ['S14 a hole in the middle', ranges(8, [0, 4], [6, 8]), 'hole', /at byte 6, expected it at 4/],
  ['S14 a hole at the end', ranges(8, [0, 4], [4, 7]), 'trailing-bytes', /found 1 bytes after the data/],
  [
    'S15 trailing bytes',
    Buffer.concat([good, Buffer.from('PK\x05\x06')]),
    'trailing-bytes',
    /found 4 bytes after the data/,
  ],
  ['S15 data without tensors', withHeader('{}', data(3)), 'trailing-bytes', /found 3 bytes/],
  ['S16 cut off by one byte', good.subarray(0, -1), 'truncated', /expected \d+: it is cut off/],
  ['S17 begin > end', one({ offsets: '[4,0]' }), 'offsets', /\[4, 0\], expected begin <= end/],
  ['S17 a negative offset', one({ offsets: '[-4,0]' }), 'integer', /found -4/],
  ['S17 minus zero', one({ offsets: '[-0,4]' }), 'integer', /found -0/],
  ['S17 1.0', one({ offsets: '[0,4.0]' }), 'integer', /found 4\.0/],
  ['S17 1e3', one({ offsets: '[0,4e0]' }), 'integer', /found 4e0/],
  ['S17 a leading zero', one({ offsets: '[0,04]' }), 'integer', /found 04/],
  ['S17 a string', one({ offsets: '[0,"4"]' }), 'integer', /found "4"/],
  ['S17 null', one({ offsets: 'null' }), 'data_offsets', /found null/],
  ['S17 an offset of null', one({ offsets: '[0,null]' }), 'integer', /found null/],
  ['S17 one offset', one({ offsets: '[0]' }), 'offsets', /found 1 data_offsets/],
  ['S17 three offsets', one({ offsets: '[0,4,8]' }), 'offsets', /found more than 2 numbers in data_offsets/],
  ['S17 no dtype', withHeader('{"w":{"shape":[1],"data_offsets":[0,4]}}', data(4)), 'missing-field', /found no dtype/],
  [
    'S17 no shape',
    withHeader('{"w":{"dtype":"F32","data_offsets":[0,4]}}', data(4)),
    'missing-field',
    /found no shape/,
  ],
  [
    'S17 no data_offsets',
    withHeader('{"w":{"dtype":"F32","shape":[1]}}', data(4)),
    'missing-field',
    /found no data_offsets/,
  ],
  [
    'S17 a field that the format does not know',
    withHeader(`{"w":${entry(f32, '[1]', '[0,4],"strides":[1]')}}`, data(4)),
    'unknown-field',
    /strides/,
  ],
  ['S17 an entry that is no object', withHeader('{"w":[]}'), 'tensor-entry', /found \[\]/],
  ['S17 a shape that is no array', one({ shape: '1' }), 'shape', /found 1,"data_offsets/],
  ['S17 a shape of arrays', one({ shape: nested(100_000) }), 'integer', /found \[/],
  ['S18 offsets at 2^53 + 1', one({ offsets: '[9007199254740993,9007199254740997]' }), 'integer', /at most 2\^53 - 1/],
  ['S18 an offset of 2^53', one({ offsets: '[0,9007199254740992]' }), 'integer', /at most 2\^53 - 1/],
  ['S18 offsets of 400 digits', one({ offsets: `[0,${'9'.repeat(400)}]` }), 'integer', /at most 2\^53 - 1/],
  ['S19 shape [2, 2^64 - 2]', one({ shape: '[2,18446744073709551614]' }), 'integer', /at most 2\^53 - 1/],
  [
    'S19 shape [2^32, 2^32]',
    one({ shape: '[4294967296,4294967296]', offsets: '[0,0]' }, 0),
    'shape-overflow',
    /4294967296/,
  ],
  [
    'S19 a shape that overflows beside a 0',
    one({ shape: '[4294967296,4294967296,0]', offsets: '[0,0]' }, 0),
    'shape-overflow',
    /, 0\]/,
  ],
  [
    'S19 a shape that overflows behind a 0',
    one({ shape: '[0,4294967296,4294967296]', offsets: '[0,0]' }, 0),
    'shape-overflow',
    /\[0, /,
  ],
  ['S20 rank 1000', one({ shape: `[${'1,'.repeat(999)}1]` }), 'rank', /found more than 64 numbers in shape/],
  ['S21 an unknown dtype', one({ dtype: '"F7"' }), 'dtype', /found dtype F7, expected one of .*BF16/],
  ['S21 a dtype in lower case', one({ dtype: '"f32"' }), 'dtype', /found dtype f32/],
  ['S21 dtype constructor', one({ dtype: '"constructor"' }), 'dtype', /found dtype constructor/],
  ['S21 dtype __proto__', one({ dtype: '"__proto__"' }), 'dtype', /found dtype __proto__/],
  ['S21 a dtype that is a number', one({ dtype: '32' }), 'dtype', /found 32/],
  [
    'S22 F4, half a byte',
    one({ dtype: '"F4"', shape: '[3]', offsets: '[0,2]' }, 2),
    'sub-byte',
    /3 elements of 4 bits/,
  ],
  [
    'S22 F6, 18 bits',
    one({ dtype: '"F6_E2M3"', shape: '[3]', offsets: '[0,3]' }, 3),
    'sub-byte',
    /3 elements of 6 bits/,
  ],
  [
    'S23 more bytes than dtype x shape',
    one({ offsets: '[0,8]' }, 8),
    'size',
    /found 8 bytes of data, expected 4 for F32 \[1\]/,
  ],
  [
    'S23 fewer bytes than dtype x shape',
    one({ shape: '[2,3]' }),
    'size',
    /found 4 bytes of data, expected 24 for F32 \[2, 3\]/,
  ],
  ['S23 a dim of 0 with bytes', one({ shape: '[0]' }), 'size', /found 4 bytes of data, expected 0/],
  ['S24 __metadata__ with a number', withHeader('{"__metadata__":{"a":1}}'), 'metadata', /found 1/],
  ['S24 __metadata__ with null', withHeader('{"__metadata__":{"a":null}}'), 'metadata', /found null/],
  ['S24 __metadata__ nested', withHeader('{"__metadata__":{"a":{}}}'), 'metadata', /found \{\}/],
  ['S24 __metadata__ an array', withHeader('{"__metadata__":[]}'), 'metadata', /found \[\]/],
  [
    'S24 __metadata__ huge',
    withHeader(`{"__metadata__":{"a":"${'x'.repeat(16_000_000)}"}}`),
    'metadata',
    /expected at most 16000000/,
  ],
  ['S33 an HTML page', Buffer.from('<!DOCTYPE html><html><title>404</title>'), 'not-safetensors', /HTML/],
  [
    'S33 an HTML page after blank lines',
    Buffer.from('\n\n  <html lang="en"><title>Sign in'),
    'not-safetensors',
    /HTML/,
  ],
  [
    'S33 a Git LFS pointer',
    Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'),
    'not-safetensors',
    /git lfs pull/,
  ],
  ['S33 gzip', Buffer.from('1f8b0800a1b2c3d40003cb48cdc9c907', 'hex'), 'not-safetensors', /gzip/],
  [
    'S33 gzip with a plausible length',
    Buffer.concat([Buffer.from('1f8b080000000000', 'hex'), Buffer.from('0003cb48', 'hex'), data(600_000)]),
    'not-safetensors',
    /gzip/,
  ],
  ['S33 a JSON error', Buffer.from('{"error":"Repository not found"}'), 'not-safetensors', /JSON text/],
  ['S33 a short JSON error', Buffer.from('{"e":1}'), 'not-safetensors', /JSON text/],
  [
    'K a zip under a wrong name',
    Buffer.from('504b0304140000000800000000000000', 'hex'),
    'pickle',
    /torch\.load.*weights_only/,
  ],
  ['K a bare pickle under a wrong name', Buffer.from('8002637265656d6f64756c65', 'hex'), 'pickle', /save_file/],
];

describe('refused', () => {
  test.each(refused)('%s', (_, bytes, rule, detail, fileSize) => {
    const error = refusal(bytes, fileSize);
    expect([error.rule, error.path]).toEqual([rule, path]);
    expect(error.detail).toMatch(detail);
    expect(error.message.length).toBeLessThan(3000);
  });

  test('the tensor at fault is named', () => {
    expect(refusal(ranges(6, [0, 4], [2, 6])).tensor).toBe('b');
    expect(refusal(one({ offsets: '[4,0]' })).message).toMatch(/^zoo\/model.safetensors: tensor w: found data_offsets/);
  });
});

const plain = (shape: number[], bytes: number, name = 'w') => ({ name, dtype: 'F32', shape, data: data(bytes) });
const names = (header: SafetensorsHeader): string[] => header.tensors.map((tensor) => tensor.name);

describe('accepted', () => {
  test('a file with two tensors, in storage order', () => {
    const header = withHeader(
      `{"b":${entry('"BF16"', '[2,2]', '[4,12]')},"a":${entry(f32, '[1]', '[0,4]')},"__metadata__":{"format":"pt"}}`,
      data(12),
    );
    const { tensors, metadata } = read(header);
    const base = header.length - 12;
    expect(tensors).toEqual([
      { name: 'a', dtype: 'F32', shape: [1], file: 0, offset: base, byteLength: 4 },
      { name: 'b', dtype: 'BF16', shape: [2, 2], file: 0, offset: base + 4, byteLength: 8 },
    ]);
    expect([...metadata]).toEqual([['format', 'pt']]);
  });

  test('no tensors at all', () => expect(read(withHeader('{}')).tensors).toEqual([]));

  test('S16 the same file whole', () => expect(names(read(good))).toEqual(['w']));

  test('S20 a dim of 0', () => expect(read(safetensorsBytes([plain([3, 0, 5], 0)])).tensors[0]!.byteLength).toBe(0));

  test('S20 rank 0', () => expect(read(safetensorsBytes([plain([], 4)])).tensors[0]!.byteLength).toBe(4));

  test('S20 rank 64', () => expect(read(safetensorsBytes([plain(new Array(64).fill(1), 4)])).tensors).toHaveLength(1));

  test('S21 dtypes that are not read are kept as entries', () => {
    const header = read(
      safetensorsBytes(
        ['I64', 'BOOL', 'F8_E8M0', 'C64'].map((dtype) => ({ name: dtype, dtype, shape: [0], data: data(0) })),
      ),
    );
    expect(names(header)).toEqual(['I64', 'BOOL', 'F8_E8M0', 'C64']);
  });

  test('S22 F4 and F6 in whole bytes', () => {
    const f4 = { name: 'f4', dtype: 'F4', shape: [2, 3], data: data(3) };
    const f6 = { name: 'f6', dtype: 'F6_E3M2', shape: [4], data: data(3) };
    expect(read(safetensorsBytes([f4, f6])).tensors.map((t) => t.byteLength)).toEqual([3, 3]);
  });

  test.each([
    '{"w":E}',
    '{"__metadata__":{},"w":E}',
    '{"__metadata__":null,"w":E}',
    '{"__metadata__":{"__proto__":"x"},"w":E}',
  ])('S24 metadata: %s', (header) =>
    expect(names(read(withHeader(header.replace('E', entry(f32, '[1]', '[0,4]')), data(4))))).toEqual(['w']),
  );

  test('S24 metadata of 1 MB', () => {
    const header = withHeader(JSON.stringify({ __metadata__: { notes: 'x'.repeat(1e6) } }));
    expect(read(header).metadata.get('notes')).toHaveLength(1e6);
  });

  const strange = [
    '__proto__',
    'constructor',
    'toString',
    '',
    'x'.repeat(1e6),
    '\u001b]0;owned\u0007',
    '\r\n',
    '../../x',
    '\0',
    '\ud800',
    'W',
    'w',
    '\u202etxt.exe',
  ];
  test('S25 strange names are data', () => {
    const header = safetensorsBytes(strange.map((name) => plain([1], 4, name)));
    const { tensors } = read(header);
    expect(tensors.map((tensor) => tensor.name)).toEqual(strange);
    expect(tensors.every((tensor) => tensor.shape.length === 1)).toBe(true);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  test.each(strange.map((name, i) => [JSON.stringify(name).slice(0, 24), name, i] as const))(
    'S25 %s is escaped in a message',
    (_, name) => {
      const broken = safetensorsBytes([{ name, dtype: 'F32', shape: [2], data: data(4) }]);
      const { message } = refusal(broken);
      expect(message).toMatch(/^[^\p{C}\p{Zl}\p{Zp}]{20,600}$/u);
    },
  );

  test('S26 empty tensors that share an offset', () => {
    const bytes = ranges(4, [0, 0], [0, 4], [0, 0], [4, 4], [4, 4]);
    expect(names(read(bytes))).toEqual(['a', 'c', 'b', 'd', 'e']);
  });

  test('S27 a million tensors of 0 bytes', { timeout: 120_000 }, () => {
    const members: string[] = [];
    for (let i = 0; i < 1e6; i++) members.push(`"t${i}":${entry(f32, '[0]', '[0,0]')}`);
    expect(read(withHeader(`{${members.join(',')}}`)).tensors).toHaveLength(1e6);
  });

  test('S28 leading and trailing white space', () => {
    const header = ` \n\r\t{ "w" : ${entry(f32, '[ 1 ]', '[ 0 , 4 ]')} } \n`;
    expect(names(read(withHeader(header, data(4))))).toEqual(['w']);
  });

  test('S30 NaN, infinity, denormals and zeros are data', () => {
    const values = Float32Array.of(Number.NaN, Infinity, -Infinity, 1e-45, 0);
    expect(names(read(safetensorsBytes([{ name: 'w', dtype: 'F32', shape: [5], data: values }])))).toEqual(['w']);
  });

  test('S31 misaligned F32', () => {
    const odd = safetensorsBytes([{ name: 'a', dtype: 'U8', shape: [1], data: data(1) }, plain([2], 8)]);
    expect(read(odd).tensors[1]!.offset % 4).not.toBe(0);
  });
});
