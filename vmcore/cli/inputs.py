"""Open a FILE of the command line: a path, ``-``, or ``sample:NAME`` for a file that ships with the package."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_SAMPLE = "sample:"


def sample_name(file: str) -> str | None:
    """Return the NAME of ``sample:NAME``, or None for a file."""
    return file.removeprefix(_SAMPLE) if file.startswith(_SAMPLE) else None


def open_input(file: str, opener: Callable[[str], BinaryIO]) -> AbstractContextManager[BinaryIO | str]:
    """Open ``sample:NAME`` by *opener*, and leave a path and ``-`` as they are.

    Raises:
        VmcoreError: There is no such sample.
    """
    name = sample_name(file)
    return nullcontext(file) if name is None else opener(name)
