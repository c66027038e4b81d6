// The way of weights to the card: rows as they are stored are put into pinned memory, go up on a stream of their own, and are made
// float32 where they belong by a kernel on the stream of products. Two such pieces are under way at a time, so that the next
// rows are read and sent while the card multiplies. Cost on the processor: one copy of the stored bytes.
import koffi from 'koffi';
import { bytesPerElement, widen as widenOnProcessor } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import type { CudaCard } from './cuda-card.ts';
import { storedAs } from './cuda-kernels.ts';
import { type CudaPointer, pointerCell } from './cuda-library.ts';

/** Where rows go, and what is added to each. */
export interface RowPlace {
  /** Of the first row's first float. */
  readonly to: CudaPointer;
  /** Floats from one row to the next. */
  readonly stride: number;
  readonly width: number;
  /** A row of `width` floats on the card; 0: none. */
  readonly shift: CudaPointer;
}

interface Piece {
  readonly pinned: CudaPointer;
  readonly bytes: Uint8Array;
  readonly onCard: CudaPointer;
  /** When its bytes are up, and when the kernel has taken them. */
  readonly up: CudaPointer;
  readonly taken: CudaPointer;
  isUnderWay: boolean;
}

const PIECES = 2;
/** Bytes of a piece: 64 rows of a tile of float32. */
export const PIECE_BYTES = 4 * 2 ** 20;
const UP = 1;

export class CudaUploads {
  readonly #card: CudaCard;
  readonly #pieces: Piece[] = [];
  #next = 0;
  readonly #tables = new Map<Dtype, CudaPointer>();

  constructor(card: CudaCard) {
    this.#card = card;
  }

  /**
   * Widens rows into neighbouring rows of a matrix.
   * @param rowOf stored bytes of row i, `width` elements
   */
  rows(dtype: Dtype, count: number, rowOf: (i: number) => Uint8Array, { to, stride, width, shift }: RowPlace): void {
    const size = bytesPerElement(dtype);
    // Elements stand at multiples of their size, and rows at multiples of 16 bytes.
    const pitch = Math.ceil((width * size) / 16) * 16;
    const most = Math.max(1, Math.floor(PIECE_BYTES / pitch));
    const table = this.#tableOf(dtype);
    for (let first = 0; first < count; first += most) {
      const some = Math.min(most, count - first);
      const piece = this.#take(some * pitch);
      for (let i = 0; i < some; i++) piece.bytes.set(rowOf(first + i), i * pitch);
      const { runtime } = this.#card.library;
      this.#card.perform(() => {
        runtime.cudaMemcpyAsync(piece.onCard, piece.pinned, some * pitch, UP, this.#card.uploads);
        runtime.cudaEventRecord(piece.up, this.#card.uploads);
        runtime.cudaStreamWaitEvent(this.#card.stream, piece.up, 0);
        const place = [to + BigInt(first * stride * 4), stride, shift, some, width];
        this.#card.launch('widen', some * width, [piece.onCard, pitch, storedAs[dtype], table, ...place]);
        runtime.cudaEventRecord(piece.taken, this.#card.stream);
      });
      piece.isUnderWay = true;
    }
  }

  close(): void {
    const { runtime } = this.#card.library;
    for (const { pinned, onCard, up, taken } of this.#pieces.splice(0)) {
      this.#card.perform(() => {
        runtime.cudaEventSynchronize(taken);
        runtime.cudaFreeHost(pinned);
        runtime.cudaEventDestroy(up);
        runtime.cudaEventDestroy(taken);
      });
      this.#card.free(onCard);
    }
    for (const table of this.#tables.values()) this.#card.free(table);
    this.#tables.clear();
  }

  /** The piece whose turn it is, once the card has taken what was in it. */
  #take(bytes: number): Piece {
    if (bytes > PIECE_BYTES) throw new RangeError(`a row of ${bytes} bytes, expected at most ${PIECE_BYTES}`);
    const { runtime } = this.#card.library;
    if (this.#pieces.length < PIECES) {
      const pinned = this.#card.perform(() => {
        const cell = pointerCell();
        runtime.cudaHostAlloc(cell, PIECE_BYTES, 0);
        return cell[0]!;
      });
      // Memory that was used before may still be read by what is on the other stream.
      this.#card.wait();
      const piece = {
        pinned,
        bytes: new Uint8Array(koffi.view(pinned, PIECE_BYTES)),
        onCard: this.#card.allocate(PIECE_BYTES),
        up: this.#card.event(),
        taken: this.#card.event(),
        isUnderWay: false,
      };
      this.#pieces.push(piece);
      return piece;
    }
    const piece = this.#pieces[this.#next]!;
    this.#next = (this.#next + 1) % PIECES;
    if (piece.isUnderWay) this.#card.perform(() => runtime.cudaEventSynchronize(piece.taken));
    piece.isUnderWay = false;
    return piece;
  }

  /** The float32 bits of each pattern, on the card; 0 where none is needed. */
  #tableOf(dtype: Dtype): CudaPointer {
    if (storedAs[dtype] < 3) return 0n;
    const known = this.#tables.get(dtype);
    if (known !== undefined) return known;
    const size = dtype === 'F16' ? 2 ** 16 : 2 ** 8;
    const patterns = dtype === 'F16' ? new Uint16Array(size) : new Uint8Array(size);
    for (let i = 0; i < size; i++) patterns[i] = i;
    const values = new Float32Array(size);
    widenOnProcessor(dtype, new Uint8Array(patterns.buffer), values);
    const table = this.#card.allocate(size * 4);
    this.#card.perform(() =>
      this.#card.library.runtime.copyUp(table, size * 4, values, size * 4, size * 4, 1, UP, this.#card.stream),
    );
    this.#tables.set(dtype, table);
    return table;
  }
}
