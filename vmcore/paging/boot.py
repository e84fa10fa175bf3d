"""Page tables that the kernel builds at boot: below pre-built levels, and for the linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmcore.architecture import Leaf, Level
from vmcore.errors import OutOfMemory
from vmcore.paging.pte import LaidOutLevel, descend, lay_out

if TYPE_CHECKING:
    from vmcore.paging.tables import PageTables

_BLOCK = 256  #: tables of large pages that are filled in one step, to keep its arrays small


def prebuild(tables: PageTables, first: int) -> None:
    """Make the tables below pre-built levels, from root entry ``first`` to the last.

    Raises:
        OutOfMemory: RAM is too small for them.
    """
    root, top = tables.upper[0], 1 << tables.word_bits
    start = top - (root.index_mask + 1 - first << root.shift)  # the kernel's part ends at the top
    for depth, d in enumerate(tables.upper):
        if not d.level.prebuilt:
            return
        for address in range(start, top, 1 << d.shift):
            found = tables.entry(address, depth)
            if found and not found[1] & d.present:
                _allocate(tables, depth, found[0], address)


def map_linear(
    tables: PageTables, levels: tuple[Level, ...], start: int, end: int, physical: int, leaf: Leaf, flags: int
) -> None:
    """Map ``[start, end)`` by large pages of one kind, and make the tables above them.

    Args:
        tables: receive the pages.
        levels: the hardware's.
        start: virtual, bytes, at a multiple of the large page.
        end: virtual, bytes, likewise.
        physical: the address that ``start`` is mapped to, bytes.
        leaf: a leaf of one of ``levels``. That level begins where one of Linux' does, or above all of them.
        flags: bits of the entries.

    Raises:
        OutOfMemory: no page for a table.
    """
    depth = next(n for n, level in enumerate(levels) if leaf in level.leaves)
    d = lay_out(levels)[depth]
    level = d.level
    step, span = 1 << level.shift, level.shift + level.bits  # bytes of an entry, log2 bytes of a table
    for first in range(start >> span, (end - 1 >> span) + 1, _BLOCK):
        low, high = max(start, first << span), min(end, first + _BLOCK << span)
        numbers = range(first, (high - 1 >> span) + 1)
        of_block = np.array([_table(tables, number << span, depth) for number in numbers], np.int64)
        entry = (low - (first << span) >> level.shift) + np.arange(len(range(low, high, step)))
        at = d.entries(of_block[entry >> level.bits], entry & d.index_mask)
        addresses = (low - start + physical) + (np.arange(len(entry)) << level.shift)
        whole = (addresses & -(1 << leaf.shift)).view(np.uint64)
        tables.memory.store_many(at, leaf.encode_array(whole, flags), level.word_bytes)


def _table(tables: PageTables, address: int, depth: int) -> int:
    """Return the table of a level for an address, and make the missing ones on the way."""

    def follow(number: int, level: LaidOutLevel, at: int) -> int:
        word = tables.memory.load(at, level.size)
        return word if word & level.missing_mask else _allocate(tables, number, at, address)

    table = descend(tables.upper[:depth], tables.root, address, follow)
    assert table is not None  # follow() never stops
    return table


def _allocate(tables: PageTables, depth: int, entry_address: int, address: int) -> int:
    word = tables.allocate(depth, entry_address, address)
    if word is None:
        name = tables.levels[depth + 1].name
        raise OutOfMemory("table", f"no page for the {name} of {address:#x} at boot")
    return word
