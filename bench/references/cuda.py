"""The same models on the same card, by others: data in host memory, uploads timed, reading not.

cuda.py FOLDER RANK BLOCK WHAT

WHAT is exact (float64 Gram on the card: singular values alone), torch-gram (float32 Gram, eigh, basis), torch-svd
(torch.svd_lowrank), cupy-ipca (a textbook incremental PCA, the small problem by the Gram matrix of components and block) or
sklearn (IncrementalPCA on the processor, on the first 262,144 weights).
Files are safetensors of one bfloat16 tensor each.
"""
import json
import os
import sys
import time

import numpy as np

folder, rank, block, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
SLICE = 1 << 20
PART = 512 * 512


def stored():
    """models x features, the bits of bfloat16."""
    rows = []
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), 'rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            file.seek(8 + length)
            rows.append(np.frombuffer(file.read(), '<u2'))
    return np.stack(rows)


def done(seconds, values, features, bytes_read, versions):
    print(json.dumps({'seconds': seconds, 'singular_values': [float(v) for v in values[:10]], 'features': features,
                      'bytes': bytes_read, 'versions': versions}))


def with_torch(X):
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    host = torch.from_numpy(X.view(np.int16)).view(torch.bfloat16).pin_memory()
    versions = f'torch {torch.__version__}, {torch.cuda.get_device_name(0)}'
    torch.zeros(1, device='cuda')
    n, features = X.shape

    def gram(dtype):
        G = torch.zeros((n, n), dtype=torch.float64, device='cuda')
        for first in range(0, features, SLICE):
            part = host[:, first:first + SLICE].cuda(non_blocking=True).to(dtype)
            part -= part.mean(0)
            G += (part @ part.T).double()
        return G

    torch.cuda.synchronize()
    start = time.perf_counter()
    if what == 'exact':
        values = torch.linalg.eigvalsh(gram(torch.float64)).flip(0).clamp(min=0).sqrt()
    elif what == 'torch-gram':
        eigenvalues, Q = torch.linalg.eigh(gram(torch.float32))
        values = eigenvalues.flip(0).clamp(min=0).sqrt()
        mixing = (Q.flip(1)[:, :rank] / values[:rank]).T.float()
        for first in range(0, features, SLICE):
            part = host[:, first:first + SLICE].cuda(non_blocking=True).float()
            mixing @ (part - part.mean(0))
    else:
        A = host.cuda().float()
        A -= A.mean(0)
        _, values, _ = torch.svd_lowrank(A, q=rank)
    torch.cuda.synchronize()
    done(time.perf_counter() - start, values.cpu().numpy(), features, X.nbytes, versions)


def with_cupy(X):
    import cupy

    n, features = X.shape
    S, mean, seen = None, None, 0
    cupy.cuda.Device().synchronize()
    start = time.perf_counter()
    for first in range(0, n, block):
        B = (cupy.asarray(X[first:first + block]).astype(cupy.uint32) << 16).view(cupy.float32)
        b = len(B)
        own = B.mean(0)
        B -= own
        if S is None:
            rows, mean = B, own
        else:
            rows = cupy.vstack([S, B, (cupy.sqrt(seen * b / (seen + b)) * (mean - own))[None]])
            mean = (seen * mean + b * own) / (seen + b)
        seen += b
        values, Q = cupy.linalg.eigh((rows @ rows.T).astype(cupy.float64))
        keep = min(rank, seen - 1)
        S = Q[:, ::-1][:, :keep].T.astype(cupy.float32) @ rows
        values = cupy.sqrt(cupy.maximum(values[::-1][:keep], 0))
    cupy.cuda.Device().synchronize()
    done(time.perf_counter() - start, cupy.asnumpy(values), features, X.nbytes, f'CuPy {cupy.__version__}')


def with_sklearn(X):
    import sklearn
    from sklearn.decomposition import IncrementalPCA

    part = (X[:, :PART].astype(np.uint32) << 16).view(np.float32)
    start = time.perf_counter()
    pca = IncrementalPCA(n_components=min(rank, len(X) - 1), batch_size=max(block, rank)).fit(part)
    done(time.perf_counter() - start, pca.singular_values_, part.shape[1], part.size * 2, f'scikit-learn {sklearn.__version__}')


X = stored()
{'cupy-ipca': with_cupy, 'sklearn': with_sklearn}.get(what, with_torch)(X)
