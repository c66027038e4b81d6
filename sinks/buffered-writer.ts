// The writer hyparquet-writer encodes into, over a DurableFile. Small appends gather in one buffer; big ones are
// kept by reference, and up to 64 pieces go to the disk in one gathered write: no copy, and one system call for
// 32 pages and their headers. Its own file writer copies everything twice and never syncs.
import { ByteWriter } from 'hyparquet-writer/src/bytewriter.js';
import type { DurableFile } from './durable-file.ts';

/** From this size on, a copy costs more than a piece of a gathered write. */
const BY_REFERENCE = 16_384;
const MOST_PIECES = 64;

export class BufferedWriter extends ByteWriter {
  readonly #file: DurableFile;
  #pieces: Uint8Array[] = [];
  /** Where in `buffer` the bytes begin that no piece holds yet. */
  #loose = 0;

  constructor(file: DurableFile, capacity = 1 << 18) {
    super(capacity);
    this.#file = file;
  }

  /** Makes room for `size` bytes at `index`, by writing out what is there. */
  override ensure(size: number): void {
    if (this.index + size <= this.buffer.byteLength) return;
    this.flush();
    if (size > this.buffer.byteLength) {
      this.buffer = new ArrayBuffer(size);
      this.view = new DataView(this.buffer);
    }
  }

  /** `bytes` may be read until the next `flush`. */
  override appendBytes(bytes: Uint8Array): void {
    if (bytes.length < BY_REFERENCE) {
      super.appendBytes(bytes);
      return;
    }
    this.#gather();
    this.#pieces.push(bytes);
    this.offset += bytes.length;
    if (this.#pieces.length >= MOST_PIECES) this.flush();
  }

  /** Writes everything out: what was appended may change again. */
  flush(): void {
    this.#gather();
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#loose = 0;
    this.index = 0;
    if (pieces.length > 0) this.#file.writeAll(pieces);
  }

  /** Writes everything out and commits the file. */
  override finish(): void {
    this.flush();
    this.#file.commit();
  }

  /** As `finish`, but the disk is waited for on another thread. */
  async finishLater(): Promise<void> {
    this.flush();
    await this.#file.commitLater();
  }

  override getBuffer(): ArrayBuffer {
    throw new Error('what was written is on the disk, not in the buffer');
  }

  override getBytes(): Uint8Array<ArrayBuffer> {
    throw new Error('what was written is on the disk, not in the buffer');
  }

  #gather(): void {
    if (this.index === this.#loose) return;
    this.#pieces.push(new Uint8Array(this.buffer, this.#loose, this.index - this.#loose));
    this.#loose = this.index;
  }
}
