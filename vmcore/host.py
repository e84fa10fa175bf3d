"""The interface of the kernel for link symbols.

A symbol of a plugin, for example ``flush_tlb_kernel_range(kernel, cpu, start, end)``, receives a `Host` as its
first argument and may use everything that is declared here. If a symbol needs more, this file has a gap.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from vmcore.architecture import Architecture, Layout, Level


class Tables(Protocol):
    """The page tables below one root, as Linux sees them: those of init_mm or of a process."""

    @property
    def root(self) -> int:
        """The physical address of the root table, bytes."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels, root first."""
        ...

    def entry(self, address: int, depth: int) -> tuple[int, int] | None:
        """Return the entry for a virtual address at a level.

        Args:
            address: virtual, bytes.
            depth: 0 is the root level, ``len(levels) - 1`` the last.

        Returns:
            The entry's physical address and its first word; None if an entry above it is none.
        """
        ...

    def copy_entry(self, to: int, source: int, depth: int) -> None:
        """Copy all bytes of an entry at ``depth`` from one physical address to another."""
        ...

    def address_of(self, word: int, depth: int) -> int:
        """Return the physical address, bytes, that the frame field of an entry at ``depth`` holds."""
        ...


class Process(Protocol):
    """A process, as far as the kernel's half of its address space goes."""

    @property
    def number(self) -> int:
        """The number of the process: 1, 2, 3 and so on, in order of creation. Elsewhere 0 stands for init_mm."""
        ...

    @property
    def tables(self) -> Tables:
        """The tables below its root."""
        ...


class Host(Protocol):
    """The kernel that calls a symbol."""

    @property
    def arch(self) -> Architecture:
        """The record of the machine."""
        ...

    @property
    def layout(self) -> Layout:
        """The memory layout of this machine."""
        ...

    @property
    def cpus(self) -> Sequence[object]:
        """The CPUs, by number."""
        ...

    @property
    def init_mm(self) -> Tables:
        """The kernel's own page tables."""
        ...

    @property
    def pgd_list(self) -> Sequence[Process]:
        """The processes, oldest first. Hold ``pgd_lock`` while you iterate over them."""
        ...

    @property
    def pgd_lock(self) -> AbstractContextManager[Any]:
        """The lock of ``pgd_list``."""
        ...

    @property
    def statics(self) -> MutableMapping[str, Any]:
        """Function-static variables of symbols. You choose their names, for example "vmalloc_sync_all.start"."""
        ...

    def current_mm(self, cpu: int) -> Process | None:
        """Return the process that a CPU runs. Return None if the CPU runs on init_mm."""
        ...

    def flush_tlb_all(self, cpu: int) -> None:
        """Drop the whole TLB of every CPU. ``cpu`` is the CPU that asks the others."""
        ...

    def flush_tlb_pages(self, cpu: int, start: int, end: int, every_cpu: bool) -> None:
        """Drop TLB entries page by page.

        Args:
            cpu: number of the CPU that runs the symbol.
            start: virtual, bytes; rounded down to a page.
            end: virtual, bytes; the last page begins below it. At least one page is dropped.
            every_cpu: drop them on every CPU, not only on ``cpu``.
        """
        ...

    def flush_cache_all(self, cpu: int) -> None:
        """Clean and invalidate the whole data cache of one CPU."""
        ...

    def printk(self, line: str) -> None:
        """Log one line, with its ``<n>`` level and newline."""
        ...

    def bug_on(self, condition: bool, text: str, function: str) -> None:
        """End the kernel if ``condition`` is true, as BUG_ON() does.

        Args:
            condition: the value of the condition.
            text: the C text of the condition.
            function: the C function that contains the BUG_ON.

        Raises:
            KernelBug: ``condition`` is true.
        """
        ...
