"""Injected failures: the n-th call of a kind from now on fails, once."""

from __future__ import annotations

from operator import index

from vmcore.errors import ConfigurationError, choices

FAULT_KINDS = ("alloc_page", "pgtable", "kmalloc", "insert")


class Faults:
    """The failures to come, a countdown for each kind. 0 means that no call fails.

    Attributes:
        alloc_page: calls of alloc_page() up to the one that fails.
        pgtable: allocations of kernel page tables, all levels.
        kmalloc: calls of kmalloc().
        insert: calls of vm_insert_page().
    """

    def __init__(self) -> None:
        self.alloc_page = self.pgtable = self.kmalloc = self.insert = 0

    def inject(self, kind: str, nth: int) -> None:
        """Make the ``nth`` call of a kind from now on fail, once, and 0 takes it back.

        Args:
            kind: one of `FAULT_KINDS`.
            nth: 1 is the next call.

        Raises:
            ConfigurationError: an unknown kind, or a negative number.
        """
        nth = index(nth)
        if kind not in FAULT_KINDS:
            raise ConfigurationError(f"fail: unknown kind {kind!r}: {choices(kind, FAULT_KINDS, 'valid')}")
        if nth < 0:
            raise ConfigurationError(f"fail {kind}: found {nth}, expected 0 (take back) or the number of a call")
        setattr(self, kind, nth)
