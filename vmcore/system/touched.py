"""Ask the host which pages of an anonymous mapping were ever touched, so that only these must be read.

Linux answers in /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst): 8 bytes per page, bit 63 "present"
and bit 62 "swapped". On other systems every page counts as touched.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

_TOUCHED = np.uint64(3 << 62)
_CHUNK = 1 << 17  #: pages per read of pagemap


def touched(buffer: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges (first byte, end) of a buffer. All bytes outside them are zero.

    Args:
        buffer: part of a private anonymous mapping, uint8, shape ``(n,)``.
    """
    size, address = len(buffer), buffer.ctypes.data
    page, end = address // mmap.PAGESIZE, -(-(address + size) // mmap.PAGESIZE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(page * 8)
            while page < end:
                entries = np.frombuffer(pagemap.read(min(_CHUNK, end - page) * 8), np.uint64)
                if not len(entries):
                    break
                for first, stop in _stretches(entries & _TOUCHED != 0):
                    begin = (page + first) * mmap.PAGESIZE - address
                    yield max(begin, 0), min((page + stop) * mmap.PAGESIZE - address, size)
                page += len(entries)
    except OSError:  # the file does not exist or is not readable: the remaining pages count as touched
        pass
    if page < end:
        yield max(page * mmap.PAGESIZE - address, 0), size


def _stretches(there: np.ndarray) -> list[list[int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
    stretches: list[list[int]] = edges.reshape(-1, 2).tolist()
    return stretches
