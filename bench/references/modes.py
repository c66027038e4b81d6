"""The first 64 eigenvalues of a set's only slot in every mode, in float64 throughout.

modes.py FOLDER ROWS COLS
"""
import json
import os
import sys

import numpy as np

folder, rows, cols = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
models = []
for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name), 'rb') as file:
        header = int.from_bytes(file.read(8), 'little')
        file.seek(8 + header)
        models.append(np.frombuffer(file.read(), '<f4').reshape(rows, cols).astype('f8'))
mean = sum(models) / len(models)
centred = [model - mean for model in models]
flat = np.stack([matrix.ravel() for matrix in centred])
scatters = {
    'models': flat @ flat.T,
    'rows': sum(matrix.T @ matrix for matrix in centred),
    'cols': sum(matrix @ matrix.T for matrix in centred),
}
print(json.dumps({mode: np.linalg.eigvalsh(scatter)[::-1][:64].tolist() for mode, scatter in scatters.items()}))
