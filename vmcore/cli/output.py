"""Write plain lines and messages, with every control character escaped.

Commands print through this module, or through `vmcore.cli.console` for lines with a style and for JSON. Texts of
files, names and plugins therefore cannot control the terminal.
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
    """Make stdout and stderr escape characters that their encoding lacks, instead of failing."""
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
