// Structure-aware fuzzing of the header parser against the second model of the rules. Most inputs are one small step away from a
// valid file, which is where parsers disagree. WEIGHTSPAN_FUZZ_RUNS sets the number of inputs, WEIGHTSPAN_FUZZ_SEED the start.
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SourceMalformed } from '../../sources/errors.ts';
import { headerLength, parseSafetensorsHeader } from '../../sources/safetensors.ts';
import { judge, type ModelEntry } from './safetensors-model.ts';

const widths: Record<string, number> = {
  F64: 64,
  I64: 64,
  C64: 64,
  F32: 32,
  BF16: 16,
  F16: 16,
  U8: 8,
  BOOL: 8,
  F4: 4,
  F6_E3M2: 6,
};
const names = [
  'a',
  'b',
  'A',
  'a.weight',
  '__proto__',
  'constructor',
  'toString',
  '',
  '../../x',
  '\0',
  '\x1b[2J',
  'é',
  '𝕏',
  '\ud800',
  '"\\',
  ' ',
];
const numbers = [
  '0',
  '1',
  '2',
  '-1',
  '-0',
  '1.0',
  '1e3',
  '01',
  '+1',
  '"1"',
  'null',
  'true',
  '[]',
  '9007199254740991',
  '9007199254740992',
  '9007199254740993',
  '18446744073709551614',
  '1e400',
  '4503599627370496',
];
const literals = [
  'null',
  'true',
  '0',
  '"F32"',
  '"F7"',
  '"f32"',
  '"constructor"',
  '[]',
  '[0]',
  '[0,0]',
  '[0,0,0]',
  '{}',
  '[[0],0]',
  '"',
  '{',
  '[1,]',
  '\ufeff',
  '[0 0]',
  '{"a":1}',
  '[4,"4"]',
];
const keys = [
  '"dtype"',
  '"shape"',
  '"data_offsets"',
  '"\\u0073hape"',
  '"d\\u0074ype"',
  '"Shape"',
  '"__proto__"',
  '""',
  '"x"',
  'dtype',
  '"\\q"',
];
const metadata = [
  'null',
  '{}',
  '{"format":"pt"}',
  '{"a":1}',
  '{"a":"1","a":"2"}',
  '{"a":"1","\\u0061":"2"}',
  '[]',
  '"x"',
  '{"a":null}',
  '{"__proto__":"x"}',
  '{"a":{}}',
  '{"a":"\\ud800"}',
];
const bytes = [
  0x00, 0x20, 0x0a, 0x0b, 0x22, 0x2c, 0x30, 0x39, 0x3a, 0x5b, 0x5c, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xa0, 0xc0, 0xed,
  0xef, 0xff,
];

const kinds = [
  'value',
  'key',
  'drop',
  'repeat',
  'number',
  'fileSize',
  'swap',
  'metadata',
  'metadata',
  'twin',
  'tail',
  'lead',
  'byte',
  'insert',
  'delete',
  'length',
  'cut',
  'space',
  'empty',
  'shift',
] as const;

const input = fc.record({
  tensors: fc.array(
    fc.record({
      name: fc.constantFrom(...names),
      dtype: fc.constantFrom(...Object.keys(widths)),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
      fill: fc.boolean(),
    }),
    { maxLength: 4 },
  ),
  reverse: fc.boolean(),
  escaped: fc.boolean(),
  steps: fc.array(fc.record({ kind: fc.constantFrom(...kinds), at: fc.nat(9999), pick: fc.nat(9999) }), {
    maxLength: 3,
  }),
});
type Input = typeof input extends fc.Arbitrary<infer T> ? T : never;
type Member = { key: string; fields: [string, string][] };

const json = (name: string, escaped: boolean): string =>
  escaped
    ? `"${name.replace(/./gs, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)}"`
    : JSON.stringify(name);

