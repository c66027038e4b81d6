"""PCA with everything in memory: centre, one float32 Gram matrix, eigh in float64, the basis. Reading is not timed.

numpy-gram.py FOLDER RANK

arithmetic_s is Gram, eigh and basis on rows already centred in place; centre_s is what centring took.
"""
import json
import sys
import time

import numpy as np

import models

rank = int(sys.argv[2])
X = models.read_all(sys.argv[1])
start = time.perf_counter()
X -= X.mean(0, dtype='f4')
centred = time.perf_counter()
eigenvalues, Q = np.linalg.eigh((X @ X.T).astype('f8'))
singular_values = np.sqrt(eigenvalues[::-1][:rank])
basis = (Q[:, ::-1][:, :rank] / singular_values).T.astype('f4') @ X
end = time.perf_counter()
print(json.dumps({
    'centre_s': centred - start,
    'arithmetic_s': end - centred,
    'singular_values': singular_values[:10].tolist(),
    'versions': f'NumPy {np.__version__}',
}))
