"""The records that event hooks receive."""

from __future__ import annotations

from typing import NamedTuple


class FlushAction(NamedTuple):
    """One effect of a flush symbol.

    Attributes:
        unit: "tlb" or "cache".
        scope: "all" or "pages".
        cpus: the number of CPUs that it acted on.
        dropped: the number of TLB entries or cache lines that were dropped.
    """

    unit: str
    scope: str
    cpus: int
    dropped: int = 0

    def __str__(self) -> str:
        return f"{self.unit} {self.scope} on {self.cpus} CPU, {self.dropped} dropped"


class Flush(NamedTuple):
    """One call of a flush symbol.

    Attributes:
        symbol: its name in the C file, for example "flush_cache_vmap".
        cpu: the number of the CPU that ran it.
        start: the first address, virtual, bytes.
        end: the end of the range, virtual, bytes, exclusive.
        actions: its effects, in order; empty if it had none.
    """

    symbol: str
    cpu: int
    start: int
    end: int
    actions: tuple[FlushAction, ...]

    def __repr__(self) -> str:
        did = ", ".join(map(str, self.actions)) or "nothing to do"
        return f"<{self.symbol} cpu {self.cpu} {self.start:#x}..{self.end:#x}: {did}>"


class Warned(NamedTuple):
    """A WARN_ON that fired.

    Attributes:
        condition: the C text of its condition.
        function: the C function that contains it.
    """

    condition: str
    function: str
