"""The door through which plain lines and messages leave the commands.

No command prints in another way but `vmcore.cli.console`, for lines with a style and for JSON. So each text that a
file, a name or a plugin brings is shown, whatever a terminal would make of it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from itertools import islice

import click

from vmcore.wording import printable

_LINES = 1 << 12  #: lines written at a time


def accept_any_text() -> None:
    """Have stdout and stderr escape what their encoding lacks, instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def echo(line: str = "", *, err: bool = False) -> None:
    """Write one line, to stdout or stderr."""
    click.echo(printable(line), err=err)


def echo_lines(lines: Iterable[str]) -> None:
    """Write many lines to stdout, some thousands at a time."""
    shown = map(printable, lines)
    while block := list(islice(shown, _LINES)):
        click.echo("\n".join(block))
