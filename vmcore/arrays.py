"""The names of array types, and the rule for their signs.

Virtual addresses are unsigned (uint64). Physical addresses and frames are signed (int64), so that -1 can stand
for "none", for example `vmcore.flags.NO_FRAME`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Frames: TypeAlias = NDArray[np.int64]  #: frame numbers; -1: none
Physical: TypeAlias = NDArray[np.int64]  #: bytes; -1: none
Addresses: TypeAlias = NDArray[np.uint64]  #: virtual, bytes
Words: TypeAlias = NDArray[np.unsignedinteger]  #: page-table entries, as wide as the level's


def readonly(array: np.ndarray) -> np.ndarray:
    """Return a read-only view of an array, for example to hand it to an event."""
    view = array.view()
    view.flags.writeable = False
    return view
