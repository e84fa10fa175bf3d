"""The address space of a process: its root table. Only the kernel's half of it is simulated."""

from __future__ import annotations

from attrs import frozen

from vmcore.paging.tables import PageTables


@frozen(eq=False)
class Mm:
    """The address space of a process. Only the kernel's half of it is simulated.

    Attributes:
        number: 1, 2, 3 ... in order of creation.
        tables: the page tables below its own root.
    """

    number: int
    tables: PageTables
