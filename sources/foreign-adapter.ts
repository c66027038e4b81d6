// Adapters that do not say they are one: LoRA factors in a file of their own, with the keys of Kohya's scripts, of LyCORIS, of diffusers or
// of PEFT without its config. Read as plain weights they would be slots whose numbers depend on the seed and lack their scale,
// so they are refused by name. Decided by the tensors' names alone.
import { factorName } from './adapter-modules.ts';
import { displayName } from './display-name.ts';
import { SourceMalformed } from './errors.ts';
import type { TensorEntry } from './model.ts';

const styles: readonly { readonly name: string; readonly is: (key: string) => boolean; readonly advice: string }[] = [
  {
    name: 'the keys of Kohya',
    is: (key) => /\.lora_(?:down|up)\.weight$/.test(key),
    advice:
      'load it with load_lora_weights of diffusers and save it with save_pretrained of PEFT, which writes adapter_config.json',
  },
  {
    name: 'the keys of diffusers before PEFT',
    is: (key) => /(?:[._]lora|lora_linear_layer)\.(?:down|up)\.weight$/.test(key),
    advice:
      'load it with load_lora_weights of diffusers and save it with save_pretrained of PEFT, which writes adapter_config.json',
  },
  {
    name: 'the keys of LyCORIS',
    is: (key) => /\.(?:hada_w[12]_[ab]|lokr_w[12](?:_[ab])?|lokr_t2|hada_t[12])$/.test(key),
    advice: 'its change is no product of two factors: merge it into its base and give the merged model',
  },
  {
    name: 'factors of LoRA',
    is: (key) => factorName(key) !== null,
    advice: 'put the adapter_config.json beside it, which has their scale, and call the file adapter_model.safetensors',
  },
];

/**
 * Lets full weights pass, also those that have a few factors among them.
 * @throws SourceMalformed where most tensors are factors
 */
export function refuseForeignAdapter(tensors: readonly TensorEntry[], path: string): void {
  for (const { name, is, advice } of styles) {
    const keys = tensors.filter((tensor) => is(tensor.name));
    // Kohya's third tensor of a module is its alpha.
    if (keys.length === 0 || keys.length * 2 < tensors.length) continue;
    const tensor = displayName(keys[0]!.name);
    const detail = `found ${name} in ${keys.length} of ${tensors.length} tensors, expected full weights or a PEFT folder: ${advice}`;
    throw new SourceMalformed({ path, tensor, rule: 'foreign-adapter', detail });
  }
}
