// The way of weights to the card: rows as they are stored are put into pinned memory, go up on a stream of their own, and are made
// float32 where they belong by a kernel on the stream of products. Two such pieces are under way at a time, so that the next
// rows are read and sent while the card multiplies. Rows that are read from files are read into pinned memory to begin with; others
// cost the processor one copy of their bytes.
import { bytesPerElement, widenedPatterns } from '../../sources/dtype.ts';
import type { Dtype } from '../../sources/model.ts';
import type { CudaCard, Pinned } from './cuda-card.ts';
import { storedAs } from './cuda-kernels.ts';
import { COPY, type CudaPointer } from './cuda-library.ts';
import type { RowMemory } from './device.ts';

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
  readonly pinned: Pinned;
  readonly onCard: CudaPointer;
  /** When its bytes are up, and when the kernel has taken them. */
  readonly up: CudaPointer;
  readonly taken: CudaPointer;
}

/** Memory that was lent, to be filled by others. */
interface LentPiece extends Piece {
  isUp: boolean;
}

/** Where rows stand in memory that was lent: bytes of the first one's beginning, from one to the next, and how many. */
interface LentRows {
  readonly first: number;
  readonly pitch: number;
  readonly count: number;
}

const PIECES = 2;
/** Bytes of a piece that rows are copied into: 64 rows of a tile of float32. */
const PIECE_BYTES = 4 * 2 ** 20;

export class CudaUploads {
  readonly #card: CudaCard;
  /** The one that has been under way longest first. */
  readonly #pieces: Piece[] = [];
  readonly #lent = new Map<ArrayBufferLike, LentPiece>();
  readonly #tables = new Map<Dtype, CudaPointer>();

  constructor(card: CudaCard) {
    this.#card = card;
  }

