"""Real traces that ship with the package, each with the vmallocinfo read at its end."""

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, BinaryIO, cast

from attrs import frozen

from vmcore.errors import VmcoreError


@frozen
class Sample:
    """Describe a sample.

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


def names() -> list[str]:
    """List the names of all samples, sorted."""
    return sorted(_samples())


def describe(name: str) -> Sample:
    """Describe a sample.

    Args:
        name: One of ``names()``.

    Returns:
        What ``samples.toml`` says of it.

    Raises:
        VmcoreError: No sample has this name.
    """
    if name not in _samples():
        raise VmcoreError(_unknown(name))
    record = _samples()[name]
    return Sample(name=name, **{**record, "architecture": tuple(record["architecture"])})


def open_sample(name: str) -> BinaryIO:
    """Open the trace of a sample, compressed by xz, as ``vmcore.trace.read_trace`` takes it.

    Args:
        name: One of ``names()``.

    Returns:
        A binary stream, to be closed by the caller.

    Raises:
        VmcoreError: No sample has this name.
    """
    return _open(describe(name).name, "trace.xz")


def open_vmallocinfo(name: str) -> BinaryIO:
    """Open the ``/proc/vmallocinfo`` read after a sample's trace, compressed by xz.

    Args:
        name: One of ``names()``.

    Returns:
        A binary stream, to be closed by the caller.

    Raises:
        VmcoreError: No sample has this name.
    """
    return _open(describe(name).name, "vmallocinfo.xz")


def _open(name: str, suffix: str) -> BinaryIO:
    return cast(BinaryIO, files(__name__).joinpath(f"{name}.{suffix}").open("rb"))


@cache
def _samples() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files(__name__).joinpath("samples.toml").read_text("utf-8"))


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, names(), n=1)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"no sample {name!r}, expected one of {', '.join(names())}{guess}"
