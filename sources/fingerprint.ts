// Tells models of one shape apart without reading them: sha256 (hex) of the file sizes, the header digests, and for each used
// tensor, in storage order, its name and up to 4 KiB from its middle. Cost: an open a file, a read a tensor.
import { createHash } from 'node:crypto';
import type { ModelFile, ModelHeader, TensorEntry } from './model.ts';
import { readExactly, withRegularFile } from './regular-file.ts';

const pageBytes = 4096;

type Page = Pick<TensorEntry, 'name' | 'offset' | 'byteLength'>;

/** What a fingerprint is made of, as plain data; models of one layout share their pages. */
export interface FingerprintTask {
  readonly files: readonly Pick<ModelFile, 'path' | 'size'>[];
  readonly headerDigests: readonly string[];
  /** The used tensors of each file. */
  readonly pages: readonly (readonly Page[])[];
}

/** The used tensors of each file, in storage order. */
export const pagesOf = (
  { files, tensors }: Pick<ModelHeader, 'files' | 'tensors'>,
  usedTensorNames: Iterable<string>,
): readonly (readonly Page[])[] => {
  const used = new Set(usedTensorNames);
  const pages = files.map((): Page[] => []);
  for (const { name, offset, byteLength, file } of tensors.values()) {
    if (used.has(name)) pages[file]!.push({ name, offset, byteLength });
  }
  return pages;
};

/** @throws SourceMalformed, SourceUnavailable */
export const fingerprintNow = ({ files, headerDigests, pages }: FingerprintTask): string => {
  const hash = createHash('sha256');
  for (const [i, { path, size }] of files.entries()) {
    hash.update(`${size} ${headerDigests[i]!}\n`);
    if (pages[i]!.length === 0) continue;
    withRegularFile(path, (handle) => {
      for (const { name, offset, byteLength } of pages[i]!) {
        const length = Math.min(pageBytes, byteLength);
        const middle = offset + Math.floor((byteLength - length) / 2);
        hash.update(`${Buffer.byteLength(name)}:${name}\n`).update(readExactly(handle, path, middle, length));
      }
    });
  }
  return hash.digest('hex');
};
