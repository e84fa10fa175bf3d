"""Checks of RAM that every built-in layout shares."""

from __future__ import annotations

from itertools import pairwise

from vmcore.architecture import LayoutRequest
from vmcore.errors import LayoutError
from vmcore.units import Bank

KERNEL_BYTES = 4 << 20  #: the bytes at the start of RAM that hold the kernel, in every built-in layout


def banks_at(name: str, request: LayoutRequest, base: int) -> tuple[Bank, ...]:
    """Return the banks of a request. The first must begin where the machine's RAM does, and hold the kernel there.

    Args:
        name: the architecture, for messages.
        request: the request for the layout.
        base: PHYS_OFFSET, bytes.

    Raises:
        LayoutError: there is no RAM at ``base``, or too little in the first bank.
    """
    banks = request.banks(base)
    if not banks or banks[0].start != base:
        found = f"starts at {banks[0].start:#x}" if banks else "is empty"
        raise LayoutError(
            f"{name}: RAM {found}, expected {base:#x} (PHYS_OFFSET); give a size, or banks from there"
        )
    if banks[0].size <= KERNEL_BYTES:
        raise LayoutError(
            f"{name}: RAM bank {banks[0]} is {banks[0].size:#x} bytes, expected more than {KERNEL_BYTES:#x}, "
            "which the kernel itself takes; give more RAM"
        )
    return banks


def without_holes(name: str, banks: tuple[Bank, ...], end: int) -> None:
    """Refuse holes in RAM below ``end``, the address where the linear map of a 32-bit machine ends.

    Raises:
        LayoutError: there is a hole.
    """
    for bank, above in pairwise(banks):
        if bank.end != above.start and bank.end < end:
            raise LayoutError(
                f"{name}: RAM has a hole {bank.end:#x}..{above.start:#x} below {end:#x}, the end of lowmem, "
                "expected none; move the bank down, or the hole above lowmem"
            )