  /** Pinned memory, two pieces in turn: one is filled while the card takes the other. */
  lend(): RowMemory {
    const own: LentPiece[] = [];
    return {
      take: (bytes) => {
        let piece: LentPiece | undefined;
        if (own.length === PIECES) {
          piece = own.shift()!;
          this.#card.perform(() => this.#card.library.runtime.cudaEventSynchronize(piece!.taken));
          if (piece.pinned.bytes.byteLength < bytes) {
            this.#discard(piece);
            piece = undefined;
          }
        }
        if (piece === undefined) {
          piece = { ...this.#newPiece(bytes), isUp: false };
          this.#lent.set(piece.pinned.bytes.buffer, piece);
        }
        piece.isUp = false;
        own.push(piece);
        return piece.pinned.bytes.subarray(0, bytes);
      },
      close: () => {
        for (const piece of own.splice(0)) if (this.#lent.has(piece.pinned.bytes.buffer)) this.#discard(piece);
      },
    };
  }

  /**
   * Widens rows that stand in memory that was lent, which goes up whole when the first of them are asked for.
   * @returns false where they stand elsewhere
   */
  lentRows(dtype: Dtype, bytes: Uint8Array, { first, pitch, count }: LentRows, place: RowPlace): boolean {
    const piece = this.#lent.get(bytes.buffer);
    if (piece === undefined) return false;
    const { runtime } = this.#card.library;
    this.#card.perform(() => {
      if (!piece.isUp) {
        runtime.cudaMemcpyAsync(piece.onCard, piece.pinned.at, bytes.byteLength, COPY.up, this.#card.uploads);
        runtime.cudaEventRecord(piece.up, this.#card.uploads);
        piece.isUp = true;
      }
      this.#widen(piece, dtype, { first, pitch, count }, place);
    });
    return true;
  }

  /**
   * Widens rows into neighbouring rows of a matrix.
   * @param rowOf stored bytes of row i, `width` elements
   */
  rows(dtype: Dtype, count: number, rowOf: (i: number) => Uint8Array, place: RowPlace): void {
    // Elements stand at multiples of their size, and rows at multiples of 16 bytes.
    const pitch = Math.ceil((place.width * bytesPerElement(dtype)) / 16) * 16;
    const most = Math.max(1, Math.floor(PIECE_BYTES / pitch));
    for (let first = 0; first < count; first += most) {
      const some = Math.min(most, count - first);
      const piece = this.#take(some * pitch);
      for (let i = 0; i < some; i++) piece.pinned.bytes.set(rowOf(first + i), i * pitch);
      const { runtime } = this.#card.library;
      this.#card.perform(() => {
        runtime.cudaMemcpyAsync(piece.onCard, piece.pinned.at, some * pitch, COPY.up, this.#card.uploads);
        runtime.cudaEventRecord(piece.up, this.#card.uploads);
        const to = place.to + BigInt(first * place.stride * 4);
        this.#widen(piece, dtype, { first: 0, pitch, count: some }, { ...place, to });
      });
    }
  }

  /**
   * Copies rows of `width` floats, `stride` apart in an array, to the card, close together there, once what is on the stream of
   * products is done with what was there: five times as fast as the driver copies memory that is not pinned, from several threads.
   */
  floats(to: CudaPointer, values: Float32Array, stride: number, width: number, rows: number): void {
    const { runtime } = this.#card.library;
    const most = Math.floor(PIECE_BYTES / (width * 4));
    if (most === 0) {
      this.#card.copyUp(to, width * 4, values, stride * 4, width * 4, rows);
      return;
    }
    for (let first = 0; first < rows; first += most) {
      const some = Math.min(most, rows - first);
      const piece = this.#take(some * width * 4);
      const { bytes } = piece.pinned;
      const room = new Float32Array(bytes.buffer, bytes.byteOffset, some * width);
      for (let i = 0; i < some; i++)
        room.set(values.subarray((first + i) * stride, (first + i) * stride + width), i * width);
      this.#card.perform(() => {
        const target = to + BigInt(first * width * 4);
        runtime.cudaMemcpyAsync(target, piece.pinned.at, some * width * 4, COPY.up, this.#card.stream);
        runtime.cudaEventRecord(piece.taken, this.#card.stream);
      });
    }
  }

  close(): void {
    for (const piece of [...this.#pieces.splice(0), ...this.#lent.values()]) this.#discard(piece);
    for (const table of this.#tables.values()) this.#card.free(table);
    this.#tables.clear();
  }

  /** Has the stream of products widen rows of a piece once they are up. */
  #widen({ up, taken, onCard }: Piece, dtype: Dtype, { first, pitch, count }: LentRows, place: RowPlace): void {
    const { runtime } = this.#card.library;
    const { to, stride, shift, width } = place;
    const table = this.#tableOf(dtype);
    runtime.cudaStreamWaitEvent(this.#card.stream, up, 0);
    const from = [onCard + BigInt(first), pitch, storedAs[dtype], table];
    this.#card.launch('widen', count * width, [...from, to, stride, shift, count, width]);
    runtime.cudaEventRecord(taken, this.#card.stream);
  }

  /** The piece whose turn it is, once the card has taken what was in it. */
  #take(bytes: number): Piece {
    if (bytes > PIECE_BYTES) throw new RangeError(`a row of ${bytes} bytes, expected at most ${PIECE_BYTES}`);
    const isFull = this.#pieces.length === PIECES;
    if (isFull) this.#card.perform(() => this.#card.library.runtime.cudaEventSynchronize(this.#pieces[0]!.taken));
    const piece = isFull ? this.#pieces.shift()! : this.#newPiece(PIECE_BYTES);
    this.#pieces.push(piece);
    return piece;
  }

  #newPiece(bytes: number): Piece {
    const pinned = this.#card.pin(bytes);
    const onCard = this.#card.allocate(bytes);
    // It is the stream of products' until that has come here.
    this.#card.wait();
    return {
      pinned,
      onCard,
      up: this.#card.event(),
      taken: this.#card.event(),
    };
  }

  #discard({ pinned, onCard, up, taken }: Piece): void {
    const { runtime } = this.#card.library;
    this.#lent.delete(pinned.bytes.buffer);
    this.#card.perform(() => {
      runtime.cudaEventSynchronize(taken);
      runtime.cudaEventDestroy(up);
      runtime.cudaEventDestroy(taken);
    });
    this.#card.unpin(pinned);
    this.#card.free(onCard);
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
