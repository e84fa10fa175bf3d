"""The seam between a machine and a placement generation: the rules by which kernels of some versions place areas.

A generation answers with addresses. It knows free space and lazily freed areas. The areas in use, their pages and
their flags belong to the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import attrs

Span = tuple[int, int]
"""Addresses ``start <= address < end``."""


class Purged(NamedTuple):
    """The work of one purge.

    Attributes:
        number: areas given back, counted as the kernel counts them: from 5.11 to 6.8 areas that touch are one.
        start: the lowest address given back, 0 if there is none.
        end: the end of the highest area given back, 0 if there is none.
    """

    number: int
    start: int
    end: int


@attrs.frozen
class Space:
    """The address space of one machine, as a generation needs it.

    Attributes:
        word_bits: 32 or 64.
        page_size: bytes.
        start: VMALLOC_START.
        end: VMALLOC_END as the kernel defines it: some architectures name the last byte of the window, others the
            first byte behind it.
        cpus: possible CPUs, all of them online.
        early: areas that exist before vmalloc_init, in any order.
    """

    word_bits: int
    page_size: int
    start: int
    end: int
    cpus: int = 1
    early: tuple[Span, ...] = ()

    @property
    def mask(self) -> int:
        """An ``unsigned long`` of ones."""
        return (1 << self.word_bits) - 1

    @property
    def lazy_max(self) -> int:
        """The lazily freed pages above which a drain is wanted (lazy_max_pages)."""
        return self.cpus.bit_length() * ((32 << 20) // self.page_size)


class Placement(Protocol):
    """Where areas go on one machine. A generation makes one for each machine.

    All addresses and sizes are in bytes. Sizes are page aligned and include the guard page of areas that have one.
    """

    #: pages of the areas that are freed, and whose addresses are not free yet
    lazy_pages: int

    def attempt(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Take the space for a request: one try of alloc_vmap_area().

        Args:
            size: not 0.
            align: a power of two, 1 included.
            start: first address of the window.
            end: the window's end as the kernel passes it. The area may end there.
            cpu: the CPU that asks.

        Returns:
            The address, or None if nothing fits. The caller then purges everything and tries once more.
        """
        ...

    def look(self, size: int, align: int, start: int, end: int, cpu: int = 0) -> int | None:
        """Return the address that `attempt` would take, and change nothing."""
        ...

    def release(self, address: int, size: int, cpu: int = 0) -> bool:
        """Free an area (free_vmap_area_noflush). In a lazy generation its addresses stay taken until a purge.

        Returns:
            Whether the kernel would now drain, that is call `purge`.
        """
        ...

    def purge(self, *, everything: bool = False, only: int | None = None) -> Purged:
        """Give the addresses of lazily freed areas back (__purge_vmap_area_lazy).

        Args:
            everything: also those that the generation would keep for the next requests, as after a failure.
            only: number of areas to give back, those that were freed first; None: all. A trace tells how many a
                purge took while other CPUs went on freeing.
        """
        ...

    def percpu(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
        """Take the space of a percpu chunk from the top of the window: one try of pcpu_get_vm_areas().

        Args:
            offsets: of each area from the base, multiples of ``align``.
            sizes: of each area, multiples of ``align``.
            align: a power of two, at least a page.

        Returns:
            The base, or None if the areas do not fit. Each area is released by itself.
        """
        ...

    def seed(self, busy: Iterable[Span], lazy: Iterable[Span]) -> None:
        """Begin with areas of a kernel that has run for a while, instead of the early ones.

        Args:
            busy: areas in use, and early ones.
            lazy: areas that are freed and not purged yet.
        """
        ...

    def take(self, address: int, size: int, cpu: int = 0) -> bool:
        """Take space at a known address, whoever holds it: a trace tells where its kernel placed an area.

        Two areas may claim one address afterwards. Free space, lazily freed areas and pools stay disjoint
        whatever is released then.

        Returns:
            Whether all of it was free.
        """
        ...

    def free_bytes(self, start: int, end: int) -> int:
        """Return the free bytes of ``[start, end)``. Lazily freed areas are not free."""
        ...

    def largest_hole(self, start: int, end: int) -> int:
        """Return the bytes of the largest free stretch of ``[start, end)``."""
        ...

    def check(self) -> None:
        """Verify the invariants.

        Raises:
            AssertionError: one does not hold. The message says which.
        """
        ...


@attrs.frozen
class Generation:
    """The rules of some kernels. The hook ``vmcore_placements`` returns generations.

    Attributes:
        name: The version that brought the rules, for example "5.18".
        make: makes the placement of one machine.
        says: the rules, in one line.
    """

    name: str
    make: Callable[[Space], Placement]
    says: str


def up(address: int, align: int, mask: int) -> int:
    """Round up as ALIGN() does in an ``unsigned long``."""
    return (address + align - 1) & -align & mask


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans in address order, with those that touch or overlap joined."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def clear_of(spans: Iterable[Span], start: int, end: int) -> list[Span]:
    """Return the parts of spans, in their order, that lie outside ``[start, end)``."""
    return [
        (first, last) for a, b in spans for first, last in ((a, min(b, start)), (max(a, end), b)) if first < last
    ]


def holes(taken: Iterable[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of ``[start, end)`` between areas, in address order.

    Args:
        taken: ``(start, end)`` of areas in address order. They may overlap.
        start: first address.
        end: end of the stretch.
    """
    for first, stop in taken:
        if start < min(first, end):
            yield start, min(first, end)
        start = max(start, stop)
    if start < end:
        yield start, end
