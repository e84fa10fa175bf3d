"""Clearing page-table entries: mm/vmalloc.c:30-86, and p?d_clear_bad of mm/memory.c.

Tables stay. Bad entries above the last level are logged and cleared.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vmcore.arrays import readonly
from vmcore.paging.pte import LaidOutLevel
from vmcore.paging.ptes import FEW
from vmcore.paging.stretches import FEW_TABLES

if TYPE_CHECKING:
    from vmcore.paging.tables import PageTables

_WARNING = ("!pte_none(ptent) && !pte_present(ptent)", "vunmap_pte_range")


def clear_range(tables: PageTables, start: int, end: int) -> None:
    """Clear the entries for ``[start, end)``, a range of several tables. See `PageTables.unmap`."""
    span = tables.span
    first, last = start >> span, end - 1 >> span
    if last - first >= FEW_TABLES:
        clear_many(tables, start, end)
        return
    for a, b in pairwise([start, *(n << span for n in range(first + 1, last + 1)), end]):
        if (table := tables.find_table(a, tables.none_or_clear_bad)) is not None:
            clear_part(tables, table, a, b)


def clear_many(tables: PageTables, start: int, end: int) -> None:
    """Clear a range of many tables: whole tables in as few steps as they lie in pieces, others one by one."""
    span = tables.span
    addresses, found = tables.present_tables(start, end, partial(clear_bad, tables))
    whole = (addresses & np.uint64((1 << span) - 1) == 0) & (addresses >> np.uint64(span) != end - 1 >> span)
    if tables.on_cleared is not None or (start | end) & (1 << tables.page_shift) - 1:
        whole[:] = False
    for a, table in zip(addresses[~whole].tolist(), found[~whole].tolist(), strict=True):
        clear_part(tables, table, a, min(end, (a >> span) + 1 << span))
    if whole.any():
        for at in tables.word_slices(found[whole]):
            clear_words(tables, at, 0)


def clear_bad(tables: PageTables, laid_out: LaidOutLevel, entry_address: int, word: int) -> None:
    """Log and clear a bad entry (mm/memory.c p?d_clear_bad, the text of asm/pgtable.h p?d_ERROR)."""
    level = laid_out.level
    digits = 2 * level.word_bytes
    value = f"{word:0{digits}x}"
    text = value if digits == 8 else f"{entry_address:0{tables.word_bits // 4}x}({value})"
    tables.reporter.printk(f"<3>mm/memory.c: bad {level.error_name} {text}.\n")
    tables.memory.write(entry_address, bytes(level.entry_bytes))


def clear_part(tables: PageTables, table: int, start: int, end: int) -> None:
    """Clear the entries for ``[start, end)`` in one table.

    C's loop ends where an address equals ``end``. If the range ends inside a page, none does: the loop clears
    the table to its end and runs on behind it. Here that is an oops.
    """
    d, ptes = tables.last, tables.ptes
    ragged = bool(end - start & (1 << d.shift) - 1)
    count = d.index_mask + 1 - (start >> d.shift & d.index_mask) if ragged else end - start >> d.shift
    at = tables.word_index(table, start)
    if count <= FEW and tables.on_cleared is None and not ptes.hardware_words:
        words, none, present = ptes.words, d.none_mask, d.present
        for n in range(at, at + count):
            word = words[n]
            if word:
                words[n] = 0
                if word & none and not word & present:
                    tables.reporter.warn_on(*_WARNING)
    else:
        clear_words(tables, slice(at, at + count), start)
    if ragged:
        tables.reporter.oops(0, "page-table overrun")


def clear_words(tables: PageTables, at: slice, start: int) -> None:
    """Clear consecutive words. Emit events for those that were not none, warn of those that were not present.

    Args:
        tables: hold the words.
        at: which words of the buffer.
        start: virtual address of the first, for events.
    """
    ptes, d = tables.ptes, tables.last
    old = ptes.array[at].copy() if tables.on_cleared is not None else ptes.array[at]
    kind = old.dtype.type
    odd = np.empty(0, np.int64)
    if not np.bitwise_and.reduce(old) & kind(d.present):  # not all present, or by different bits
        odd = np.flatnonzero((old & kind(d.present) == 0) & (old & kind(d.none_mask) != 0))
    ptes.store(at, 0)
    if tables.on_cleared is not None:
        _emit_cleared(tables, start, old, odd.tolist())
        return
    for _ in range(len(odd)):
        tables.reporter.warn_on(*_WARNING)


def _emit_cleared(tables: PageTables, start: int, old: np.ndarray, odd: list[int]) -> None:
    """Emit an event for each run of entries that were not none. An entry that is warned about ends its run."""
    assert tables.on_cleared is not None
    shift = tables.page_shift
    live = (old & old.dtype.type(tables.last.none_mask) != 0).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], live, [0]))))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        cuts = sorted({first, *(n + 1 for n in odd if first <= n < end), end})
        for a, b in pairwise(cuts):
            tables.on_cleared(address=start + (a << shift), entries=readonly(old[a:b]))
            if b - 1 in odd:
                tables.reporter.warn_on(*_WARNING)
