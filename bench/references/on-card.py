"""The same models on the same card, by others: data in host memory, uploads timed, reading not.

on-card.py FOLDER RANK BLOCK WHAT

WHAT is exact (float64 Gram on the card: singular values alone), torch-gram (float32 Gram, eigh, basis), torch-svd
(torch.svd_lowrank), cupy-ipca (a textbook incremental PCA, the small problem by the Gram matrix of components and block) or
sklearn (IncrementalPCA on the processor, on the first 65,536 weights).
Files are safetensors of one bfloat16 tensor each.
"""
import json
import os
import sys
import time

import numpy as np

folder, rank, block, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
SLICE = 1 << 20
PART = 256 * 256


def sizes():
    names = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    with open(names[0], 'rb') as file:
        start = 8 + int.from_bytes(file.read(8), 'little')
    return names, start, (os.path.getsize(names[0]) - start) // 2


def fill(rows):
    """Fills models x features with the bits of bfloat16, the first features of every model."""
    names, start, _ = sizes()
    for row, name in zip(rows, names):
        with open(name, 'rb', buffering=0) as file:
            file.seek(start)
            view = memoryview(row).cast('B')
            while len(view) > 0:
                got = file.readinto(view)
                if got == 0:
                    raise EOFError(f'{name} ends {len(view)} bytes early')
                view = view[got:]
    return rows


def done(seconds, values, features, bytes_read, versions):
    print(json.dumps({'seconds': seconds, 'singular_values': [float(v) for v in values[:10]], 'features': features,
                      'bytes': bytes_read, 'versions': versions}))


def with_torch():
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    names, _, features = sizes()
    bits = torch.empty((len(names), features), dtype=torch.int16, pin_memory=True)
    fill(bits.numpy())
    host = bits.view(torch.bfloat16)
    versions = f'torch {torch.__version__}, {torch.cuda.get_device_name(0)}'
    torch.zeros(1, device='cuda')
    n = len(names)

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
    done(time.perf_counter() - start, values.cpu().numpy(), features, n * features * 2, versions)


def with_cupy():
    import cupy

    names, _, features = sizes()
    n = len(names)
    X = fill(np.empty((n, features), '<u2'))
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


def with_sklearn():
    import sklearn
    from sklearn.decomposition import IncrementalPCA

    names, _, features = sizes()
    X = fill(np.empty((len(names), min(PART, features)), '<u2'))
    part = (X.astype(np.uint32) << 16).view(np.float32)
    start = time.perf_counter()
    pca = IncrementalPCA(n_components=min(rank, len(X) - 1), batch_size=max(block, rank)).fit(part)
    done(time.perf_counter() - start, pca.singular_values_, part.shape[1], part.size * 2, f'scikit-learn {sklearn.__version__}')


{'cupy-ipca': with_cupy, 'sklearn': with_sklearn}.get(what, with_torch)()
