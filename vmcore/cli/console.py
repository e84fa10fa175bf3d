"""Lines with a style, and JSON: the door beside `vmcore.cli.output`."""

from __future__ import annotations

import errno
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NoReturn

import click
from rich import console
from rich.text import Text

from vmcore.cli.output import echo_lines
from vmcore.wording import printable

__all__ = ["Console", "write_json"]

_TOKENS = 1 << 12  #: of JSON written at a time


class Console(console.Console):
    """A rich console of lines. The group of commands handles a reader that has gone, in every command alike."""

    def say(self, lines: Iterable[tuple[str, str]]) -> None:
        """Write lines, each a style and a text. The text is no markup, and no width cuts it."""
        if not self.is_terminal:  # rich takes 50 times as long
            echo_lines(text for _, text in lines)
            return
        for style, text in lines:
            self.print(Text(printable(text), style), soft_wrap=True)

    def on_broken_pipe(self) -> NoReturn:
        """Leave the error to the caller: rich would exit with status 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def write_json(value: dict[str, Any], **rows: Iterable[str]) -> None:
    """Write an object to stdout, piece by piece: a full disk, or a reader that has gone, is noticed.

    An unbuffered stdout (PYTHONUNBUFFERED) drops the end of a large text without an error.

    Args:
        value: what becomes JSON, not empty.
        rows: long lists that follow it, each item already JSON.
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
