// Tells models of one shape apart without reading them: sha256 (hex) of the file sizes, the header digests, and for each used
// tensor, in storage order, its name and up to 4 KiB from its middle. Cost: an open a file, a read a tensor.
import { createHash } from 'node:crypto';
import type { ModelFile, ModelHeader, TensorEntry } from './model.ts';
import { readExactly, withRegularFile } from './regular-file.ts';

const pageBytes = 4096;

/** A used tensor, or a factor of one; `place` is where it stands among the used ones. */
type Page = Pick<TensorEntry, 'name' | 'dtype' | 'offset' | 'byteLength'> & { readonly place: number };

/** Both are sha256, hex. */
export interface Fingerprint {
  /** Of the file sizes, the header digests, and for each used tensor, in storage order, its name and its page. */
  readonly digest: string;
  /** Of the used tensors' dtypes and pages alone, in the order asked for: the same however a model is stored and named. */
  readonly pages: string;
}

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
  const places = new Map([...new Set(usedTensorNames)].map((name, place) => [name, place]));
  const pages = files.map((): Page[] => []);
  for (const tensor of tensors.values()) {
    const place = places.get(tensor.name);
    if (place === undefined) continue;
    const { lora } = tensor;
    for (const { name, dtype, offset, byteLength, file } of lora === undefined ? [tensor] : [lora.a, lora.b])
      pages[file]!.push({ name, dtype, offset, byteLength, place });
  }
  return pages;
};

/** @throws SourceMalformed, SourceUnavailable */
export const fingerprintNow = ({ files, headerDigests, pages }: FingerprintTask): Fingerprint => {
  const hash = createHash('sha256');
  const weights: [number, string, Buffer][] = [];
  for (const [i, { path, size }] of files.entries()) {
    hash.update(`${size} ${headerDigests[i]!}\n`);
    if (pages[i]!.length === 0) continue;
    withRegularFile(path, (handle) => {
      for (const { name, dtype, offset, byteLength, place } of pages[i]!) {
        const length = Math.min(pageBytes, byteLength);
        const middle = offset + Math.floor((byteLength - length) / 2);
        const page = readExactly(handle, path, middle, length);
        hash.update(`${Buffer.byteLength(name)}:${name}\n`).update(page);
        weights.push([place, dtype, createHash('sha256').update(page).digest()]);
      }
    });
  }
  const alone = createHash('sha256');
  for (const [, dtype, page] of weights.sort((a, b) => a[0] - b[0])) alone.update(`${dtype}\n`).update(page);
  return { digest: hash.digest('hex'), pages: alone.digest('hex') };
};
