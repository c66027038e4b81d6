// Feeds a hash with as many bytes as there are: OpenSSL, as Node calls it, refuses 2 GiB at once.
import type { Hash } from 'node:crypto';

const MOST_BYTES = 2 ** 30;

/** @param most bytes at a time */
export const hashBytes = (hash: Hash, bytes: Uint8Array, most = MOST_BYTES): Hash => {
  for (let at = 0; at < bytes.length; at += most) hash.update(bytes.subarray(at, at + most));
  return hash;
};
