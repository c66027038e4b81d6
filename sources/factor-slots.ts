// `--lora factors`: the factors themselves as tensors, `X.lora_A` and `X.lora_B` by the names of their modules. What they are
// depends on the seed as much as on the training: A begins random and stays near where it began, and M A, B M⁻¹ do the same as
// A, B for any M. Models that share a header go on sharing one.
import type { ModelHeader, TensorEntry } from './model.ts';

const known = new WeakMap<ModelHeader['tensors'], ModelHeader['tensors']>();

export const withFactorSlots = (header: ModelHeader): ModelHeader => {
  if (header.adapter === undefined) return header;
  let tensors = known.get(header.tensors);
  if (tensors === undefined) {
    tensors = new Map([...header.tensors.values()].flatMap(factorsOf).map((tensor) => [tensor.name, tensor]));
    known.set(header.tensors, tensors);
  }
  return { ...header, tensors };
};

const factorsOf = (tensor: TensorEntry): readonly TensorEntry[] => {
  const { name, lora } = tensor;
  if (lora === undefined) return [tensor];
  const named = (factor: TensorEntry, letter: string): TensorEntry => ({ ...factor, name: `${name}.lora_${letter}` });
  return [named(lora.a, 'A'), named(lora.b, 'B')].sort((x, y) => x.offset - y.offset);
};
