"""Open a RAM dump of any format: formats are a table, probed in order.

ELF cores, LiME files and raw images, each also packed by gzip or xz. To add a format, write a module in
`vmcore.dump.formats` with a reader, and a row in `FORMATS`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from vmcore.dump import elf_headers
from vmcore.dump.formats import elf, lime, raw
from vmcore.dump.formats.refused import refuse_unknown
from vmcore.dump.mapped_file import map_file
from vmcore.dump.segments import Contents
from vmcore.dump.store import Dump
from vmcore.errors import DumpError
from vmcore.units import Bank

#: ``reader(name, file)``, and of a format without places ``reader(name, file, base, banks)``
Reader: TypeAlias = Callable[..., Contents]


class Format(NamedTuple):
    """A format of dumps.

    Attributes:
        name: the name that users give.
        magic: its first bytes; empty if it has none, so that the user says where its bytes belong.
        read: its reader.
    """

    name: str
    magic: bytes
    read: Reader


FORMATS = (
    Format("elf", elf_headers.MAGIC, elf.read_elf),
    Format("lime", lime.MAGIC, lime.read_lime),
    Format("raw", b"", raw.read_raw),
    Format("flat", b"", raw.read_flat),
)
NAMES = tuple(row.name for row in FORMATS)


def open_dump(
    path: str | os.PathLike[str],
    *,
    base: int | None = None,
    banks: Sequence[Bank] | None = None,
    format: str | None = None,  # noqa: A002  # what the command line calls it
    name: str | None = None,
) -> Dump:
    """Open a dump of physical memory.

    Args:
        path: of an ELF core, a LiME file or a raw image, plain or packed by gzip or xz.
        base: physical address of a raw image's first byte.
        banks: where a raw image's bytes belong: "raw" has the banks one after the other, "flat" has byte ``x``
            of physical memory at ``x - base`` and holes between the banks.
        format: the name of one of `FORMATS`; default: by the first bytes, "raw" if ``base`` or ``banks`` is given.
        name: of the dump in messages; default: the path.

    Raises:
        DumpError: it cannot be read, or is of a format that must be converted first.
    """
    name = os.fspath(path) if name is None else name
    if format is not None and format not in NAMES:
        raise DumpError(name, None, f"format {format!r}", f"one of {', '.join(NAMES)}")
    file, problems = map_file(os.fspath(path))
    try:
        contents = _contents(name, file, base, banks, format)
        return Dump(name, file, contents, problems)
    except BaseException:
        file.close()
        raise


def _contents(
    name: str, file: mmap.mmap, base: int | None, banks: Sequence[Bank] | None, chosen: str | None
) -> Contents:
    """Read the contents of a file by its format, which the user or its first bytes say."""
    placed = base is not None or banks is not None
    format_ = _probed(file) if chosen is None else FORMATS[NAMES.index(chosen)]
    if format_ is None and placed:
        format_ = FORMATS[NAMES.index("raw")]
    if format_ is None:
        refuse_unknown(name, file)
    if not format_.magic:
        return format_.read(name, file, base or 0, banks)
    if placed:
        raise DumpError(
            name, 0, f"a base or banks for the {format_.name} format, which says them itself", "neither"
        )
    head = file[: len(format_.magic)]
    if head != format_.magic:
        expected = f"{format_.magic!r} of the {format_.name} format; leave the format out"
        raise DumpError(name, 0, f"magic {head!r}", expected)
    return format_.read(name, file)


def _probed(file: mmap.mmap) -> Format | None:
    """Return the format whose magic a file begins with."""
    return next((row for row in FORMATS if row.magic and file[: len(row.magic)] == row.magic), None)
