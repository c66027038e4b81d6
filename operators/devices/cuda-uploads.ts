// The way of weights to the card: rows as they are stored are put into pinned memory, go up on a stream of their own, and are made
// float32 where they belong by a kernel on the stream of products. Two such pieces are under way at a time, so that the next
// rows are read and sent while the card multiplies. Cost on the processor: one copy of the stored bytes.
import koffi from 'koffi';
import { bytesPerElement, widenedPatterns } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import type { CudaCard } from './cuda-card.ts';
import { storedAs } from './cuda-kernels.ts';
import { COPY, type CudaPointer, pointerCell } from './cuda-library.ts';

/** Where rows go, and what is added to each. */
interface RowPlace {
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
}

const PIECES = 2;
/** Bytes of a piece: 64 rows of a tile of float32. */
const PIECE_BYTES = 4 * 2 ** 20;

export class CudaUploads {
  readonly #card: CudaCard;
  /** The one that has been under way longest first. */
  readonly #pieces: Piece[] = [];
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
        runtime.cudaMemcpyAsync(piece.onCard, piece.pinned, some * pitch, COPY.up, this.#card.uploads);
        runtime.cudaEventRecord(piece.up, this.#card.uploads);
        runtime.cudaStreamWaitEvent(this.#card.stream, piece.up, 0);
        const place = [to + BigInt(first * stride * 4), stride, shift, some, width];
        this.#card.launch('widen', some * width, [piece.onCard, pitch, storedAs[dtype], table, ...place]);
        runtime.cudaEventRecord(piece.taken, this.#card.stream);
      });
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
    const isFull = this.#pieces.length === PIECES;
    if (isFull) this.#card.perform(() => this.#card.library.runtime.cudaEventSynchronize(this.#pieces[0]!.taken));
    const piece = isFull ? this.#pieces.shift()! : this.#newPiece();
    this.#pieces.push(piece);
    return piece;
  }

  #newPiece(): Piece {
    const cell = pointerCell();
    this.#card.perform(() => this.#card.library.runtime.cudaHostAlloc(cell, PIECE_BYTES, 0));
    // Memory that was used before may still be read by what is on the other stream.
    this.#card.wait();
    return {
      pinned: cell[0]!,
      bytes: new Uint8Array(koffi.view(cell[0]!, PIECE_BYTES)),
      onCard: this.#card.allocate(PIECE_BYTES),
      up: this.#card.event(),
      taken: this.#card.event(),
    };
  }

  /** The float32 bits of each pattern, on the card; 0 where none is needed. */
  #tableOf(dtype: Dtype): CudaPointer {
    if (storedAs[dtype] < 3) return 0n;
    const known = this.#tables.get(dtype);
    if (known !== undefined) return known;
    const values = widenedPatterns(dtype);
    const table = this.#card.allocate(values.byteLength);
    this.#card.copyUp(table, values.byteLength, values, values.byteLength, values.byteLength, 1);
    this.#tables.set(dtype, table);
    return table;
  }
}
