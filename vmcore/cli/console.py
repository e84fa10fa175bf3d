"""The console of the commands: rich's, without its own end for a closed pipe."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from rich import console

__all__ = ["Console"]


class Console(console.Console):
    """Write as rich does; that the reader has gone is for the group to handle, in every command alike."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave the error to the caller: rich would exit with status 1.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
