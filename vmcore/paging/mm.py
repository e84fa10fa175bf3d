"""Processes, as far as the kernel's half of their address space goes."""

from __future__ import annotations

from attrs import frozen

from vmcore.paging.tables import PageTables


@frozen(eq=False)
class Mm:
    """A process' address space, as far as the kernel's half goes: its own root table.

    Attributes:
        number: 1, 2, 3 ... in order of creation.
        tables: below its root.
    """

    number: int
    tables: PageTables
