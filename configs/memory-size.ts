// Sizes as people write them: `4GiB`, `512MiB`, `1.5GB`, or plain bytes. KB, MB and GB are powers of ten, KiB, MiB and GiB
// powers of two. A bare `4G` is refused: half of all tools mean one by it, half the other.

/** The least that a run can do anything with. */
export const minMemory = 2 ** 20;

const units: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** Bytes of a size, rounded down; null when it is no size, or not between {@link minMemory} and 2^53. */
export function parseMemorySize(value: string | number): number | null {
  let bytes: number;
  if (typeof value === 'number') {
    if (!Number.isInteger(value)) return null;
    bytes = value;
  } else {
    const match = /^(\d{1,16}(?:\.\d{1,16})?) ?([KMGT]?i?B)?$/i.exec(value);
    const unit = match === null ? undefined : units[(match[2] ?? 'B').toUpperCase()];
    if (match === null || unit === undefined) return null;
    bytes = Math.floor(Number(match[1]) * unit);
  }
  return bytes >= minMemory && bytes <= Number.MAX_SAFE_INTEGER ? bytes : null;
}
