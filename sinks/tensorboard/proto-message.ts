// Writes one protobuf message, field by field, in one buffer that grows: the four kinds of fields that event files need.
// Zeros are written like any other value; readers take a missing field for zero, so that is one and the same to them.

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

export class ProtoMessage {
  #buffer = Buffer.allocUnsafe(128);
  #length = 0;

  /** A whole number from 0 to 2^53. */
  integer(field: number, value: number): this {
    this.#varint(field * 8 + VARINT);
    this.#varint(value);
    return this;
  }

  double(field: number, value: number): this {
    this.#varint(field * 8 + FIXED64);
    this.#room(8);
    this.#length = this.#buffer.writeDoubleLE(value, this.#length);
    return this;
  }

  float(field: number, value: number): this {
    this.#varint(field * 8 + FIXED32);
    this.#room(4);
    this.#length = this.#buffer.writeFloatLE(value, this.#length);
    return this;
  }

  /** Text, or another message. Text must be well-formed. */
  bytes(field: number, value: Uint8Array | string): this {
    const bytes = typeof value === 'string' ? Buffer.from(value) : value;
    this.#varint(field * 8 + BYTES);
    this.#varint(bytes.length);
    this.#room(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** A packed list. */
  doubles(field: number, values: readonly number[]): this {
    const packed = Buffer.allocUnsafe(8 * values.length);
    for (const [i, value] of values.entries()) packed.writeDoubleLE(value, 8 * i);
    return this.bytes(field, packed);
  }

  /** What was written so far; valid until more is. */
  get written(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  #varint(value: number): void {
    this.#room(10);
    let rest = value;
    while (rest >= 128) {
      this.#buffer[this.#length++] = (rest % 128) + 128;
      rest = Math.floor(rest / 128);
    }
    this.#buffer[this.#length++] = rest;
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(2 * (this.#length + bytes));
    larger.set(this.written);
    this.#buffer = larger;
  }
}
