// The two files of a PEFT adapter: adapter_model.safetensors and the adapter_config.json beside it, which has the scale. Both are
// files of the model: their digests are in its fingerprint, and a change of either is seen. Cost: as a header of one file.
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { adapterConfigName, maxAdapterConfigBytes, parseAdapterConfig } from './adapter-config.ts';
import { adapterModules } from './adapter-modules.ts';
import { SourceMalformed, SourceUnavailable } from './errors.ts';
import { realPathInside } from './hub-links.ts';
import type { ModelFile } from './model.ts';
import type { FileHeader, RawHeader } from './model-header.ts';
import { readExactly, withRegularFile } from './regular-file.ts';
import { parseSafetensorsHeader } from './safetensors.ts';

/** @throws SourceMalformed, SourceUnavailable */
export function readAdapter({ file, bytes, digest }: FileHeader, repository: string | undefined): RawHeader {
  const config = readConfig(join(dirname(file.path), adapterConfigName), file.path, repository);
  const parsed = parseAdapterConfig(config.bytes, config.file.path);
  return {
    files: [file, config.file],
    headerDigests: [digest, config.digest],
    key: `adapter ${file.size} ${digest} ${parsed.key}`,
    parse: () => adapterModules(parseSafetensorsHeader(bytes, file.size, file.path).tensors, parsed, file.path),
    adapter: { baseModel: parsed.baseModel },
  };
}

function readConfig(
  path: string,
  weights: string,
  repository: string | undefined,
): { readonly file: ModelFile; readonly bytes: Buffer; readonly digest: string } {
  try {
    if (repository !== undefined) realPathInside(path, repository);
    return withRegularFile(path, (handle, { size, mtimeMs }) => {
      if (size > maxAdapterConfigBytes) {
        const detail = `found a config of ${size} bytes, expected at most ${maxAdapterConfigBytes}`;
        throw new SourceMalformed({ path, rule: 'config-size', detail });
      }
      const bytes = readExactly(handle, path, 0, size);
      return { file: { path, size, mtimeMs }, bytes, digest: createHash('sha256').update(bytes).digest('hex') };
    });
  } catch (cause) {
    if (!(cause instanceof SourceUnavailable) || !cause.detail.includes('ENOENT')) throw cause;
    const detail = `found no ${adapterConfigName} beside it, expected the one that PEFT wrote: it has the scale of the factors`;
    throw new SourceMalformed({ path: weights, rule: 'config-missing', detail });
  }
}
