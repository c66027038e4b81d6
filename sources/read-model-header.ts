// Reads all that the headers of a model say, one file after the other: each is opened, read and closed, so no descriptor stays
// open. Cost: three reads a file, and its header in memory; weights are not touched. The fingerprint reads one page a tensor.
import { createHash } from 'node:crypto';
import { readdir, realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Effect } from 'effect';
import { byteOrder } from './byte-order.ts';
import { displayName } from './display-name.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import type { ModelFile, ModelHeader, ModelLocation, TensorEntry } from './model.ts';
import { readExactly, reading, withRegularFile } from './regular-file.ts';
import { headerLength, parseSafetensorsHeader } from './safetensors.ts';
import { joinShards, maxIndexBytes, parseShardIndex, unlistedShards } from './sharded-checkpoint.ts';

/** Fails with what a source is allowed to fail with; anything else that is thrown is a bug, and a defect. */
const fromSource = <A>(run: () => Promise<A>): Effect.Effect<A, SourceMalformed | SourceUnavailable> =>
  Effect.tryPromise({ try: run, catch: (cause) => cause }).pipe(
    Effect.catch((cause) =>
      cause instanceof SourceMalformed || cause instanceof SourceUnavailable ? Effect.fail(cause) : Effect.die(cause),
    ),
  );

/**
 * Reads and checks the header of a model, or the index and the headers of all shards.
 *
 * @returns files in the byte order of their names, tensors in storage order
 */
export const readModelHeader = (
  location: ModelLocation,
): Effect.Effect<ModelHeader, SourceMalformed | SourceUnavailable> =>
  fromSource(async () => {
    if (location.layout === 'sharded') return await readShards(location.entry);
    const { tensors, ...rest } = await readFileHeader(location.entry, 0);
    return { files: [rest.file], headerDigests: [rest.digest], tensors: new Map(tensors.map((t) => [t.name, t])) };
  });

interface FileHeader {
  readonly file: ModelFile;
  readonly digest: string;
  readonly tensors: readonly TensorEntry[];
}

const readFileHeader = (path: string, file: number): Promise<FileHeader> =>
  withRegularFile(path, async (handle, { size, mtimeMs }) => {
    const start = await readExactly(handle, path, 0, Math.min(size, 512));
    const bytes = await readExactly(handle, path, 8, headerLength(start, size, path));
    const { tensors } = parseSafetensorsHeader(bytes, size, path, file);
    return { file: { path, size, mtimeMs }, digest: createHash('sha256').update(bytes).digest('hex'), tensors };
  });

async function readShards(indexPath: string): Promise<ModelHeader> {
  const index = await readIndex(indexPath);
  const folder = dirname(indexPath);
  const shards = [...new Set(index.values())].sort(byteOrder);
  await checkShardFiles(folder, shards, indexPath);
  const headers: FileHeader[] = [];
  for (const [file, shard] of shards.entries()) headers.push(await readFileHeader(join(folder, shard), file));
  return {
    files: headers.map((header) => header.file),
    headerDigests: headers.map((header) => header.digest),
    tensors: joinShards(
      index,
      shards,
      headers.map((header) => header.tensors),
      indexPath,
    ),
  };
}

const readIndex = (path: string): Promise<ReadonlyMap<string, string>> =>
  withRegularFile(path, async (handle, { size }) => {
    if (size > maxIndexBytes) {
      const detail = `found an index of ${size} bytes, expected at most ${maxIndexBytes}`;
      throw new SourceMalformed({ path, rule: 'index-size', detail });
    }
    return parseShardIndex(await readExactly(handle, path, 0, size), path);
  });

/** Every shard is a file of its own in the model's own folder, and no shard of the same stem is left over. */
async function checkShardFiles(folder: string, shards: readonly string[], path: string): Promise<void> {
  const names = await reading(folder, () => readdir(folder));
  const present = new Set(names);
  const fail = (rule: string, detail: string): never => {
    throw new SourceMalformed({ path, rule, detail });
  };
  const home = await reading(folder, () => realpath(folder));
  const owners = new Map<string, string>();
  for (const shard of shards) {
    if (!present.has(shard))
      fail('shard-missing', `found no ${displayName(shard)} in the folder, expected it as weight_map says`);
    const file = join(folder, shard);
    const real = await reading(file, () => realpath(file));
    if (dirname(real) !== home) {
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

const pageBytes = 4096;

/**
 * Tells models of one shape apart without reading them: sha256 (hex) of the file sizes, the header digests, and for each used
 * tensor, in storage order, its name and up to 4 KiB from its middle.
 */
export const fingerprint = (
  header: ModelHeader,
  usedTensorNames: Iterable<string>,
): Effect.Effect<string, SourceMalformed | SourceUnavailable> =>
  fromSource(async () => {
    const hash = createHash('sha256');
    const used = new Set(usedTensorNames);
    const pages = header.files.map((): TensorEntry[] => []);
    for (const entry of header.tensors.values()) if (used.has(entry.name)) pages[entry.file]!.push(entry);
    for (const [i, { path, size }] of header.files.entries()) {
      hash.update(`${size} ${header.headerDigests[i]!}\n`);
      if (pages[i]!.length === 0) continue;
      await withRegularFile(path, async (handle) => {
        for (const { name, offset, byteLength } of pages[i]!) {
          const length = Math.min(pageBytes, byteLength);
          const middle = offset + Math.floor((byteLength - length) / 2);
          hash.update(`${Buffer.byteLength(name)}:${name}\n`).update(await readExactly(handle, path, middle, length));
        }
      });
    }
    return hash.digest('hex');
  });
