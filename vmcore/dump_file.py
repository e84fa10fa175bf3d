"""Files of RAM, mapped and never read whole; compressed ones are unpacked into a nameless sparse file first.

The compression is known by its magic. What cannot be unpacked to its end is a partial dump that says so.
"""

from __future__ import annotations

import gzip
import lzma
import mmap
import os
import tempfile
import zlib
from typing import IO

from vmcore.errors import DumpError
from vmcore.lines import GZIP_MAGIC, OTHER_MAGIC, XZ_MAGIC, xz_refusal
from vmcore.output import protect
from vmcore.units import format_size

LIMIT = 1 << 37  #: bytes a compressed dump may unpack to; zeros cost no disk, but time
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)


def map_file(path: str, limit: int = LIMIT) -> tuple[mmap.mmap, tuple[str, ...]]:
    """Map a file, unpacked if need be.

    Args:
        path: of a file that is not empty.
        limit: bytes it may unpack to.

    Returns:
        The mapping, and what was wrong with the compression.

    Raises:
        DumpError: it cannot be read, is empty, or no byte of it can be unpacked.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(6)
            file.seek(0)
            for magic, (name, program) in OTHER_MAGIC.items():
                if head.startswith(magic):
                    raise DumpError(path, 0, f"{name} data", f"a dump, plain, gzip or xz; unpack it: {program}")
            if head.startswith(GZIP_MAGIC):
                return _protected(file, *_unpacked(path, gzip.GzipFile(fileobj=file), limit))
            if head == XZ_MAGIC:
                problem = xz_refusal(file.read(1 << 11))
                if problem is not None:
                    raise DumpError(path, 0, problem, "less; unpack it yourself: xz -dc")
                file.seek(0)
                return _protected(file, *_unpacked(path, lzma.LZMAFile(file), limit))
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
    """Have the host read only what is asked for: tables are pages here and there."""
    file.madvise(mmap.MADV_RANDOM)
    return file


def _unpacked(path: str, stream: gzip.GzipFile | lzma.LZMAFile, limit: int) -> tuple[mmap.mmap, tuple[str, ...]]:
    """Unpack into a file without a name; stretches of zeros become holes."""
    problem: tuple[str, ...] = ()
    with stream, tempfile.TemporaryFile() as out:
        size = 0
        while True:
            try:
                data = stream.read1(_CHUNK)  # one step at a time: read() loses what precedes damage
            except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
                problem = (f"the compression is damaged or cut after {size:#x} bytes ({error})",)
                break
            if not data:
                break
            size += len(data)
            if size > limit:
                raise DumpError(
                    path, None, f"more than {format_size(limit)} when unpacked", "less; unpack it yourself"
                )
            _store(path, out, data)
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
