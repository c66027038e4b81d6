"""Reads files as fast as the disk gives them, or empties the page cache of them.

cold-read.py FOLDER drop
cold-read.py FOLDER read READERS BYTES_A_READ ahead|plain [FILES]

drop: all of the page cache where this user may, else these files alone. read: each reader takes the next file, with
FILES the first so many; 'ahead' tells the kernel that reading is sequential.
"""
import json
import os
import sys
import threading
import time

folder, what = sys.argv[1:3]
files = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
DROP = '/proc/sys/vm/drop_caches'


def drop():
    os.sync()
    try:
        with open(DROP, 'w') as file:
            file.write('3')
        return 'drop_caches'
    except OSError:
        pass
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    return 'posix_fadvise'


def read(readers, size, ahead, queue):
    lock = threading.Lock()

    def work():
        buffer = bytearray(size)
        buffer[::4096] = b'\1' * len(buffer[::4096])
        barrier.wait()
        while True:
            with lock:
                if not queue:
                    return
                path = queue.pop(0)
            with open(path, 'rb', buffering=0) as file:
                if ahead:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while file.readinto(buffer):
                    pass

    barrier = threading.Barrier(readers + 1)
    total = sum(os.path.getsize(path) for path in queue)
    threads = [threading.Thread(target=work) for _ in range(readers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return {'bytes': total, 'seconds': time.perf_counter() - start}


if what == 'drop':
    print(json.dumps({'by': drop()}))
else:
    readers, size, ahead = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == 'ahead'
    print(json.dumps(read(readers, size, ahead, files[: int(sys.argv[6])] if len(sys.argv) > 6 else files)))
