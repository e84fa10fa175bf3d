"""Open a RAM dump of any format. The formats are a table, which is probed in order.

The formats are ELF cores, LiME files and raw images, plain or packed by gzip or xz. To add a format, write a
module in `vmcore.dump.formats` with a reader, and a row in `FORMATS`.
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
        name: Name that users type.
        magic: First bytes of a file. Empty if the format has none. Then the user gives the physical addresses.
        read: Reader of the format.
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
    format: str | None = None,  # noqa: A002  # the name on the command line
    name: str | None = None,
) -> Dump:
    """Open a dump of physical memory.

    Args:
        path: Path of an ELF core, a LiME file or a raw image, plain or packed by gzip or xz.
        base: Physical address of a raw image's first byte.
        banks: Physical addresses of a raw image. A "raw" image has the banks one after the other. A "flat" image
            has byte ``x`` of physical memory at ``x - base``, and holes between the banks.
        format: Name of one of `FORMATS`. The default is "raw" if ``base`` or ``banks`` is given, else the format
            that the first bytes name.
        name: Name of the dump in messages. The default is the path.

    Raises:
        DumpError: The file cannot be read, or its format must be converted first.
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
    """Read the contents of a file. The user or the first bytes name its format."""
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
