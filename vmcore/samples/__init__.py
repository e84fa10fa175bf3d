"""Real traces and RAM dumps that ship with the package, each with a vmallocinfo of its machine."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, BinaryIO, cast

from attrs import frozen

from vmcore.errors import VmcoreError


@frozen
class Sample:
    """Describe a trace.

    Attributes:
        name: Name for ``open_sample``.
        description: One line on machine and load.
        kernel: Release and package of the traced kernel.
        architecture: Words on the traced machine.
        events: Number of vmalloc events.
        source: Where the data come from and under which terms.
    """

    name: str
    description: str
    kernel: str
    architecture: tuple[str, ...]
    events: int
    source: str


@frozen
class DumpSample:
    """Describe a RAM dump.

    Attributes:
        name: Name for ``dump_file``.
        description: One line on the machine and what of its RAM is there.
        kernel: Release and package of the kernel.
        record: Architecture whose tables are in it.
        pages: Pages of RAM in it.
        areas: Areas in its ``/proc/vmallocinfo``.
        source: Where the data come from and under which terms.
    """

    name: str
    description: str
    kernel: str
    record: str
    pages: int
    areas: int
    source: str


def names() -> list[str]:
    """List the names of all traces, sorted."""
    return sorted(_records("samples"))


def dumps() -> list[str]:
    """List the names of all RAM dumps, sorted."""
    return sorted(_records("dumps"))


def describe(name: str) -> Sample:
    """Describe a trace.

    Args:
        name: One of ``names()``.

    Returns:
        What ``samples.toml`` says of it.

    Raises:
        VmcoreError: No trace has this name.
    """
    record = _record("samples", name)
    return Sample(name=name, **{**record, "architecture": tuple(record["architecture"])})


def describe_dump(name: str) -> DumpSample:
    """Describe a RAM dump.

    Args:
        name: One of ``dumps()``.

    Returns:
        What ``dumps.toml`` says of it.

    Raises:
        VmcoreError: No dump has this name.
    """
    return DumpSample(name=name, **_record("dumps", name))


def open_sample(name: str) -> BinaryIO:
    """Open the trace of a sample, compressed by xz, as ``vmcore.trace.read_trace`` takes it.

    Args:
        name: One of ``names()``.

    Returns:
        A binary stream, to be closed by the caller.

    Raises:
        VmcoreError: No trace has this name.
    """
    return _open(describe(name).name, "trace.xz")


def open_vmallocinfo(name: str) -> BinaryIO:
    """Open the ``/proc/vmallocinfo`` read after a trace or right before a dump, compressed by xz.

    Args:
        name: One of ``names()`` or ``dumps()``.

    Returns:
        A binary stream, to be closed by the caller.

    Raises:
        VmcoreError: No sample has this name.
    """
    known = describe_dump(name).name if name in _records("dumps") else describe(name).name
    return _open(known, "vmallocinfo.xz")


@contextmanager
def dump_file(name: str) -> Iterator[Path]:
    """Lend the ELF core of a dump, compressed by xz, as ``vmcore.dump.open_dump`` takes it.

    Args:
        name: One of ``dumps()``.

    Yields:
        The path of a file that may be gone afterwards.

    Raises:
        VmcoreError: No dump has this name.
    """
    with as_file(files(__name__).joinpath(f"{describe_dump(name).name}.elf.xz")) as path:
        yield path


def open_vmcoreinfo(name: str) -> BinaryIO:
    """Open the VMCOREINFO of a dump's kernel, a text.

    Args:
        name: One of ``dumps()``.

    Returns:
        A binary stream, to be closed by the caller.

    Raises:
        VmcoreError: No dump has this name.
    """
    return _open(describe_dump(name).name, "vmcoreinfo.txt")


def paths(name: str) -> tuple[Path, ...]:
    """Return the files of a sample; none if the package is not a folder of files."""
    return tuple(path for path in Path(__file__).parent.glob("*") if path.name.startswith(f"{name}."))


def _open(name: str, suffix: str) -> BinaryIO:
    return cast(BinaryIO, files(__name__).joinpath(f"{name}.{suffix}").open("rb"))


@cache
def _records(table: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(files(__name__).joinpath(f"{table}.toml").read_text("utf-8"))


#: Table to what it lists, and which commands read that.
_WHAT = {"samples": ("trace", "vmcore replay"), "dumps": ("RAM dump", "vmcore walk and vmcore audit")}


def _record(table: str, name: str) -> dict[str, Any]:
    known = _records(table)
    if name in known:
        return known[name]
    for other, (what, commands) in _WHAT.items():
        if name in _records(other):
            wanted = f"expected one of {', '.join(sorted(known))}"
            raise VmcoreError(f"sample {name!r} is a {what}, for {commands}; {wanted}")
    nearest = get_close_matches(name, known, n=1)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise VmcoreError(f"no sample {name!r}, expected one of {', '.join(sorted(known))}{guess}")
