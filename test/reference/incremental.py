#!/usr/bin/env python3
"""What a streaming run should find, block by block: subspace.py folded over a zoo, as JSON.

incremental.py ZOO_KIND_DIR OUT.json --rank 16 --block 8 [--base FILE] [--no-center] [--check]

--check holds every formula against dense float64 (dense.py) and the identities of the coefficients, and fails loudly.
"""
import argparse
import json

import numpy as np

import zoo
from dense import DenseCheck
from subspace import Subspace


def captured_share(scores):
    known = [s for s in scores if s['captured2'] is not None]
    return sum(s['captured2'] for s in known) / sum(s['centred2'] for s in known) if known else None


def fold(flat, rank, block, base, centred, check):
    """One slot: flat is models x features, float64."""
    if base is not None:
        shift = base
    else:
        shift = flat[:block].mean(0).astype('f4').astype('f8') if centred else np.zeros(flat.shape[1])
    origin = (base if base is not None else 0.0) - shift
    state = Subspace(flat.shape[1], rank, centred)
    dense = DenseCheck(flat - shift, state) if check else None
    blocks, models = [], []
    for start in range(0, len(flat), block):
        X = flat[start : start + block] - shift
        scores, drift = state.update(X, origin)
        if dense:
            dense.after_block(X, scores, drift)
        blocks.append({
            'models_seen': state.n,
            'total': state.total,
            'lost': state.lost,
            'captured': captured_share(scores),
            **state.evr(),
            **drift,
        })
        models.extend(scores)
    if dense:
        dense.at_end()
    return state, blocks, models


def report(shape, state, blocks, models):
    k = min(state.rank, len(state.lam))
    _, signs = state.directions()
    coefficients = (state.coefficients * signs)[:, :k]
    return {
        'shape': shape,
        'models': state.n,
        'state_rows': len(state.lam),
        'total': state.total,
        'lost': state.lost,
        'next_sum': state.next_sum,
        'slack': state.slack(),
        'eigenvalues': state.lam[:k].tolist(),
        'blocks': blocks,
        'scores': models,
        'norm2': state.norm2.tolist(),
        'coefficients': coefficients.tolist(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('out')
    parser.add_argument('--rank', type=int, default=16)
    parser.add_argument('--block', type=int, default=8)
    parser.add_argument('--base')
    parser.add_argument('--no-center', action='store_true')
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args()
    names, slots = zoo.slots(args.folder)
    base = zoo.model(args.base) if args.base else {}
    result = {}
    for name, (shape, weights) in slots.items():
        flat = weights.reshape(len(weights), -1)
        origin = zoo.as_matrix(base[name]).reshape(-1).astype('f4').astype('f8') if name in base else None
        folded = fold(flat, args.rank, args.block, origin, not args.no_center, args.check)
        result[name] = report(shape, *folded)
    setting = {'rank': args.rank, 'block': args.block, 'centred': not args.no_center, 'base': args.base is not None}
    with open(args.out, 'w') as file:
        json.dump({**setting, 'order': names, 'slots': result}, file)
        file.write('\n')
    print(len(names), 'models', len(result), 'slots', 'checked' if args.check else '')


if __name__ == '__main__':
    main()
