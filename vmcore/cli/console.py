"""Write lines with a style, and JSON, to stdout.

Plain lines leave through `vmcore.cli.output`. No command prints in another way.
"""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from typing import Any, NoReturn

import click
from rich import console
from rich.text import Text

from vmcore.cli.output import echo_lines
from vmcore.wording import printable

__all__ = ["Console", "write_json"]

_TOKENS = 1 << 12  #: tokens of JSON written at a time


class Console(console.Console):
    """A rich console of lines. The group of commands handles a closed pipe, alike for every command."""

    def say(self, lines: Iterable[tuple[str, str]]) -> None:
        """Write lines, each a style and a text. The text is no markup, and no width cuts it.

        A line without a style does not pass through rich, which takes 50 times as long.
        """
        for styled, group in groupby(lines, lambda line: self.is_terminal and bool(line[0])):
            if not styled:
                echo_lines(text for _, text in group)
                continue
            for style, text in group:
                self.print(Text(printable(text), style), soft_wrap=True)

    def on_broken_pipe(self) -> NoReturn:
        """Leave the error to the caller: rich would exit with status 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def write_json(value: dict[str, Any], **rows: Iterable[str]) -> None:
    """Write an object to stdout piece by piece, so that a full disk or a closed pipe is noticed.

    An unbuffered stdout (PYTHONUNBUFFERED) drops the end of a large text without an error.

    Args:
        value: The object, not empty.
        rows: Long lists that follow its keys, by key. Each item is JSON already, and becomes one line.
    """
    tokens = json.JSONEncoder(indent=1).iterencode(value)
    pieces = chain(*(_list(name, items) for name, items in rows.items()), ("\n}",))
    tokens = chain(_without_end(tokens), pieces)
    while piece := "".join(islice(tokens, _TOKENS)):
        click.echo(piece, nl=False)
    click.echo()


def _without_end(tokens: Iterator[str]) -> Iterator[str]:
    """Yield all tokens but the newline and the brace that end the object."""
    kept: deque[str] = deque()
    for token in tokens:
        kept.append(token)
        if len(kept) > 2:
            yield kept.popleft()
    yield "".join(kept).removesuffix("\n}")


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    yield f',\n "{name}": ['
    for number, item in enumerate(items):
        yield f"{',' if number else ''}\n  {item}"
    yield "\n ]"
