"""scikit-learn's IncrementalPCA over the files, one block read at a time. The clock starts at the first read.

sklearn-incremental.py FOLDER RANK BLOCK
"""
import json
import sys
import time

import numpy as np
import sklearn
from sklearn.decomposition import IncrementalPCA

import models

folder, rank, block = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
files = models.paths(folder)
pca = IncrementalPCA(n_components=rank, batch_size=block)
start = time.perf_counter()
for first in range(0, len(files), block):
    X = np.empty((min(block, len(files) - first), models.FEATURES), 'f4')
    models.read_into(files[first : first + block], X)
    pca.partial_fit(X)
fit_s = time.perf_counter() - start
versions = f'scikit-learn {sklearn.__version__}, NumPy {np.__version__}'
print(json.dumps({'fit_s': fit_s, 'singular_values': pca.singular_values_[:10].tolist(), 'versions': versions}))
