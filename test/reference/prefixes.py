#!/usr/bin/env python3
"""What an exact run should find, block end by block end: the SVD of every prefix of a zoo in float64, as JSON.

prefixes.py ZOO_KIND_DIR OUT.json --rank 4 --block 4

No Gram matrix and no update: each prefix is centred about its own mean and decomposed by itself.
"""
import argparse
import json

import numpy as np

import zoo
from subspace import cuts_of


def decompose(X):
    """Mean, singular values and right singular vectors of a centred prefix; at most n - 1 of them."""
    mean = X.mean(0)
    _, s, directions = np.linalg.svd(X - mean, full_matrices=False)
    most = min(len(X) - 1, X.shape[1])
    return mean, s[:most], directions[:most]


def score(x, before, rank):
    raw = float(x @ x)
    if before is None:
        return {'centred2': None, 'captured2': None, 'raw_norm2': raw}
    mean, _, directions = before
    inner = directions[:rank] @ (x - mean)
    return {'centred2': float((x - mean) @ (x - mean)), 'captured2': float(inner @ inner), 'raw_norm2': raw}


def angles(old, new, cut):
    if len(old) < cut or len(new) < cut:
        return None
    cosines = np.clip(np.linalg.svd(old[:cut] @ new[:cut].T, compute_uv=False), 0, 1)
    degrees = np.degrees(np.arccos(cosines))
    return {'max': float(degrees.max()), 'mean': float(degrees.mean()), 'overlap': float((cosines**2).mean())}


def block_row(seen, scores, before, now, rank, cut_names):
    _, s, directions = now
    total = float((s**2).sum())
    known = [found for found in scores if found['captured2'] is not None]
    row = {
        'models_seen': seen,
        'total': total,
        'lost': 0,
        'captured': sum(f['captured2'] for f in known) / sum(f['centred2'] for f in known) if known else None,
    }
    for name, cut in cut_names.items():
        enough = cut <= rank and cut <= len(s)
        row[f'evr_{name}'] = float((s[:cut] ** 2).sum() / total) if enough else None
        found = angles(before[2][:rank], directions[:rank], cut) if before is not None and cut <= rank else None
        row[f'angle_max_{name}'] = found and found['max']
        row[f'angle_mean_{name}'] = found and found['mean']
        row[f'overlap_{name}'] = found and found['overlap']
    return row


def report(shape, flat, rank, block):
    cut_names = dict(cuts_of(rank))
    before, blocks, scores = None, [], []
    for start in range(0, len(flat), block):
        arrived = [score(x, before, rank) for x in flat[start : start + block]]
        now = decompose(flat[: start + block])
        blocks.append(block_row(min(start + block, len(flat)), arrived, before, now, rank, cut_names))
        scores.extend(arrived)
        before = now
    mean, s, directions = before
    top = directions[:rank]
    signs = np.sign(top[np.arange(len(top)), np.abs(top).argmax(1)])
    return {
        'shape': shape,
        'total': float((s**2).sum()),
        'lost': 0,
        'eigenvalues': (s**2).tolist(),
        'blocks': blocks,
        'scores': scores,
        'norm2': ((flat - mean) ** 2).sum(1).tolist(),
        'coefficients': (((flat - mean) @ top.T) * signs).tolist(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('out')
    parser.add_argument('--rank', type=int, default=4)
    parser.add_argument('--block', type=int, default=4)
    args = parser.parse_args()
    names, slots = zoo.slots(args.folder)
    result = {
        name: report(shape, weights.reshape(len(weights), -1), args.rank, args.block)
        for name, (shape, weights) in slots.items()
    }
    with open(args.out, 'w') as file:
        json.dump({'rank': args.rank, 'block': args.block, 'order': names, 'slots': result}, file)
        file.write('\n')
    print(len(names), 'models', len(result), 'slots')


if __name__ == '__main__':
    main()
