"""The first ten singular values of the centred models, in float64 throughout: what the others are held against.

exact.py FOLDER
"""
import json
import sys

import numpy as np

import models

X = models.read_all(sys.argv[1])
gram = np.zeros((len(X), len(X)))
for first in range(0, models.FEATURES, 16384):
    chunk = X[:, first : first + 16384].astype('f8')
    chunk -= chunk.mean(0)
    gram += chunk @ chunk.T
print(json.dumps({'singular_values': np.sqrt(np.linalg.eigvalsh(gram)[::-1][:10]).tolist()}))
