// The index of a sharded checkpoint: which shard file holds which tensor. Names of shards come from strangers and become paths,
// so they must be plain names of files that stand in the model's own folder. `metadata` is not used: a `total_size` that lies
// is common (it counts tied weights once or twice) and harmless, since every shard's own header is checked against its size.
import { displayName } from './display-name.ts';
import { SourceMalformed } from './errors.ts';
import type { TensorEntry } from './model.ts';
import { convertPickle } from './sniff.ts';
import { JsonScanner } from './strict-json.ts';

/** Indices of the largest published models take 10 MB. */
export const maxIndexBytes = 100_000_000;
/** Published models have at most some hundred. */
const maxShards = 4096;

/**
 * Parses the index file.
 *
 * @returns the shard's file name of every tensor
 * @throws SourceMalformed
 */
export function parseShardIndex(bytes: Uint8Array, path: string): ReadonlyMap<string, string> {
  let current: string | undefined;
  const fail = (rule: string, detail: string): never => {
    throw new SourceMalformed({
      path,
      rule,
      detail,
      ...(current === undefined ? {} : { tensor: displayName(current) }),
    });
  };
  const json = new JsonScanner(bytes, fail);
  const keys = new Set<string>();
  const shards = new Map<string, string>();
  const safe = new Set<string>();
  if (json.peek() !== 0x7b) json.unexpected('{ to open the index', 'not-an-object');
  json.object('the index', (key) => {
    if (keys.has(key)) fail('duplicate-key', `found the key ${displayName(key)} twice, expected once`);
    keys.add(key);
    if (key === 'metadata') return readMetadata(json);
    if (key !== 'weight_map') return json.skip('the index');
    if (json.peek() !== 0x7b) json.unexpected('an object as weight_map', 'weight-map');
    json.object('weight_map', (tensor) => {
      current = tensor;
      if (shards.has(tensor)) fail('duplicate-key', 'found the tensor twice in weight_map, expected once');
      if (json.peek() !== 0x22) json.unexpected('the name of a shard', 'weight-map');
      const shard = json.string('the name of a shard');
      if (!safe.has(shard)) {
        checkShardName(shard, fail);
        safe.add(shard);
        if (safe.size > maxShards) fail('shard-count', `found more than ${maxShards} shards in weight_map`);
      }
      shards.set(tensor, shard);
      current = undefined;
    });
  });
  json.end();
  if (shards.size === 0) fail('weight-map', 'found no tensors, expected a weight_map from tensor names to shards');
  return shards;
}

function readMetadata(json: JsonScanner): void {
  if (json.peek() !== 0x7b) json.unexpected('an object as metadata', 'metadata');
  json.object('metadata', (key) => {
    if (key !== 'total_size') json.skip('the index');
    else if (!json.acceptNumber()) json.unexpected('a number as total_size', 'total-size');
  });
}

function checkShardName(shard: string, fail: (rule: string, detail: string) => never): void {
  const found = `found shard ${displayName(shard)}`;
  if (/\.(?:bin|pt|pth|ckpt|pkl)$/i.test(shard)) fail('pickle', `${found}, expected .safetensors; ${convertPickle}`);
  // A colon is a drive or a scheme, a percent sign may be decoded by something later: neither stands in a shard's name.
  if (/[/\\:%\p{C}]/u.test(shard) || shard.startsWith('.') || shard.length > 255) {
    fail('shard-name', `${found}, expected the plain name of a file in the model's folder`);
  }
  if (!shard.endsWith('.safetensors')) fail('shard-name', `${found}, expected a name that ends in .safetensors`);
}

/**
 * Names of files in the folder that look like shards of this checkpoint but are not in its index.
 *
 * @param folder names of all files in the folder
 */
export function unlistedShards(folder: readonly string[], listed: ReadonlySet<string>): readonly string[] {
  const stem = (name: string): string | undefined => shardPattern.exec(name)?.[1];
  const stems = new Set([...listed].map(stem));
  return folder.filter((name) => !listed.has(name) && stem(name) !== undefined && stems.has(stem(name)));
}

const shardPattern = /^(.*)-\d+-of-\d+\.safetensors$/s;

/** Whether a file name is that of one shard of several: `model-00001-of-00002.safetensors`. */
export const isShardName = (name: string): boolean => shardPattern.test(name);

/**
 * Checks the index against the headers of the shards: each tensor stands in exactly the shard that it is mapped to.
 *
 * @param shards names of the shard files, by {@link TensorEntry.file}
 * @returns all tensors, in storage order
 * @throws SourceMalformed
 */
export function joinShards(
  index: ReadonlyMap<string, string>,
  shards: readonly string[],
  headers: readonly (readonly TensorEntry[])[],
  path: string,
): ReadonlyMap<string, TensorEntry> {
  const tensors = new Map<string, TensorEntry>();
  const fail = (rule: string, tensor: string, detail: string): never => {
    throw new SourceMalformed({ path, rule, tensor: displayName(tensor), detail });
  };
  for (const entry of headers.flat()) {
    const other = tensors.get(entry.name);
    const here = displayName(shards[entry.file]!);
    if (other !== undefined) {
      fail(
        'tensor-twice',
        entry.name,
        `found in ${displayName(shards[other.file]!)} and in ${here}, expected in one shard`,
      );
    }
    const mapped = index.get(entry.name);
    if (mapped === undefined)
      fail('tensor-unmapped', entry.name, `found in ${here}, expected its name in weight_map too`);
    tensors.set(entry.name, entry);
  }
  for (const [name, shard] of index) {
    const entry = tensors.get(name);
    if (entry === undefined || shards[entry.file] !== shard) {
      const found = entry === undefined ? 'in no shard' : `in ${displayName(shards[entry.file]!)}`;
      fail('tensor-missing', name, `found ${found}, expected in ${displayName(shard)} as weight_map says`);
    }
  }
  return tensors;
}
