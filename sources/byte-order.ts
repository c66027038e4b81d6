// The order of folders and files: by the bytes of their names in UTF-8, the same on every machine and in every locale.
// JavaScript compares UTF-16 units, which puts U+10000 and above before U+E000; UTF-8 bytes sort as code points do.

/** Compares two names by their UTF-8 bytes. */
export function byteOrder(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
