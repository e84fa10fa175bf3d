"""The locks of a machine."""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from typing import Any, ClassVar


class VmlistLock(RLock):  # type: ignore[misc]  # final for type checkers only
    """vmlist_lock, for one writer at a time. `vmcore.machine.machine.Machine.lock_vmlist` takes it.

    Taking and releasing it are methods of the C type, so that an interrupt between two lines of Python cannot
    leave it held.
    """

    #: tells whether this thread holds it; threading.Condition asks the same way
    held: ClassVar[Callable[[Any], bool]] = RLock._is_owned  # type: ignore[attr-defined]

    def locked(self) -> bool:
        """Tell whether any thread holds it."""
        if self.held():
            return True
        free = self.acquire(blocking=False)
        if free:
            self.release()
        return not free
