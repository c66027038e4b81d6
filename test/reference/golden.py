#!/usr/bin/env python3
"""Exact float64 spectra of a zoo in the three modes, with NumPy alone: what every engine is held against.

golden.py ZOO_KIND_DIR OUT.json [TOP]

models: eigenvalues of the N x N Gram of flattened, centred weights
rows:   eigenvalues of sum_i (W_i - M)^T (W_i - M), every row of every model a sample
cols:   eigenvalues of sum_i (W_i - M) (W_i - M)^T, every column of every model a sample
"""
import json
import sys

import numpy as np

import zoo


def top_eigenvalues(matrix, top):
    return np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0)[:top].tolist()


def spectra(shape, weights, top):
    centred = weights - weights.mean(0)
    flat = centred.reshape(len(centred), -1)
    return {
        'models': len(weights),
        'shape': shape,
        'total': float((flat**2).sum()),
        'uncentred_total': float((weights**2).sum()),
        'eig': {
            'models': top_eigenvalues(flat @ flat.T, top),
            'rows': top_eigenvalues(np.einsum('imr,ims->rs', centred, centred), top),
            'cols': top_eigenvalues(np.einsum('irm,ism->rs', centred, centred), top),
        },
    }


def main():
    folder, out = sys.argv[1:3]
    top = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    names, slots = zoo.slots(folder)
    result = {'order': names, 'slots': {name: spectra(*slot, top) for name, slot in slots.items()}}
    with open(out, 'w') as file:
        json.dump(result, file)
        file.write('\n')
    print(len(names), 'models', len(result['slots']), 'slots')


if __name__ == '__main__':
    main()
