// From an adapter's tensors to its modules: which two tensors are the factors of which module, whether they fit each other and
// the config, and the shape of their product. What is no factor is left out by name. Pure; linear in the tensors.
// Source of the names and shapes: PEFT, tuners/lora/layer.py (get_delta_weight) and utils/save_and_load.py.
import type { AdapterConfig } from './adapter-config.ts';
import { displayName } from './display-name.ts';
import { isReadableDtype } from './dtype.ts';
import { SourceMalformed } from './errors.ts';
import type { LoraTensors, TensorEntry } from './model.ts';

const prefix = 'base_model.model.';

/** What the part of a key behind the module's path says. */
interface FactorName {
  readonly module: string;
  readonly factor: 'a' | 'b';
  readonly embedding: boolean;
}

interface Pair {
  a?: TensorEntry;
  b?: TensorEntry;
  embedding: boolean;
}

/**
 * The factor that a key of PEFT names; null for all other keys.
 * `X.lora_A.weight`, with an adapter's name `X.lora_A.default.weight`, and of embeddings `X.lora_embedding_A`.
 */
export function factorName(key: string): FactorName | null {
  const at = key.lastIndexOf('.lora_');
  if (at <= 0 || key.length - at > 256) return null;
  const found = /^\.lora_(embedding_)?([AB])(?:\.[^.]+)?$/.exec(key.slice(at).replace(/\.weight$/, ''));
  if (found === null || key.endsWith('.bias')) return null;
  return { module: key.slice(0, at), factor: found[2] === 'A' ? 'a' : 'b', embedding: found[1] !== undefined };
}

/** @throws SourceMalformed */
export function adapterModules(
  tensors: readonly TensorEntry[],
  config: AdapterConfig,
  path: string,
): readonly TensorEntry[] {
  const fail = (tensor: string, rule: string, detail: string): never => {
    throw new SourceMalformed({ path, tensor: displayName(tensor), rule, detail });
  };
  const pairs = new Map<string, Pair>();
  const entries: TensorEntry[] = [];
  for (const tensor of tensors) {
    const key = tensor.name.startsWith(prefix) ? tensor.name.slice(prefix.length) : tensor.name;
    if (key.includes('.lora_magnitude_vector')) {
      fail(
        tensor.name,
        'dora',
        'found a magnitude of DoRA, expected factors alone: B·A is not the change of the weight',
      );
    }
    const named = factorName(key);
    if (named === null) {
      entries.push({ ...tensor, name: key, leftOut: reasonOf(key) });
      continue;
    }
    const { module, factor, embedding } = named;
    const pair = pairs.get(module) ?? { embedding };
    if (pair[factor] !== undefined || pair.embedding !== embedding) {
      const both = displayName((pair.a ?? pair.b)!.name);
      fail(tensor.name, 'adapters', `found ${both} as well, expected one adapter a file: save each on its own`);
    }
    pair[factor] = tensor;
    pairs.set(module, pair);
  }
  if (pairs.size === 0) {
    const example = tensors[0] === undefined ? 'no tensor' : displayName(tensors[0].name);
    const detail = `found ${example} and no factor, expected keys such as ${prefix}X.lora_A.weight`;
    throw new SourceMalformed({ path, rule: 'no-factors', detail });
  }
  for (const [module, { a, b, embedding }] of pairs) {
    if (a === undefined || b === undefined) {
      const [found, missing] = a === undefined ? [b!, 'A'] : [a, 'B'];
      return fail(found.name, 'factor-missing', `found no lora_${missing} of this module, expected both A and B`);
    }
    const lora = productOf(module, a, b, embedding, config, fail);
    const dtype = [a, b].find((tensor) => !isReadableDtype(tensor.dtype))?.dtype ?? a.dtype;
    const first = a.offset < b.offset ? a : b;
    entries.push({
      name: module,
      dtype,
      shape: shapeOf(lora),
      file: first.file,
      offset: first.offset,
      byteLength: a.byteLength + b.byteLength,
      lora,
    });
  }
  const names = new Set<string>();
  for (const { name } of entries) {
    if (names.has(name)) fail(name, 'duplicate-key', `found the name twice without ${prefix}, expected once`);
    names.add(name);
  }
  return entries.sort((x, y) => x.offset - y.offset);
}

const reasonOf = (key: string): string => {
  if (/\.lora_[AB](?:\.[^.]+)?\.bias$/.test(key)) return 'a bias of a LoRA factor (lora_bias), no part of ΔW';
  if (key.endsWith('.bias')) return 'a bias kept beside the adapter, no part of ΔW';
  return 'a whole layer kept beside the adapter (modules_to_save), no factor of ΔW';
};

/** A rank x in, B out x rank, both with the further dims of a convolution; ΔW = scale · B A is out x in, or transposed. */
function productOf(
  module: string,
  a: TensorEntry,
  b: TensorEntry,
  embedding: boolean,
  config: AdapterConfig,
  fail: (tensor: string, rule: string, detail: string) => never,
): LoraTensors {
  const shown = ({ shape }: TensorEntry): string => `[${shape.join(', ')}]`;
  const { rank, scale } = config.scalingOf(module);
  const shapes = `found A ${shown(a)} and B ${shown(b)}`;
  if (a.shape.length < 2 || b.shape.length !== a.shape.length || !b.shape.slice(2).every((dim) => dim === 1)) {
    fail(
      a.name,
      'factor-shape',
      `${shapes}, expected A [r, inputs] and B [outputs, r] (convolutions: B [outputs, r, 1, 1])`,
    );
  }
  if (a.shape[0] !== b.shape[1])
    fail(a.name, 'rank', `${shapes}, expected the rows of A to be as many as the columns of B`);
  if (a.shape[0] !== rank) {
    const why = config.hasTargetParameters
      ? '; target_parameters, which stack the factors of experts, are not read'
      : '';
    fail(a.name, 'rank', `${shapes}, expected rank ${rank} as r and rank_pattern say${why}`);
  }
  const inputs = a.shape.slice(1).reduce((all, dim) => all * dim, 1);
  const outputs = b.shape[0]!;
  const transposed = embedding || (config.fanInFanOut && a.shape.length === 2);
  const [rows, cols] = transposed ? [inputs, outputs] : [outputs, inputs];
  if (!Number.isSafeInteger(rows * cols))
    fail(a.name, 'shape-overflow', `${shapes}, expected a product of at most 2^53 - 1 weights`);
  return { a, b, rank, scale, transposed, rows, cols };
}

/** Of the layer's weight: [out, in], [in, out], or [out, in, kernel …]. */
const shapeOf = ({ a, rows, cols }: LoraTensors): readonly number[] =>
  a.shape.length === 2 ? [rows, cols] : [rows, ...a.shape.slice(1)];
