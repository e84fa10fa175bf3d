"""Look for a larger ``vmalloc=`` that can hold the areas of a trace."""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from vmcore.architecture import Architecture, LayoutRequest
from vmcore.errors import LayoutError
from vmcore.facts import Key, Shape

STEP: Final = 16 << 20  #: distance of the sizes tried, bytes
LARGEST: Final = 4 << 30  #: largest size tried, bytes

LARGER_WINDOW: Final = Shape(
    "larger vmalloc window",
    (
        Key("need", "number", "Size that the window must have: more than today, and no less than the demand.",
            "bytes"),
        Key("vmalloc", "number or null", "Smallest `vmalloc=` that gives it; null: none does.", "bytes"),
        Key("window", "number or null", "Size of the window that it gives.", "bytes"),
        Key("refused", "string", "Why a size was refused, the first reason; empty: none was."),
    ),
)  # fmt: skip


@frozen
class LargerWindow:
    """The smallest ``vmalloc=`` whose window is large enough.

    Attributes:
        need: Size that the window must have, bytes.
        vmalloc: The ``vmalloc=``, bytes, a multiple of `STEP`; None: no size up to `LARGEST` is enough.
        window: Size of the window that it gives, bytes; None where there is none.
        refused: Why the architecture refused a size, the first reason; "" where it refused none.
    """

    need: int
    vmalloc: int | None
    window: int | None
    refused: str


def find_larger_window(arch: Architecture, request: LayoutRequest, need: int) -> LargerWindow:
    """Find the smallest ``vmalloc=`` that gives a window of *need* bytes.

    Args:
        arch: The architecture.
        request: RAM and board of the machine; its own ``vmalloc`` is not used.
        need: Bytes. Holes cost space too, so that a window of this size may still be too small.
    """
    refused = ""
    for size in range(need // STEP * STEP, LARGEST + 1, STEP):
        try:
            window = arch.lay_out(evolve(request, vmalloc=size)).vmalloc.size
        except LayoutError as error:
            refused = refused or str(error)
            continue
        if window >= need:
            return LargerWindow(need, size, window, refused)
    return LargerWindow(need, None, None, refused)
