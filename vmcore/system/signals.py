"""End the program on Ctrl-C, SIGTERM or SIGHUP: at once, with one line, and without temporary files.

Python's own handler raises KeyboardInterrupt wherever the program happens to be. Inside an import that is a
traceback, inside a destructor or a callback it is printed and lost. So this handler does not raise: it removes
the temporary files that `undone_on_signal` knows, writes one line, and ends the process. Only a process that
belongs to vmcore may do so, that is the command line. A program that imports vmcore keeps its own handlers.
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
    """Install the handler for each signal that the parent has not told us to ignore (nohup, a job with ``&``).

    The exit status is 128 and the signal's number, as a shell has it: 130, 143 or 129.
    """
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


@contextmanager
def undone_on_signal(action: Callable[[], object]) -> Iterator[None]:
    """Have *action* called if a signal ends the program meanwhile.

    Args:
        action: it may run between any two steps of the program, and more than once.
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
        # A reader that no longer reads, such as a pager, must not hold us up.
        if select.select([], [_STDERR], [], 0)[1]:
            os.write(_STDERR, b"vmcore: %s\n" % _WORDS[signal.Signals(number)])
    os._exit(128 + number)