function build({ tensors, reverse, escaped, steps }: Input): { start: Buffer; fileSize: number } {
  const seen = new Set<string>();
  let at = 0;
  const members: Member[] = [];
  for (const { name, dtype, shape, fill } of tensors) {
    if (seen.has(name)) continue;
    seen.add(name);
    const whole = fill || dtype.startsWith('F6') || dtype === 'F4' ? [...shape, 4] : shape;
    const size = (whole.reduce((product, n) => product * n, 1) * widths[dtype]!) / 8;
    const fields: [string, string][] = [
      ['"dtype"', `"${dtype}"`],
      ['"shape"', `[${whole}]`],
      ['"data_offsets"', `[${at},${at + size}]`],
    ];
    members.push({ key: json(name, escaped), fields });
    at += size;
  }
  if (reverse) members.reverse();
  let dataSize = at;
  let meta: string | undefined;
  let text = '';
  for (const { kind, at, pick } of steps) {
    const member = members[at % (members.length || 1)];
    const field = member?.fields[pick % (member.fields.length || 1)];
    if (kind === 'metadata') meta = metadata[pick % metadata.length]!;
    if (kind === 'fileSize') dataSize += (pick % 19) - 9;
    if (kind === 'empty') members.length = 0;
    if (member === undefined || field === undefined) continue;
    if (kind === 'value') field[1] = literals[at % literals.length]!;
    if (kind === 'key') field[0] = keys[at % keys.length]!;
    if (kind === 'drop') member.fields.splice(pick % 3, 1);
    if (kind === 'repeat') member.fields.push([at % 2 === 0 ? field[0] : keys[at % keys.length]!, field[1]]);
    if (kind === 'twin')
      members.push({ key: json(JSON.parse(member.key) as string, at % 2 === 0), fields: member.fields });
    if (kind === 'swap') members.push(...members.splice(0, 1));
    if (kind === 'shift') {
      const by = (at % 5) - 2;
      member.fields = member.fields.map(([k, v]) => [
        k,
        k === '"data_offsets"' ? v.replace(/\d+/g, (n) => String(Number(n) + by)) : v,
      ]);
    }
    if (kind === 'number') {
      let skip = pick % 3;
      field[1] = field[1].replace(/\d+/g, (n) => (skip-- === 0 ? numbers[at % numbers.length]! : n));
    }
  }
  const body = members.map(({ key, fields }) => `${key}:{${fields.map(([k, v]) => `${k}:${v}`).join(',')}}`);
  if (meta !== undefined) body.splice(steps.length % (body.length + 1), 0, `"__metadata__":${meta}`);
  text = `{${body.join(',')}}`;
  for (const { kind, at, pick } of steps) {
    if (kind === 'tail') text += [' ', '\n', '\t', ',', 'x', '{}', '\0', ']'][pick % 8]!;
    if (kind === 'lead') text = [' ', '\r\n', '\t', '\ufeff', '[', '\v', '\u00a0', 'null'][pick % 8]! + text;
    if (kind === 'space')
      text = text.replaceAll([':', ',', '[', '}'][at % 4]!, [' $& ', '$&\n', '\t$&', '$&\u2028'][pick % 4]!);
  }
  let header = Buffer.from(text);
  let length: bigint | undefined;
  for (const { kind, at, pick } of steps) {
    const i = header.length === 0 ? 0 : at % header.length;
    const byte = bytes[pick % bytes.length]!;
    if (kind === 'byte' && header.length > 0) header[i] = byte;
    if (kind === 'insert') header = Buffer.concat([header.subarray(0, i), Buffer.of(byte), header.subarray(i)]);
    if (kind === 'delete') header = Buffer.concat([header.subarray(0, i), header.subarray(i + 1 + (pick % 3))]);
    if (kind === 'length') {
      const edge = [0n, 1n, 100_000_001n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
      length = pick % 2 === 0 ? edge[at % edge.length]! : BigInt(Math.max(0, header.length + (at % 7) - 3));
    }
  }
  const start = Buffer.concat([Buffer.alloc(8), header, Buffer.alloc(Math.max(0, Math.min(dataSize, 64)))]);
  start.writeBigUInt64LE(length ?? BigInt(header.length));
  const cut = steps.find((step) => step.kind === 'cut');
  const fileSize = Math.max(0, 8 + header.length + dataSize);
  if (cut === undefined) return { start: start.subarray(0, Math.min(start.length, fileSize)), fileSize };
  const size = cut.at % (fileSize + 1);
  return { start: start.subarray(0, Math.min(start.length, size)), fileSize: size };
}

function parse(start: Buffer, fileSize: number): readonly ModelEntry[] | undefined {
  try {
    const length = headerLength(start.subarray(0, 512), fileSize, 'f');
    const { tensors } = parseSafetensorsHeader(start.subarray(8, 8 + length), fileSize, 'f', 3);
    return tensors.map(({ file, ...entry }) => {
      if (file !== 3) throw new Error('the file index was lost');
      return entry;
    });
  } catch (error) {
    if (!(error instanceof SourceMalformed)) throw error;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what no message may let through to a terminal
    if (!/^[^\x00-\x1f\x7f-\x9f]{10,2000}$/.test(error.message))
      throw new Error(`unfit message ${JSON.stringify(error.message)}`);
    return undefined;
  }
}

test('the parser and the model of the rules agree on valid and on mutated files', () => {
  const runs = Number(process.env.WEIGHTSPAN_FUZZ_RUNS ?? 2000);
  const seed = process.env.WEIGHTSPAN_FUZZ_SEED;
  let accepted = 0;
  fc.assert(
    fc.property(input, (generated) => {
      const { start, fileSize } = build(generated);
      const expected = judge(start, fileSize);
      if (expected !== undefined) accepted++;
      expect(parse(start, fileSize)).toEqual(expected);
    }),
    { numRuns: runs, ...(seed === undefined ? {} : { seed: Number(seed) }) },
  );
  // Both sides must be hit often, or agreement says nothing.
  expect(accepted).toBeGreaterThan(runs * 0.15);
  expect(accepted).toBeLessThan(runs * 0.85);
  if (runs > 2000) console.log(`${runs} inputs, ${accepted} accepted`);
}, 3_600_000);
