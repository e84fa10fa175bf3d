"""The log of a kernel: printk, WARN_ON, BUG_ON and oopses."""

from __future__ import annotations

from typing import NoReturn

from vmcore.errors import KernelBug, KernelOops
from vmcore.events import Warned
from vmcore.linking.link import Events
from vmcore.machine.life import Life

LOG_LINES = 1 << 16  #: lines that `Log.dmesg` keeps at least, and records that `Log.warnings` keeps


class Log:
    """The log of one kernel.

    Attributes:
        dmesg: the last `LOG_LINES` log lines, and up to as many again, oldest first. ``printk_count`` counts all.
        warnings: WARN_ON records, likewise. ``warn_count`` counts all.
    """

    def __init__(self, life: Life, events: Events) -> None:
        self._life, self._events = life, events
        self.dmesg: list[str] = []
        self.warnings: list[Warned] = []
        self.printk_count = self.warn_count = 0

    def note(self, lines: tuple[str, ...]) -> None:
        """Log lines that no event announces, because booting found them."""
        self.dmesg += lines
        self.printk_count += len(lines)

    def printk(self, line: str) -> None:
        """Log one line, with its ``<n>`` level and newline."""
        self._life.steps += 1
        self.printk_count += 1
        self.dmesg.append(line)
        if len(self.dmesg) > 2 * LOG_LINES:
            del self.dmesg[:LOG_LINES]
        if self._events.printk is not None:
            self._events.printk(line=line)

    def lines(self) -> tuple[str, ...]:
        """Return the lines logged since this thread's last call into the port began."""
        new = self.printk_count - self._life.threads.mine.began
        return tuple(self.dmesg[-new:]) if new else ()

    def warn_on(self, condition: str, function: str) -> None:
        """Record a WARN_ON that fired."""
        self._life.steps += 1
        self.warn_count += 1
        self.warnings.append(Warned(condition, function))
        if len(self.warnings) > 2 * LOG_LINES:
            del self.warnings[:LOG_LINES]
        if self._events.warn is not None:
            self._events.warn(condition=condition, function=function)

    def bug(self, condition: str, function: str) -> NoReturn:
        """Die of a BUG_ON."""
        error = KernelBug(condition, function, self.lines())
        self._life.end(error)
        if self._events.bug is not None:
            self._events.bug(condition=condition, function=function)
        try:
            raise error
        finally:
            del error  # a frame that kept the exception would keep the kernel, in a cycle

    def bug_on(self, condition: bool, text: str, function: str) -> None:
        """Do BUG_ON(condition). ``text`` is the C text of the condition."""
        if condition:
            self.bug(text, function)

    def oops(self, address: int, access: str) -> NoReturn:
        """Die of an access that the machine cannot do."""
        error = KernelOops(address, access, self.lines())
        self._life.end(error)
        if self._events.oops is not None:
            self._events.oops(address=address, access=access)
        try:
            raise error
        finally:
            del error  # as in bug()

    def refuse_recursion(self) -> NoReturn:
        """Die of a plugin that calls back into the port, which would take vmlist_lock twice."""
        self.bug("recursive vmlist_lock", "write_lock")
