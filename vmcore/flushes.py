"""Records of what a flush symbol was called for and what it did."""

from __future__ import annotations

from typing import NamedTuple


class FlushAction(NamedTuple):
    """What a flush symbol did: ``unit`` "tlb" or "cache", ``scope`` "all" or "pages", and on how many CPUs."""

    unit: str
    scope: str
    cpus: int


class Flush(NamedTuple):
    """One call of a flush symbol, for the range ``[start, end)``, on ``cpu``."""

    symbol: str
    cpu: int
    start: int
    end: int
    actions: tuple[FlushAction, ...]

    def __repr__(self) -> str:
        did = ", ".join(f"{a.unit} {a.scope} on {a.cpus} CPU" for a in self.actions) or "nothing to do"
        return f"<{self.symbol} cpu {self.cpu} {self.start:#x}..{self.end:#x}: {did}>"
