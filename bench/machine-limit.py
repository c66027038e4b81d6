"""What this machine can do at best: reading the files with every core, one large float32 product, a synced write.

machine-limit.py FOLDER SCRATCH_DIR WRITE_BYTES

Best of several passes each; reads are large, from a warm page cache, into buffers that are reused.
"""
import json
import os
import sys
import threading
import time

import numpy as np

folder, scratch, write_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
files = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
total = sum(os.path.getsize(path) for path in files)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_share(share, buffer):
    for path in share:
        with open(path, 'rb', buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_pass(buffers):
    threads = [threading.Thread(target=read_share, args=(files[i::cores], b)) for i, b in enumerate(buffers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write_pass(block):
    path = os.path.join(scratch, 'write-probe')
    try:
        with open(path, 'wb', buffering=0) as file:
            left = write_bytes
            while left > 0:
                left -= file.write(block[:left])
            os.fsync(file.fileno())
    finally:
        os.remove(path)


buffers = [bytearray(2 << 20) for _ in range(cores)]
read_s = min(seconds(lambda: read_pass(buffers)) for _ in range(6))
A, B, C = (np.random.default_rng(i).random((2048, 2048), 'f4') for i in range(3))
gemm_s = min(seconds(lambda: np.matmul(A, B, out=C)) for _ in range(8))
write_s = min(seconds(lambda: write_pass(memoryview(os.urandom(4 << 20)))) for _ in range(3))
print(json.dumps({
    'cores': cores,
    'read_bytes_per_s': total / read_s,
    'gemm_flops_per_s': 2 * 2048**3 / gemm_s,
    'write_bytes_per_s': write_bytes / write_s,
    'versions': f'NumPy {np.__version__}',
}))
