"""Reads a folder of safetensors models into float64 slots, with NumPy and nothing of weightspan.

Models in byte order of their names. A slot is a tensor that every model has, of one shape and two or more dims in the
file; three dims count as (all but the last) x last, four and more as first x rest. A folder with an adapter_config.json is
a LoRA adapter, whose slots are its modules: scale * B A by the rules of PEFT.
"""
import json
import math
import os
import re
import struct

import numpy as np


def tensors(path):
    """Every tensor of one safetensors file, widened to float64."""
    with open(path, 'rb') as file:
        (length,) = struct.unpack('<Q', file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        start, stop = entry['data_offsets']
        raw = data[start:stop]
        if entry['dtype'] == 'BF16':
            values = (np.frombuffer(raw, '<u2').astype('<u4') << 16).view('<f4')
        else:
            values = np.frombuffer(raw, {'F64': '<f8', 'F32': '<f4', 'F16': '<f2'}[entry['dtype']])
        found[name] = values.astype('f8').reshape(entry['shape'])
    return found


def adapter(path):
    """The change of each weight that a PEFT adapter of linear layers makes."""
    with open(os.path.join(path, 'adapter_config.json')) as file:
        config = json.load(file)

    def setting(patterns, module, otherwise):
        return next((v for key, v in patterns.items() if re.match(rf'(.*\.)?({key})$', module)), otherwise)

    factors = tensors(os.path.join(path, 'adapter_model.safetensors'))
    changes = {}
    for name in factors:
        if not name.endswith('.lora_A.weight'):
            continue
        module = name.removeprefix('base_model.model.').removesuffix('.lora_A.weight')
        rank = setting(config.get('rank_pattern') or {}, module, config.get('r', 8))
        alpha = setting(config.get('alpha_pattern') or {}, module, config.get('lora_alpha', 8))
        scale = alpha / (math.sqrt(rank) if config.get('use_rslora') else rank)
        change = scale * (factors[name.replace('.lora_A.', '.lora_B.')] @ factors[name])
        changes[module] = change.T if config.get('fan_in_fan_out') else change
    return changes


def model(path):
    """A model: one safetensors file, or a folder with one, or a sharded one (the index wins), or an adapter."""
    if os.path.isfile(path):
        return tensors(path)
    if os.path.exists(os.path.join(path, 'adapter_config.json')):
        return adapter(path)
    index = os.path.join(path, 'model.safetensors.index.json')
    if not os.path.exists(index):
        return tensors(os.path.join(path, 'model.safetensors'))
    with open(index) as file:
        shards = sorted(set(json.load(file)['weight_map'].values()))
    return {name: value for shard in shards for name, value in tensors(os.path.join(path, shard)).items()}


def as_matrix(tensor):
    return tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim == 3 else tensor.reshape(tensor.shape[0], -1)


def slots(folder):
    """(names of the models in byte order, {slot: (shape in the file, models x rows x cols)})."""
    names = sorted(os.listdir(folder), key=os.fsencode)
    models = [model(os.path.join(folder, name)) for name in names]
    shared = sorted(set.intersection(*(set(m) for m in models)))
    kept = [s for s in shared if models[0][s].ndim >= 2 and len({m[s].shape for m in models}) == 1]
    return names, {s: (list(models[0][s].shape), np.stack([as_matrix(m[s]) for m in models])) for s in kept}
