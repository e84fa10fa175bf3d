"""kmalloc and kfree, as an account: which objects live, how many bytes.

The objects have no bytes of their own: vmalloc's are a ``vm_struct`` and a page array, which the model keeps
as Python objects. Source: mm/slab.c, include/linux/slab.h (ZERO_SIZE_PTR) of 2.6.23.
"""

from __future__ import annotations

import threading
from typing import Protocol

from vmcore.errors import BrokenInvariant
from vmcore.flags import ZERO_SIZE_PTR


class KmallocSource(Protocol):
    """What the port takes small objects from."""

    def alloc(self, size: int, gfp: int, node: int) -> int | None:
        """Return a handle that was never used before, ZERO_SIZE_PTR for 0 bytes, or None: out of memory."""
        ...

    def free(self, handle: int) -> None:
        """Take an object back."""
        ...


class Slab:
    """A `KmallocSource` that never runs out by itself. Handles start at 32, above ZERO_SIZE_PTR.

    Attributes:
        live_objects: objects allocated and not freed.
        live_bytes: bytes asked for in them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 2 * ZERO_SIZE_PTR
        self._sizes: dict[int, int] = {}
        self.live_bytes = 0

    @property
    def live_objects(self) -> int:
        """Objects allocated and not freed."""
        return len(self._sizes)

    def alloc(self, size: int, gfp: int, node: int) -> int | None:
        """Return a new handle; ZERO_SIZE_PTR for 0 bytes."""
        if not size:
            return ZERO_SIZE_PTR
        with self._lock:
            handle = self._next
            self._next = handle + 1
            self._sizes[handle] = size
            self.live_bytes += size
        return handle

    def free(self, handle: int) -> None:
        """Take an object back; ZERO_SIZE_PTR is nothing.

        Raises:
            BrokenInvariant: it does not live.
        """
        if handle == ZERO_SIZE_PTR:
            return
        with self._lock:
            size = self._sizes.pop(handle, None)
            if size is None:
                raise BrokenInvariant(f"kfree of object {handle}, which does not live")
            self.live_bytes -= size

    def lives(self, handle: int) -> bool:
        """Whether an object is allocated; ZERO_SIZE_PTR always is."""
        return handle == ZERO_SIZE_PTR or handle in self._sizes
