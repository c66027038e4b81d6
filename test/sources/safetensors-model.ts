// The rules of safetensors a second time, small and slow, by other means than sources/safetensors.ts: JSON.parse for the grammar,
// a rewriting of every string and number into a marked string so that it can neither round nor lose a key, and BigInt throughout.

export interface ModelEntry {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly byteLength: number;
}

const bits: Record<string, bigint> = {};
for (const name of 'BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ'.split(' ')) bits[`s:${name}`] = 8n;
for (const name of 'I16 U16 F16 BF16'.split(' ')) bits[`s:${name}`] = 16n;
for (const name of 'I32 U32 F32'.split(' ')) bits[`s:${name}`] = 32n;
for (const name of 'C64 F64 I64 U64'.split(' ')) bits[`s:${name}`] = 64n;
for (const name of 'F6_E2M3 F6_E3M2'.split(' ')) bits[`s:${name}`] = 6n;
bits['s:F4'] = 4n;

const top = 2n ** 53n - 1n;

/** The tensors of the file in storage order, or undefined where any rule is broken. */
export function judge(start: Uint8Array, fileSize: number): readonly ModelEntry[] | undefined {
  try {
    return entries(start, BigInt(fileSize));
  } catch {
    return undefined;
  }
}

function must(condition: boolean): asserts condition {
  if (!condition) throw new Error('refused');
}

function entries(start: Uint8Array, fileSize: bigint): readonly ModelEntry[] {
  must(start.length >= 8);
  const length = start.slice(0, 8).reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n);
  must(length > 0n && length <= 100_000_000n && length + 8n <= fileSize);
  const bytes = start.slice(8, 8 + Number(length));
  const header = parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  must(isObject(header));
  const found: (ModelEntry & { begin: bigint; end: bigint })[] = [];
  for (const [key, value] of Object.entries(header)) {
    if (key === 's:__metadata__') {
      if (value === null) continue;
      must(isObject(value) && Object.values(value).every((v) => typeof v === 'string' && v.startsWith('s:')));
      continue;
    }
    must(isObject(value));
    must(Object.keys(value).sort().join() === 's:data_offsets,s:dtype,s:shape');
    const width = Object.hasOwn(bits, value['s:dtype'] as string) ? bits[value['s:dtype'] as string]! : 0n;
    must(width > 0n);
    const shape = naturals(value['s:shape']);
    const [begin, end, ...more] = naturals(value['s:data_offsets']);
    must(begin !== undefined && end !== undefined && more.length === 0 && begin <= end && shape.length <= 64);
    must(shape.reduce((product, n) => (n === 0n ? product : product * n), width) <= top);
    must(shape.reduce((product, n) => product * n, width) === (end - begin) * 8n);
    const offset = Number(8n + length + begin);
    const dtype = (value['s:dtype'] as string).slice(2);
    found.push({
      name: key.slice(2),
      dtype,
      shape: shape.map(Number),
      offset,
      byteLength: Number(end - begin),
      begin,
      end,
    });
  }
  found.sort((a, b) => (a.begin === b.begin ? Number(a.end - b.end) : Number(a.begin - b.begin)));
  const ends = [0n, ...found.map((entry) => entry.end)];
  must(found.every((entry, i) => entry.begin === ends[i]!));
  must(8n + length + ends.at(-1)! === fileSize);
  return found.map(({ begin: _, end: __, ...entry }) => entry);
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function naturals(value: unknown): bigint[] {
  must(Array.isArray(value));
  return value.map((element) => {
    must(typeof element === 'string' && /^n:(0|[1-9][0-9]*)$/.test(element));
    const n = BigInt(element.slice(2));
    must(n <= top);
    return n;
  });
}

/** JSON with strings as `s:…` and numbers as `n:` and their digits; refuses duplicate keys anywhere. */
function parse(text: string): unknown {
  JSON.parse(text);
  const pieces = text.match(/"(?:[^"\\]|\\.)*"|-?[0-9][0-9eE+.-]*|[{}[\],:]|[a-z]+/gs) ?? [];
  const open: Set<string>[] = [];
  const rewritten = pieces.map((piece, i) => {
    if (piece === '{' || piece === '[') open.push(new Set());
    if (piece === '}' || piece === ']') open.pop();
    if (!piece.startsWith('"')) return /^[-0-9]/.test(piece) ? `"n:${piece}"` : piece;
    const plain = JSON.parse(piece) as string;
    if (pieces[i + 1] === ':') {
      must(!open.at(-1)!.has(plain));
      open.at(-1)!.add(plain);
    }
    return JSON.stringify(`s:${plain}`);
  });
  return JSON.parse(rewritten.join(''));
}
