// Reads event files by others' means: checksums by Python, bit by bit, and messages by protobuf's own protoc; and shows of a folder
// what TensorBoard would, by its rule for sessions that begin anew.
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { requirePart } from '../../requires.ts';

export const hasProtoc = requirePart('protoc', spawnSync('protoc', ['--version']).status === 0);

/** As protoc prints it: every field may be repeated. */
export interface Message {
  readonly [field: string]: readonly (string | Message)[];
}

const here = dirname(fileURLToPath(import.meta.url));
const MOST = 1 << 28;

/** The messages of a file's records. Throws where a checksum does not hold or protoc does not understand it. */
export function readEvents(file: string): readonly Message[] {
  const records = execFileSync('python3', [join(here, 'unframe.py')], { input: readFileSync(file), maxBuffer: MOST });
  const text = execFileSync('protoc', ['--decode=Records', `-I${here}`, 'event-messages.proto'], {
    input: records,
    maxBuffer: MOST,
    encoding: 'utf8',
  });
  return (parseText(text).event ?? []) as readonly Message[];
}

/** protoc's text format: `name: value`, `name {`, `}`. An unknown field has a number for a name. */
function parseText(text: string): Message {
  const root: Record<string, (string | Message)[]> = {};
  const stack = [root];
  for (const line of text.split('\n')) {
    const at = stack.at(-1)!;
    const opened = /^\s*(\w+) \{$/.exec(line)?.[1];
    const field = /^\s*(\w+): (.*)$/.exec(line);
    if (opened !== undefined) {
      const inner: Record<string, (string | Message)[]> = {};
      at[opened] = [...(at[opened] ?? []), inner];
      stack.push(inner);
    } else if (field !== null) {
      at[field[1]!] = [...(at[field[1]!] ?? []), field[2]!.startsWith('"') ? unquoted(field[2]!) : field[2]!];
    } else if (line.trim() === '}') stack.pop();
  }
  return root;
}

const ESCAPES: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, '"': 34, "'": 39, '\\': 92 };

/** Bytes beyond ASCII are in octal. */
const unquoted = (quoted: string): string => {
  const bytes: number[] = [];
  for (const [, octal, escaped, plain] of quoted.slice(1, -1).matchAll(/\\([0-7]{3})|\\(.)|([^\\])/g))
    bytes.push(
      octal !== undefined
        ? Number.parseInt(octal, 8)
        : escaped !== undefined
          ? ESCAPES[escaped]!
          : plain!.charCodeAt(0),
    );
  return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes));
};

export interface Point {
  readonly step: number;
  readonly wallTime: number;
  readonly value: number | Message;
}

export const only = (message: Message, field: string): string => String(message[field]?.[0] ?? '0');
export const inner = (message: Message, field: string): Message => (message[field]?.[0] ?? {}) as Message;

/** What TensorBoard shows of a folder: files by name; a second START drops, of every tag, the steps from its own on. */
export function shownOf(folder: string): ReadonlyMap<string, readonly Point[]> {
  let shown = new Map<string, Point[]>();
  let sessions = 0;
  for (const name of readdirSync(folder).toSorted()) {
    for (const event of readEvents(join(folder, name))) {
      const step = Number(only(event, 'step'));
      if (only(inner(event, 'session_log'), 'status') === 'START' && sessions++ > 0)
        shown = new Map([...shown].map(([tag, points]) => [tag, points.filter((point) => point.step < step)]));
      for (const value of (inner(event, 'summary').value ?? []) as readonly Message[]) {
        const tag = only(value, 'tag');
        const points = shown.get(tag) ?? [];
        shown.set(tag, points);
        points.push({
          step,
          wallTime: Number(only(event, 'wall_time')),
          value: value.histo === undefined ? Number(only(value, 'simple_value')) : inner(value, 'histo'),
        });
      }
    }
  }
  return new Map([...shown].filter(([, points]) => points.length > 0));
}
