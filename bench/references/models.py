"""Reads the bench's models: safetensors files of one float32 tensor each, into rows of an array given by the caller."""
import os
import struct

import numpy as np

FEATURES = 512 * 512


def paths(folder):
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]


def read_into(files, rows):
    for path, row in zip(files, rows):
        with open(path, 'rb', buffering=0) as file:
            (length,) = struct.unpack('<Q', file.read(8))
            file.seek(8 + length)
            file.readinto(memoryview(row).cast('B'))


def read_all(folder):
    files = paths(folder)
    X = np.empty((len(files), FEATURES), 'f4')
    read_into(files, X)
    return X
