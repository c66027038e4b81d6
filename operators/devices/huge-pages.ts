// Large float buffers on huge pages. The first touch of fresh 4 KiB pages costs about 0.5 ms a MB on virtual machines,
// a third of a short run; asking for 2 MiB pages (madvise) makes it 0.12. Where that cannot be had, nothing changes.
import koffi from 'koffi';
import type { FloatAllocator } from './blas-device.ts';

const MADV_HUGEPAGE = 14;
const HUGE_PAGE = 2 ** 21;
const ARENA = 2 ** 24;

type Advise = (buffer: ArrayBufferLike) => void;

let advise: Advise | undefined;

const bindAdvise = (): Advise => {
  if (process.platform !== 'linux') return () => {};
  try {
    const libc = koffi.load('libc.so.6');
    // memset of nothing gives its first argument back: a buffer's address as a number.
    const addressOf = libc.func('uintptr_t memset(void *at, int value, size_t length)');
    const madvise = libc.func('int madvise(uintptr_t at, size_t length, int advice)');
    return (buffer) => {
      const address = Number(addressOf(new Uint8Array(buffer), 0, 0));
      const first = Math.ceil(address / HUGE_PAGE) * HUGE_PAGE;
      const end = Math.floor((address + buffer.byteLength) / HUGE_PAGE) * HUGE_PAGE;
      if (end > first) madvise(first, end - first, MADV_HUGEPAGE);
    };
  } catch {
    return () => {};
  }
};

/** Asks the kernel to back a fresh buffer with huge pages; call it before the first touch. */
export const adviseHugePages = <B extends ArrayBufferLike>(buffer: B): B => {
  if (buffer.byteLength < 2 * HUGE_PAGE) return buffer;
  advise ??= bindAdvise();
  advise(buffer);
  return buffer;
};

/**
 * Hands out parts of a few large buffers, so that a slot of thousands of tiles asks the kernel a few times and small
 * slots share huge pages. When all parts have come back the same memory is handed out again: a run of many groups
 * touches fresh memory once.
 */
export const hugePageArena = (): FloatAllocator => {
  const buffers: Float32Array[] = [];
  advise ??= bindAdvise();
  let current = 0;
  let used = 0;
  let live = 0;
  return {
    allocate: (floats) => {
      while (current < buffers.length && used + floats > buffers[current]!.length) {
        current++;
        used = 0;
      }
      if (current === buffers.length) {
        buffers.push(new Float32Array(adviseHugePages(new ArrayBuffer(Math.max(floats * 4, ARENA)))));
      }
      const part = buffers[current]!.subarray(used, used + floats);
      used += Math.ceil(floats / 16) * 16;
      live++;
      return part;
    },
    release: () => {
      if (--live > 0) return;
      current = 0;
      used = 0;
    },
  };
};
