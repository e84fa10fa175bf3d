"""The C structures that callers of the port hand in."""

from __future__ import annotations

import numpy as np
from attrs import define, field


@define(eq=False)
class VmAreaStruct:
    """A user mapping (struct vm_area_struct), as far as remap_vmalloc_range() needs it.

    Attributes:
        vm_start: First user address, bytes.
        vm_end: One past the last.
        vm_flags: See `vmcore.flags.VmaFlags`.
        inserted: Frame inserted at each page of the mapping, int64. NO_FRAME if there is none.
    """

    vm_start: int
    vm_end: int
    vm_flags: int = 0
    inserted: np.ndarray = field(factory=lambda: np.empty(0, np.int64), repr=False)
