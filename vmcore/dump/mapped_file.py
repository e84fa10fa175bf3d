"""Map RAM files into memory. Compressed files are unpacked into an unnamed sparse file first.

The compression is known by its magic. A file that cannot be unpacked to its end is a partial dump that says so.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO

from vmcore.errors import DumpError
from vmcore.system.compression import OTHER_MAGIC, RAM_FREE, PackedLimit, UnpackError, is_packed, pieces
from vmcore.system.output import protect
from vmcore.units import format_size
from vmcore.wording import counted

LIMIT = 1 << 37  #: bytes a compressed dump may unpack to. Zeros take no disk space, but they take time
_ZEROS = bytes(1 << 20)  # more than a piece


def map_file(path: str, limit: int = LIMIT) -> tuple[mmap.mmap, tuple[str, ...]]:
    """Map a file. Unpack it first if it is compressed.

    Args:
        path: Path of a file that is not empty.
        limit: Bytes that it may unpack to.

    Returns:
        The mapping, and the faults of the compression.

    Raises:
        DumpError: The file cannot be read, is empty, or no byte of it can be unpacked.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(6)
            for magic, (name, program) in OTHER_MAGIC.items():
                if head.startswith(magic):
                    raise DumpError(path, 0, f"{name} data", f"a dump, plain, gzip or xz; unpack it: {program}")
            if is_packed(head):
                return _protected(file, *_unpacked(path, pieces(head, file, RAM_FREE), limit))
            return _protected(file, _mapped(path, file), ())
    except OSError as error:
        reason = error.strerror or str(error)
        expected = (
            "a file of RAM; check its name" if path != "-" else "a file's name: stdin cannot be mapped, save it"
        )
        raise DumpError(path, None, f"nothing that can be read ({reason})", expected) from error


def _protected(
    file: IO[bytes], mapping: mmap.mmap, problems: tuple[str, ...]
) -> tuple[mmap.mmap, tuple[str, ...]]:
    protect(file.fileno(), mapping)
    return mapping, problems


def _mapped(path: str, file: IO[bytes]) -> mmap.mmap:
    if not os.fstat(file.fileno()).st_size:
        raise DumpError(path, 0, "an empty file", "a dump; copy it again")
    return _scattered(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _scattered(file: mmap.mmap) -> mmap.mmap:
    """Make the host read only the pages asked for: tables are pages here and there."""
    file.madvise(mmap.MADV_RANDOM)
    return file


def _unpacked(path: str, parts: Iterator[bytes], limit: int) -> tuple[mmap.mmap, tuple[str, ...]]:
    """Unpack into an unnamed file. Runs of zeros become holes."""
    problem: tuple[str, ...] = ()
    with tempfile.TemporaryFile() as out:
        size = 0
        try:
            for data in parts:
                size += len(data)
                if size > limit:
                    found = f"more than {format_size(limit)} when unpacked"
                    raise DumpError(path, None, found, "less; unpack it yourself")
                _store(path, out, data)
        except PackedLimit as error:
            raise DumpError(path, None, error.found, error.expected) from error
        except UnpackError as error:
            after = counted(size, "byte", form="#x")
            problem = (f"the compression is damaged or cut after {after} ({error.found})",)
        if not size:
            raise DumpError(path, 0, "; ".join(problem) or "nothing in the compression", "a dump; copy it again")
        out.truncate(size)
        return _scattered(mmap.mmap(out.fileno(), size, access=mmap.ACCESS_READ)), problem


def _store(path: str, out: IO[bytes], data: bytes) -> None:
    if data == _ZEROS[: len(data)]:
        out.seek(len(data), os.SEEK_CUR)
        return
    try:
        out.write(data)
    except OSError as error:
        raise DumpError(
            path,
            None,
            f"no room to unpack it in {tempfile.gettempdir()}: {error.strerror}",
            "room; set TMPDIR, or unpack it yourself",
        ) from error
