// A JSON scanner for headers from strangers. JSON.parse keeps the last of two duplicate keys, rounds integers above 2^53, takes
// 1e2 for an integer and overflows the stack; this one leaves every decision to its caller, who drives it through the shape it
// expects. One pass over the bytes, about 100 ns a string; names are copied, so that no header is kept alive by one of them.
import { isUtf8 } from 'node:buffer';
import { displayName } from './display-name.ts';

/** Called with a rule and found-against-expected; throws. */
export type Fail = (rule: string, detail: string) => never;

const quote = 0x22;
const backslash = 0x5c;
const maxDepth = 64;
const number = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const numberByte = (c: number): boolean =>
  (c >= 0x30 && c <= 0x39) || c === 0x2b || c === 0x2d || c === 0x2e || (c | 32) === 0x65;

export class JsonScanner {
  readonly #bytes: Buffer;
  readonly #fail: Fail;
  readonly #seen: (string | undefined)[] = new Array(256).fill(undefined);
  #at = 0;

  /** Fails with rule `bom` or `utf8` where the bytes are not plain UTF-8. */
  constructor(bytes: Uint8Array, fail: Fail) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#fail = fail;
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) fail('bom', 'found a byte order mark, expected {');
    if (!isUtf8(bytes)) fail('utf8', 'found bytes that are not UTF-8, expected UTF-8 JSON');
  }

  /** Where the scanner stands, in bytes. */
  get at(): number {
    return this.#at;
  }

  /** The next byte that is not white space; -1 at the end. */
  peek(): number {
    for (;;) {
      const c = this.#bytes[this.#at];
      if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return c ?? -1;
      this.#at++;
    }
  }

  /** Takes one punctuation character if it comes next. */
  accept(character: string): boolean {
    if (this.peek() !== character.charCodeAt(0)) return false;
    this.#at++;
    return true;
  }

  expect(character: string, where: string): void {
    if (!this.accept(character)) this.unexpected(`${character} ${where}`);
  }

  /** Reads an object; `member` is called after each key and must take its value. */
  object(what: string, member: (key: string) => void): void {
    this.expect('{', `to open ${what}`);
    if (this.accept('}')) return;
    do {
      const key = this.string(`a key of ${what}`);
      this.expect(':', `after a key of ${what}`);
      member(key);
    } while (this.accept(','));
    this.expect('}', `or , in ${what}`);
  }

  /** Reads an array; `element` must take one element. */
  array(what: string, element: () => void): void {
    this.expect('[', `to open ${what}`);
    if (this.accept(']')) return;
    do element();
    while (this.accept(','));
    this.expect(']', `or , in ${what}`);
  }

  string(what: string): string {
    if (this.peek() !== quote) this.unexpected(`a string as ${what}`);
    const bytes = this.#bytes;
    const start = this.#at + 1;
    let ascii = true;
    let plain = true;
    let end = start;
    for (; ; end++) {
      const c = bytes[end];
      if (c === quote) break;
      if (c === undefined)
        this.#fail('json', `found the end inside a string that opens at byte ${this.#at}, expected "`);
      if (c < 0x20)
        this.#fail('json', `found control character ${c} inside a string at byte ${end}, expected an escape`);
      if (c === backslash) {
        plain = false;
        end++;
      } else if (c >= 0x80) ascii = false;
    }
    const opened = this.#at;
    this.#at = end + 1;
    if (plain) return ascii ? this.#ascii(start, end) : bytes.toString('utf8', start, end);
    try {
      return JSON.parse(bytes.toString('utf8', opened, end + 1)) as string;
    } catch {
      this.#fail('json', `found an escape that JSON does not know in the string at byte ${opened}`);
    }
  }

  /** Field names and dtypes come again and again: a short string seen before is not made anew. */
  #ascii(start: number, end: number): string {
    const bytes = this.#bytes;
    const length = end - start;
    if (length === 0 || length > 16) return bytes.toString('latin1', start, end);
    const slot = (length * 31 + bytes[start]! * 7 + bytes[end - 1]!) & 255;
    const seen = this.#seen[slot];
    if (seen !== undefined && seen.length === length) {
      let i = 0;
      while (i < length && seen.charCodeAt(i) === bytes[start + i]) i++;
      if (i === length) return seen;
    }
    const made = bytes.toString('latin1', start, end);
    this.#seen[slot] = made;
    return made;
  }

  /** A whole number from 0 to 2^53 - 1, in plain digits: no sign, point, exponent or leading zero. */
  natural(what: string): number {
    const first = this.peek();
    const start = this.#at;
    let value = 0;
    let c = first;
    while (c >= 0x30 && c <= 0x39) {
      // Once past 2^53 the sum may be rounded, but it never comes back below.
      value = value * 10 + (c - 0x30);
      c = this.#bytes[++this.#at] ?? -1;
    }
    const digits = this.#at - start;
    if (digits === 0 || (digits > 1 && first === 0x30) || numberByte(c)) {
      this.#at = start;
      this.unexpected(`a whole number in plain digits as ${what}`, 'integer');
    }
    if (value > Number.MAX_SAFE_INTEGER) {
      this.#at = start;
      this.unexpected(`at most 2^53 - 1 as ${what}`, 'integer');
    }
    return value;
  }

  /** Any JSON number, as float64 has it: finite unless it is beyond 1.8e308. */
  number(what: string): number {
    this.peek();
    const start = this.#at;
    if (!this.acceptNumber()) this.unexpected(`a number as ${what}`, 'number');
    return Number(this.#bytes.toString('latin1', start, this.#at));
  }

  boolean(what: string): boolean {
    if (this.#acceptWord('true')) return true;
    if (this.#acceptWord('false')) return false;
    return this.unexpected(`true or false as ${what}`, 'boolean');
  }

  /** Takes `null` if it comes next. */
  acceptNull(): boolean {
    return this.#acceptWord('null');
  }

  /** Takes any JSON number if one comes next. */
  acceptNumber(): boolean {
    this.peek();
    let end = this.#at;
    while (numberByte(this.#bytes[end] ?? -1)) end++;
    if (!number.test(this.#bytes.toString('latin1', this.#at, end))) return false;
    this.#at = end;
    return true;
  }

  /** Takes any value, checking its grammar but not its keys; fails with `json-depth` below 64 levels. */
  skip(what: string, depth = 0): void {
    if (depth > maxDepth) this.#fail('json-depth', `found more than ${maxDepth} levels of nesting in ${what}`);
    const c = this.peek();
    if (c === 0x7b) this.object(what, () => this.skip(what, depth + 1));
    else if (c === 0x5b) this.array(what, () => this.skip(what, depth + 1));
    else if (c === quote) this.string(what);
    else if (
      !this.#acceptWord('null') &&
      !this.#acceptWord('true') &&
      !this.#acceptWord('false') &&
      !this.acceptNumber()
    )
      this.unexpected(`a value in ${what}`);
  }

  /** Fails where anything but white space is left. */
  end(): void {
    if (this.peek() !== -1) this.unexpected('nothing after the closing }', 'trailing-json');
  }

  unexpected(expected: string, rule = 'json'): never {
    const found = this.peek() === -1 ? 'the end' : displayName(this.#bytes.toString('utf8', this.#at, this.#at + 24));
    return this.#fail(rule, `found ${found} at byte ${this.#at} of the JSON, expected ${expected}`);
  }

  #acceptWord(word: string): boolean {
    this.peek();
    if (this.#bytes.toString('latin1', this.#at, this.#at + word.length) !== word) return false;
    this.#at += word.length;
    return true;
  }
}
