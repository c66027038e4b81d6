// Reads all that the headers of a model say, one file after the other: each is opened, read and closed, so no descriptor stays
// open. Synchronous, for header workers and for whoever reads a few: 60 to 80 µs a small model. Cost: three reads a file,
// and its header in memory; weights are not touched. The fingerprint reads one page a tensor.
import { createHash } from 'node:crypto';
import { readdirSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { readAdapter } from './adapter-header.ts';
import { byteOrder } from './byte-order.ts';
import { displayName } from './display-name.ts';
import { SourceMalformed } from './errors.ts';
import { refuseForeignAdapter } from './foreign-adapter.ts';
import { realPathInside } from './hub-links.ts';
import type { AdapterInfo, ModelFile, ModelHeader, ModelLocation, TensorEntry } from './model.ts';
import { readExactly, readingNow, withRegularFile } from './regular-file.ts';
import { headerLength, parseSafetensorsHeader } from './safetensors.ts';
import { joinShards, maxIndexBytes, parseShardIndex, unlistedShards } from './sharded-checkpoint.ts';

/** A header whose tensors are not parsed yet. */
export interface RawHeader {
  readonly files: readonly ModelFile[];
  readonly headerDigests: readonly string[];
  /** Equal keys, equal tensors: fine-tunes of one base mostly have the same header, byte for byte. */
  readonly key: string;
  /** Parses and checks. @throws SourceMalformed */
  readonly parse: () => readonly TensorEntry[];
  readonly adapter?: AdapterInfo;
}

/**
 * Reads the header of a model, or the index and the headers of all shards, or an adapter's header and config.
 * @throws SourceMalformed, SourceUnavailable
 */
export const readRawHeader = ({ layout, entry, repository }: ModelLocation): RawHeader => {
  if (layout === 'sharded') return readShards(entry, repository);
  const header = readFileHeader(entry);
  if (layout === 'adapter') return readAdapter(header, repository);
  const { file, bytes, digest } = header;
  return {
    files: [file],
    headerDigests: [digest],
    key: `${file.size} ${digest}`,
    parse: () => {
      const { tensors } = parseSafetensorsHeader(bytes, file.size, entry);
      refuseForeignAdapter(tensors, entry);
      return tensors;
    },
  };
};

/** Reads, parses and checks: files in the byte order of their names, tensors in storage order. */
export const readHeaderNow = (location: ModelLocation): ModelHeader => {
  const { files, headerDigests, parse, adapter } = readRawHeader(location);
  const tensors = new Map(parse().map((tensor) => [tensor.name, tensor]));
  return { files, headerDigests, tensors, ...(adapter === undefined ? {} : { adapter }) };
};

export interface FileHeader {
  readonly file: ModelFile;
  readonly bytes: Buffer;
  /** sha256, hex. */
  readonly digest: string;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const readFileHeader = (path: string): FileHeader =>
  withRegularFile(path, (handle, { size, mtimeMs }) => {
    const start = readExactly(handle, path, 0, Math.min(size, 512));
    const bytes = readExactly(handle, path, 8, headerLength(start, size, path));
    return { file: { path, size, mtimeMs }, bytes, digest: sha256(bytes) };
  });

function readShards(indexPath: string, repository: string | undefined): RawHeader {
  const { index, digest } = readIndex(indexPath);
  const folder = dirname(indexPath);
  const shards = [...new Set(index.values())].sort(byteOrder);
  checkShardFiles(folder, shards, indexPath, repository);
  // A shard's header is parsed as soon as it is read: thousands of large ones must not wait in memory together.
  const tensors: (readonly TensorEntry[])[] = [];
  const headers = shards.map((shard, i) => {
    const { file, bytes, digest } = readFileHeader(join(folder, shard));
    tensors.push(parseSafetensorsHeader(bytes, file.size, file.path, i).tensors);
    return { file, digest };
  });
  return {
    files: headers.map(({ file }) => file),
    headerDigests: headers.map((header) => header.digest),
    key: [digest, ...headers.map((header) => `${header.file.size} ${header.digest}`)].join('\n'),
    parse: () => [...joinShards(index, shards, tensors, indexPath).values()],
  };
}

const readIndex = (path: string): { readonly index: ReadonlyMap<string, string>; readonly digest: string } =>
  withRegularFile(path, (handle, { size }) => {
    if (size > maxIndexBytes) {
      const detail = `found an index of ${size} bytes, expected at most ${maxIndexBytes}`;
      throw new SourceMalformed({ path, rule: 'index-size', detail });
    }
    const bytes = readExactly(handle, path, 0, size);
    return { index: parseShardIndex(bytes, path), digest: sha256(bytes) };
  });

/**
 * Every shard is a file of its own in the model's own folder, or in the cached repository that the folder is part of, and no
 * shard of the same stem is left over.
 */
function checkShardFiles(
  folder: string,
  shards: readonly string[],
  path: string,
  repository: string | undefined,
): void {
  const names = readingNow(folder, () => readdirSync(folder));
  const present = new Set(names);
  const fail = (rule: string, detail: string): never => {
    throw new SourceMalformed({ path, rule, detail });
  };
  const home = readingNow(folder, () => realpathSync.native(folder));
  const owners = new Map<string, string>();
  for (const shard of shards) {
    if (!present.has(shard))
      fail('shard-missing', `found no ${displayName(shard)} in the folder, expected it as weight_map says`);
    const file = join(folder, shard);
    const real =
      repository === undefined ? readingNow(file, () => realpathSync.native(file)) : realPathInside(file, repository);
    if (repository === undefined && dirname(real) !== home) {
      fail('shard-escapes', `found shard ${displayName(shard)} to be a link out of the folder, expected a file in it`);
    }
    const owner = owners.get(real);
    if (owner !== undefined) {
      const both = `${displayName(owner)} and ${displayName(shard)}`;
      fail('shard-twice', `found ${both} to be the same file ${displayName(basename(real))}, expected a file each`);
    }
    owners.set(real, shard);
  }
  const left = unlistedShards(names, new Set(shards)).map((name) => displayName(name));
  if (left.length > 0) {
    fail('shard-unlisted', `found ${left.slice(0, 3).join(', ')} in the folder, expected every shard in weight_map`);
  }
}
