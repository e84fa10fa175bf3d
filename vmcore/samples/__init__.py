"""Real traces and RAM dumps that ship with the package, each with a vmallocinfo of its machine."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from attrs import asdict, fields, frozen

from vmcore.errors import VmcoreError
from vmcore.facts import Facts, Key, Schema, Shape

_DATA = files(__name__).joinpath("data")


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
        description: One line on the machine and the part of its RAM that is there.
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


Record = TypeVar("Record", Sample, DumpSample)

_ABOUT = (
    Key("name", "string", "Name behind `sample:`."),
    Key("description", "string", "One line about the machine and its load."),
    Key("kernel", "string", "Release and package of the kernel."),
)
_SOURCE = Key("source", "string", "Where the data come from, and under which terms.")
SCHEMA = Schema(
    "vmcore.samples/1",
    "vmcore samples",
    "The traces and RAM dumps that ship with the package, each in order of name.",
    (
        Key("samples", "list of object", "The traces.", shape=Shape(
            "sample of a trace",
            (
                *_ABOUT,
                Key("architecture", "list of string", "Words about the traced machine."),
                Key("events", "number", "Vmalloc events in it."),
                _SOURCE,
            ),
        )),
        Key("dumps", "list of object", "The RAM dumps.", shape=Shape(
            "sample of a RAM dump",
            (
                *_ABOUT,
                Key("record", "string", "Architecture that reads its page tables."),
                Key("pages", "number", "Pages of RAM in it.", "pages"),
                Key("areas", "number", "Areas in its /proc/vmallocinfo."),
                _SOURCE,
            ),
        )),
    ),
)  # fmt: skip


def read_manifest(data: bytes, file: str, record: type[Record]) -> dict[str, Record]:
    """Read a manifest of samples: a TOML table for each, with the fields of its record but the name.

    Args:
        data: The text, UTF-8.
        file: Its name in messages.
        record: Class of the records.

    Returns:
        Name to sample, in the order of the file.

    Raises:
        VmcoreError: The text is not TOML, or a table has other fields than its record.
    """
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise VmcoreError(f"{file}: not valid TOML: {error}; install the package again") from error
    return {name: _record_of(file, name, table, record) for name, table in tables.items()}


def _record_of(file: str, name: str, table: object, record: type[Record]) -> Record:
    expected = {f.name: f.type for f in fields(record) if f.name != "name"}
    if not isinstance(table, Mapping) or set(table) != set(expected):
        found = f"the keys {sorted(table)}" if isinstance(table, Mapping) else repr(table)
        raise _odd(file, name, found, f"a table of {', '.join(expected)}")
    values: dict[str, Any] = dict(table)
    for key, kind in expected.items():
        if kind in (int, str):
            fits = type(values[key]) is kind
        else:
            fits = isinstance(values[key], list) and all(isinstance(word, str) for word in values[key])
            values[key] = tuple(values[key]) if fits else ()
        if not fits:
            raise _odd(file, f"{name}.{key}", repr(table[key]), "the type of its field: a text, a number or words")
    return record(name=name, **values)


def _odd(file: str, where: str, found: str, expected: str) -> VmcoreError:
    shown = found if len(found) <= 200 else f"{found[:200]}..."
    return VmcoreError(f"{file}: {where[:80]!r}: found {shown}, expected {expected}; install the package again")


@frozen
class SampleList:
    """List all samples.

    Attributes:
        traces: Traces, in order of name.
        dumps: RAM dumps, in order of name.
    """

    traces: tuple[Sample, ...]
    dumps: tuple[DumpSample, ...]

    def facts(self) -> Facts:
        """Return the object that `SCHEMA` describes."""
        traces = [asdict(trace) | {"architecture": list(trace.architecture)} for trace in self.traces]
        return SCHEMA.facts(samples=traces, dumps=[asdict(dump) for dump in self.dumps])


def list_samples() -> SampleList:
    """List the traces and RAM dumps that ship with the package."""
    return SampleList(tuple(map(describe, names())), tuple(map(describe_dump, dumps())))


def names() -> list[str]:
    """List the names of all traces, sorted."""
    return sorted(_traces())


def dumps() -> list[str]:
    """List the names of all RAM dumps, sorted."""
    return sorted(_ram_dumps())


def describe(name: str) -> Sample:
    """Describe a trace.

    Args:
        name: One of ``names()``.

    Returns:
        Its entry in ``samples.toml``.

    Raises:
        VmcoreError: No trace has this name.
    """
    return _find(_traces(), name)


def describe_dump(name: str) -> DumpSample:
    """Describe a RAM dump.

    Args:
        name: One of ``dumps()``.

    Returns:
        Its entry in ``dumps.toml``.

    Raises:
        VmcoreError: No dump has this name.
    """
    return _find(_ram_dumps(), name)


def open_sample(name: str) -> BinaryIO:
    """Open the trace of a sample, compressed by xz, as ``vmcore.texts.trace.read_trace`` takes it.

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
    known = describe_dump(name).name if name in _ram_dumps() else describe(name).name
    return _open(known, "vmallocinfo.xz")


@contextmanager
def dump_file(name: str) -> Iterator[Path]:
    """Lend the ELF core of a dump, compressed by xz, as ``vmcore.dump.open_dump`` takes it.

    Args:
        name: One of ``dumps()``.

    Yields:
        The path of a file that may be removed when the block ends.

    Raises:
        VmcoreError: No dump has this name.
    """
    with as_file(_DATA.joinpath(f"{describe_dump(name).name}.elf.xz")) as path:
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
    """Return the files of a sample, or nothing if the package is not a folder of files."""
    return tuple(path for path in (Path(__file__).parent / "data").glob("*") if path.name.startswith(f"{name}."))


def _open(name: str, suffix: str) -> BinaryIO:
    return cast(BinaryIO, _DATA.joinpath(f"{name}.{suffix}").open("rb"))


def _manifest(file: str, record: type[Record]) -> dict[str, Record]:
    return read_manifest(_DATA.joinpath(file).read_bytes(), file, record)


@cache
def _traces() -> dict[str, Sample]:
    return _manifest("samples.toml", Sample)


@cache
def _ram_dumps() -> dict[str, DumpSample]:
    return _manifest("dumps.toml", DumpSample)


def _find(known: Mapping[str, Record], name: str) -> Record:
    if name in known:
        return known[name]
    expected = f"expected one of {', '.join(sorted(known))}"
    for others, kind, commands in (
        (_traces(), "trace", "vmcore replay"), (_ram_dumps(), "RAM dump", "vmcore walk and vmcore audit"),
    ):  # fmt: skip
        if name in others:
            raise VmcoreError(f"sample {name!r} is a {kind}, for {commands}; {expected}")
    nearest = get_close_matches(name, known, n=1)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise VmcoreError(f"no sample {name!r}, {expected}{guess}")
