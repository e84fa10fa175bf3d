"""The listeners of a CPU, as protocols: the coherence checker, and the machine around it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from vmcore.cpu.dcache import DataCache
from vmcore.cpu.tlb import TranslationBuffer
from vmcore.paging.mm import Mm
from vmcore.paging.mmu import Mmu


class CpuView(Protocol):
    """The part of a CPU that the checker and the scenes read."""

    @property
    def number(self) -> int:
        """0, 1, 2 and so on."""
        ...

    @property
    def tlb(self) -> TranslationBuffer:
        """Its TLB."""
        ...

    @property
    def mm(self) -> Mm | None:
        """The process it runs, or None: it runs on init_mm."""
        ...

    @property
    def cache(self) -> DataCache | None:
        """Its data cache, or None if two mappings cannot disagree in it."""
        ...

    @property
    def mmu(self) -> Mmu:
        """Its walker of the tables it runs on."""
        ...


class Watcher(Protocol):
    """The coherence checker, which is told of each use of a TLB entry and of each fault."""

    def used(self, cpu: CpuView, address: int, physical: int, flags: int) -> None:
        """Judge one TLB entry that was used without a walk: the one for the page at ``address``."""
        ...

    def used_many(self, cpu: CpuView, addresses: np.ndarray, physical: np.ndarray, flags: np.ndarray) -> None:
        """Judge the TLB entries that one access used: those for pages at ``addresses`` (uint64)."""
        ...

    def faulted(self, cpu: CpuView, address: int, access: int) -> None:
        """Judge a fault that was not repaired."""
        ...

    def cleared(self, frames: np.ndarray) -> None:
        """Note that the kernel clears frames, in memory and in its own cache lines of them."""
        ...


class Board(Protocol):
    """The machine around a CPU."""

    checker: Watcher | None

    def tlb_filling(self) -> None:
        """Note that a TLB is about to keep an entry, so that no flush is left out."""
        ...

    def tlb_filled(self, cpu: CpuView, pages: np.ndarray, physical: np.ndarray) -> None:
        """Announce the translations that a CPU keeps from now on."""
        ...

    def fault(self, cpu: CpuView, address: int, access: str, error_code: int) -> bool:
        """Offer an address that faulted to vmalloc_fault(). True means that it was repaired."""
        ...


class Life(Protocol):
    """The life of the kernel that a CPU runs, see `vmcore.machine.life.Life`."""

    def refuse_dead(self) -> None:
        """Refuse to change the memory of a dead kernel."""
        ...

    def readable(self) -> None:
        """Refuse to show the memory of a kernel that was interrupted or closed."""
        ...

    def interrupted(self, function: str, error: BaseException) -> None:
        """End the kernel if an exception from outside cuts one of its functions short."""
        ...
