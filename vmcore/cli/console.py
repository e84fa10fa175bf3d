"""The console of the commands: rich's, without its own end for a closed pipe."""

from __future__ import annotations

import errno
import json
import os
from itertools import islice
from typing import Any, NoReturn

import click
from rich import console

__all__ = ["Console", "write_json"]

_TOKENS = 1 << 12  #: of JSON written at a time


class Console(console.Console):
    """Write as rich does; that the reader has gone is for the group to handle, in every command alike."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave the error to the caller: rich would exit with status 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def write_json(value: Any) -> None:
    """Write an object piece by piece, so that a disk that is full or a reader that has gone is noticed.

    An unbuffered stdout (PYTHONUNBUFFERED) drops the end of a large text without an error.
    """
    tokens = json.JSONEncoder(indent=1).iterencode(value)
    while piece := "".join(islice(tokens, _TOKENS)):
        click.echo(piece, nl=False)
    click.echo()
