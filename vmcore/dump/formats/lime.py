"""LiME dumps: ranges of RAM, each behind a header of 32 bytes.

The header's ``e_addr`` is the address of the last byte. Source: LiME's doc/README.md, "Spec".
"""

from __future__ import annotations

import struct
from mmap import mmap

import numpy as np

from vmcore.dump.segments import Contents
from vmcore.errors import DumpError
from vmcore.wording import counted

MAGIC = b"EMiL"
_HEADER = struct.Struct("<4sIQQQ")
_MOST = 1 << 20  #: ranges; real machines have dozens


def read_lime(path: str, file: mmap) -> Contents:
    """Return the contents that a LiME file claims. Reading ends at a damaged header.

    Raises:
        DumpError: The first header is damaged, or its version is not known.
    """
    found: list[tuple[int, int, int]] = []
    problems: list[str] = []
    at = 0
    while at < len(file) and len(found) < _MOST:
        problem = _problem(file, at)
        if problem is not None:
            if not found:
                raise DumpError(path, at, problem, "a LiME header, version 1; copy the dump again")
            problems.append(f"file offset {at:#x}: {problem}, expected a LiME header; what follows is left out")
            break
        _, _, start, last, _ = _HEADER.unpack_from(file, at)
        found.append((start, last - start + 1, at + _HEADER.size))
        at += _HEADER.size + last - start + 1
    if len(found) == _MOST and at < len(file):
        problems.append(f"file offset {at:#x}: more than {_MOST:#x} ranges; what follows is left out")
    starts, sizes, offsets = np.array(found, np.uint64).reshape(-1, 3).T
    return Contents(starts, sizes, offsets, problems=tuple(problems))


def _problem(file: mmap, at: int) -> str | None:
    if at + _HEADER.size > len(file):
        left = counted(len(file) - at, "byte is", "bytes are", "#x")
        return f"only {left} left"
    magic, version, start, last, _ = _HEADER.unpack_from(file, at)
    if magic != MAGIC or version != 1:
        return f"magic {magic!r}, version {version}"
    if last < start or last - start >= 1 << 62:
        return f"a range {start:#x}-{last:#x}"
    return None
