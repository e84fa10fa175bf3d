"""The coherence checker: it watches the loads and stores of CPUs, and says which flush or sync is missing.

It is a listener like any other, and CPUs and caches tell it of each access besides. It looks for

- a translation that a TLB still gives after its page was unmapped or changed,
- a page frame that is handed out again while some TLB still translates to it,
- a cache line that is read although newer data is elsewhere, that overwrites newer data, or that is lost,
- a kernel access that faults although init_mm maps the page, and that ``vmalloc_fault`` does not repair.

A report names the symbol that should have been called, by the events of the page since the stale bytes were
copied. A finding that repeats is counted, and not reported again.
"""

from __future__ import annotations

from collections import Counter
from weakref import proxy

import numpy as np

from vmcore.coherence.history import History
from vmcore.coherence.lines import LineCheck
from vmcore.coherence.report import Report, Reports
from vmcore.coherence.translations import TranslationCheck
from vmcore.cpu.watchers import CpuView
from vmcore.events import Flush
from vmcore.hookspecs import hookimpl
from vmcore.machine.machine import Machine


class Listener:
    """Pass events on to a checker without keeping it.

    The plugin managers that hold listeners are cyclic garbage when a kernel is dropped. A checker that they kept
    would keep the kernel's RAM.
    """

    def __init__(self, checker: Checker) -> None:
        self._checker: Checker = proxy(checker)

    @hookimpl
    def vmcore_range_mapped(self, address: int, frames: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.range_mapped(address, frames)

    @hookimpl
    def vmcore_range_cleared(self, address: int, entries: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.range_cleared(address, entries)

    @hookimpl
    def vmcore_flush(self, flush: Flush) -> None:
        """Pass the event on."""
        self._checker.flush(flush)

    @hookimpl
    def vmcore_pages_allocated(self, frames: np.ndarray) -> None:
        """Pass the event on."""
        self._checker.pages_allocated(frames)

    @hookimpl
    def vmcore_table_allocated(self, table: int | None) -> None:
        """Pass the event on."""
        self._checker.table_allocated(table)


class Checker:
    """The checker of one machine.

    Attributes:
        listener: to be linked with the machine.
    """

    def __init__(self, page_shift: int) -> None:
        """Begin before the machine is there, which is linked with ``listener``."""
        self.listener = Listener(self)
        self._shift = page_shift
        self._history = History(page_shift)
        self._reports = Reports(self._history, page_shift)
        self._translations: TranslationCheck | None = None
        self._lines: LineCheck | None = None

    @property
    def reports(self) -> list[Report]:
        """The reports, oldest first."""
        return self._reports.reports

    @property
    def found(self) -> Counter[str]:
        """By kind, how often it was found, repetitions included."""
        return self._reports.found

    @property
    def repeated(self) -> int:
        """The number of findings that repeat one of `reports`."""
        return self.found.total() - len(self.reports)

    def watch(self, machine: Machine) -> None:
        """Begin to look at a machine's CPUs and caches. Its events reach a checker that is linked with it."""
        arch, memory, cpus = machine.arch, machine.memory, machine.cpus
        self._translations = TranslationCheck(self._history, self._reports, arch, machine.layout, memory, cpus)
        machine.smp.checker = self
        for cpu in cpus:
            cpu.tlb.direct = False
            cpu.tlb.drop_all()
        if caches := [cpu.cache for cpu in cpus if cpu.cache is not None]:
            self._lines = LineCheck(self._history, self._reports, memory, arch.page_shift, caches)
            for cache in caches:
                cache.watcher = proxy(self._lines)  # the cache's machine keeps the checker

    # ---- events

    def range_mapped(self, address: int, frames: np.ndarray) -> None:
        """Remember the frames of a range that was mapped."""
        self._history.note("mapped", address, address + (len(frames) << self._shift), frames.copy())

    def range_cleared(self, address: int, entries: np.ndarray) -> None:
        """Remember a range that was unmapped."""
        self._history.note("cleared", address, address + (len(entries) << self._shift))

    def flush(self, flush: Flush) -> None:
        """Remember a call of a flush symbol."""
        did = ", ".join(map(str, flush.actions)) or "nothing to do"
        self._history.note_flush(flush.symbol, flush.start, flush.end, flush.cpu, did, bool(flush.actions))

    def pages_allocated(self, frames: np.ndarray) -> None:
        """Look for TLB entries that still translate to frames that are handed out."""
        if self._translations is not None:
            self._translations.reused(frames)

    def table_allocated(self, table: int | None) -> None:
        """Look for TLB entries that still translate to a page that has become a page table."""
        if table is not None and self._translations is not None:
            self._translations.reused(np.array([table >> self._shift]))

    # ---- called by CPUs, see vmcore.cpu.watchers.Watcher

    def used(self, cpu: CpuView, address: int, physical: int, flags: int) -> None:
        """Judge one TLB entry that was used without a walk."""
        if self._translations is not None:
            self._translations.used(cpu, address, physical, flags)

    def used_many(self, cpu: CpuView, addresses: np.ndarray, physical: np.ndarray, flags: np.ndarray) -> None:
        """Judge the TLB entries that one access used."""
        if self._translations is not None:
            self._translations.used_many(cpu, addresses, physical, flags)

    def faulted(self, cpu: CpuView, address: int, access: int) -> None:
        """Judge a fault that was not repaired."""
        if self._translations is not None:
            self._translations.faulted(cpu, address, access)

    def cleared(self, frames: np.ndarray) -> None:
        """Note that the kernel clears frames, in memory and in its own cache lines of them."""
        if self._lines is not None:
            self._lines.cleared(frames)
