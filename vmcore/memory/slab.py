"""The accounts of kmalloc and kfree: the objects that are allocated, and their bytes.

The objects have no bytes of their own: vmalloc's are a ``vm_struct`` and a page array, which the model keeps
as Python objects. Source: mm/slab.c, include/linux/slab.h (ZERO_SIZE_PTR) of 2.6.23.
"""

from __future__ import annotations

from itertools import count
from typing import Protocol

from vmcore.errors import BrokenInvariant
from vmcore.flags import ZERO_SIZE_PTR


class KmallocSource(Protocol):
    """The source of the port's small objects."""

    def alloc(self, size: int, gfp: int, node: int) -> int | None:
        """Return a handle that was never used before, ZERO_SIZE_PTR for 0 bytes, or None if no memory is left."""
        ...

    def free(self, handle: int) -> None:
        """Take an object back."""
        ...


class Slab:
    """A `KmallocSource` that never runs out by itself. Handles start at 32, above ZERO_SIZE_PTR.

    No lock: each step is one operation on a counter or a dict, which Python does not interrupt.
    """

    def __init__(self) -> None:
        self._handles = count(2 * ZERO_SIZE_PTR)
        self._sizes: dict[int, int] = {}

    @property
    def live_bytes(self) -> int:
        """Bytes that were asked for, over all allocated objects."""
        return sum(self._sizes.copy().values())

    @property
    def live_objects(self) -> int:
        """Objects allocated and not freed."""
        return len(self._sizes)

    def alloc(self, size: int, gfp: int, node: int) -> int | None:
        """Return a new handle, ZERO_SIZE_PTR for 0 bytes."""
        if not size:
            return ZERO_SIZE_PTR
        handle = next(self._handles)
        self._sizes[handle] = size
        return handle

    def free(self, handle: int) -> None:
        """Take an object back. ZERO_SIZE_PTR is ignored.

        Raises:
            BrokenInvariant: The object is not allocated.
        """
        if handle == ZERO_SIZE_PTR:
            return
        if self._sizes.pop(handle, None) is None:
            raise BrokenInvariant(f"kfree of object {handle}, which does not live")

    def lives(self, handle: int) -> bool:
        """Whether an object is allocated. ZERO_SIZE_PTR always is."""
        return handle == ZERO_SIZE_PTR or handle in self._sizes
