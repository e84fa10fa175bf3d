"""End the program on Ctrl-C, SIGTERM or SIGHUP: at once, with one line, and without temporary files.

Python's own handler raises KeyboardInterrupt at any place of the program. Inside an import this gives a traceback.
Inside a destructor or a callback it is printed and lost. This handler therefore does not raise. It removes the
temporary files that `undone_on_signal` knows, writes one line, and ends the process. Only the command line, whose
process belongs to vmcore, installs it. A program that imports vmcore keeps its own handlers.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

_WORDS = {signal.SIGINT: b"interrupted", signal.SIGTERM: b"terminated", signal.SIGHUP: b"hung up"}
_STDERR = 2
_actions: list[Callable[[], object]] = []


def end_on_signals() -> None:
    """Install the handler, except for signals that the parent has set to be ignored (nohup, a job with ``&``).

    The exit status is 128 plus the number of the signal, as in a shell: 130, 143 or 129.
    """
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextmanager
def undone_on_signal(action: Callable[[], object]) -> Iterator[None]:
    """Call *action* if a signal ends the program during the block.

    Args:
        action: a function that may run between any two steps of the program, and more than once.
    """
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)


def _end(number: int, frame: object) -> NoReturn:
    for action in reversed(_actions):
        with suppress(OSError):
            action()
    with suppress(OSError, ValueError):  # stderr may be closed, or a terminal that has gone
        # A pager, for example, may have stopped reading. The write must not block then.
        if select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, b"vmcore: %s\n" % _WORDS[signal.Signals(number)])
    os._exit(128 + number)
