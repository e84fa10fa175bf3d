"""A virtual range cut into stretches of pages that are mapped in one step each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from attrs import frozen

from vmcore.paging.linux import TableWalk

#: Tables up to which a walk for each beats arrays: the rows of ``test_vmalloc_and_vfree`` in tests/bench.
FEW_TABLES = 16
_BLOCK = 1 << 16  #: tables that are looked up in one step


@frozen
class Stretch:
    """Consecutive pages that are mapped in one step: only the table of the first may be missing.

    Attributes:
        address: virtual, bytes.
        pages: how many.
        overruns: whether the walk does not meet the end of the stretch, and leaves its table.
        in_one_table: whether one table maps all of it.
    """

    address: int
    pages: int
    overruns: bool
    in_one_table: bool


def stretches(walk: TableWalk, start: int, end: int) -> Iterator[Stretch]:
    """Cut ``[start, end)`` so that only the first table of each stretch may be missing.

    A range of a few tables has one stretch for each. A larger one is cut where a table is missing, at any level.
    Its tables are looked up a block at a time, because the range may be larger than the caller has pages for.
    """
    span, inside = walk.span, (1 << walk.page_shift) - 1
    first, last = start >> span, end - 1 >> span
    if last - first < FEW_TABLES or (start | end) & inside:
        yield from _between(walk, [start, *(n << span for n in range(first + 1, last + 1)), end])
        return
    # the head and the tail share a table with others and stand alone
    yield from _between(walk, [start, first + 1 << span])
    for block in range(first + 1, last, _BLOCK):
        stop = min(block + _BLOCK, last)
        missing = np.flatnonzero(walk.find_tables(block, stop - block) < 0) + block
        yield from _between(walk, [*(n << span for n in sorted({block, *missing.tolist()})), stop << span])
    yield from _between(walk, [last << span, end])


def _between(walk: TableWalk, cuts: list[int]) -> Iterator[Stretch]:
    """Yield the stretch from each cut to the next."""
    span, shift = walk.span, walk.page_shift
    for a, b in pairwise(cuts):
        yield Stretch(a, -(-(b - a) >> shift), bool(b - a & (1 << shift) - 1), b - 1 >> span == a >> span)


def pieces(walk: TableWalk, stretch: Stretch, table: int) -> list[tuple[int, slice]]:
    """Return (first address, words of the buffer) of a stretch, for each part that lies in one piece.

    Args:
        walk: walks the tables, all of which exist.
        stretch: the pages.
        table: physical address of the first table.
    """
    if stretch.in_one_table:
        index = walk.word_index(table, stretch.address)
        return [(stretch.address, slice(index, index + stretch.pages))]
    first = stretch.address >> walk.span
    last = stretch.address + (stretch.pages << walk.page_shift) - 1 >> walk.span
    found: list[tuple[int, slice]] = []
    address = stretch.address
    for at in walk.word_slices(walk.find_tables(first, last - first + 1)):
        found.append((address, at))
        address += at.stop - at.start << walk.page_shift
    return found
