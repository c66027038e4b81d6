#!/usr/bin/env python3
"""The truncated zero-centred HOSVD of a zoo in float64 (arXiv 2512.05117, algorithm 1), as JSON: of each slot the energy of
the core tensor's leading corners.

core.py ZOO_KIND_DIR OUT.json --rank 8

models: eigenvectors of the N x N Gram of what is left of the mean matrix; rows: of sum_i X_i^T X_i, as long as a row;
cols: of sum_i X_i X_i^T, as long as a column. A corner is [models, rows, cols, energy].
"""
import argparse
import json

import numpy as np

import zoo


def leading(matrix, rank):
    """Eigenvectors of the largest eigenvalues as columns, those of rounding left out."""
    values, vectors = np.linalg.eigh(matrix)
    kept = int((values[::-1][:rank] > 2.0**-20 * values[-1]).sum())
    return vectors[:, ::-1][:, :kept]


def cuts(rank):
    return [2**i for i in range(32) if 2**i < rank] + [rank]


def corners(weights, rank):
    X = weights - weights.mean(0)
    flat = X.reshape(len(X), -1)
    models = leading(flat @ flat.T, min(rank, len(X) - 1))
    rows = leading(np.einsum('irc,ird->cd', X, X), rank)
    cols = leading(np.einsum('irc,isc->rs', X, X), rank)
    core = np.einsum('irc,ia,cb,rd->abd', X, models, rows, cols, optimize=True)
    a, b, c = core.shape
    return [
        [i, j, k, float((core[:i, :j, :k] ** 2).sum())] for i in cuts(a) for j in cuts(b) for k in cuts(c)
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('out')
    parser.add_argument('--rank', type=int, required=True)
    args = parser.parse_args()
    names, slots = zoo.slots(args.folder)
    result = {'order': names, 'rank': args.rank, 'slots': {}}
    for name, (_, weights) in slots.items():
        X = weights - weights.mean(0)
        result['slots'][name] = {'total': float((X**2).sum()), 'corners': corners(weights, args.rank)}
    with open(args.out, 'w') as file:
        json.dump(result, file)
        file.write('\n')


if __name__ == '__main__':
    main()
