"""Reads files as fast as the disk gives them, or empties the page cache of them.

cold-read.py FOLDER drop
cold-read.py FOLDER read READERS BYTES_A_READ ahead|plain|direct [FILES]

drop: all of the page cache where this user may, else these files alone. read: each reader takes the next file, with
FILES the first so many; 'ahead' tells the kernel that reading is sequential, 'direct' reads past the page cache.
"""
import json
import mmap
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


def read(readers, size, how, queue):
    lock = threading.Lock()

    def work():
        # Begins with a page, as reading past the cache wants it.
        buffer = mmap.mmap(-1, size)
        for at in range(0, size, 4096):
            buffer[at] = 1
        flags = os.O_RDONLY | (os.O_DIRECT if how == 'direct' else 0)
        barrier.wait()
        while True:
            with lock:
                if not queue:
                    return
                path = queue.pop(0)
            fd = os.open(path, flags)
            if how == 'ahead':
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            at = 0
            # The last read ends inside a page: past the cache there is none after it.
            while at < os.fstat(fd).st_size:
                at += os.preadv(fd, [buffer], at)
            os.close(fd)

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
    readers, size, how = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    print(json.dumps(read(readers, size, how, files[: int(sys.argv[6])] if len(sys.argv) > 6 else files)))
