"""Records of what a flush symbol was called for and what it did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class FlushAction(NamedTuple):
    """What a flush symbol did: ``unit`` "tlb" or "cache", ``scope`` "all" or "pages", on how many CPUs.

    ``dropped``: TLB entries or cache lines that went.
    """

    unit: str
    scope: str
    cpus: int
    dropped: int = 0

    def __str__(self) -> str:
        return f"{self.unit} {self.scope} on {self.cpus} CPU, {self.dropped} dropped"


class Flush(NamedTuple):
    """One call of a flush symbol, for the range ``[start, end)``, on ``cpu``."""

    symbol: str
    cpu: int
    start: int
    end: int
    actions: tuple[FlushAction, ...]

    def __repr__(self) -> str:
        did = ", ".join(map(str, self.actions)) or "nothing to do"
        return f"<{self.symbol} cpu {self.cpu} {self.start:#x}..{self.end:#x}: {did}>"


def readonly(array: np.ndarray) -> np.ndarray:
    """Return a view of an array that cannot be written through, for the argument of an event."""
    view = array.view()
    view.flags.writeable = False
    return view
