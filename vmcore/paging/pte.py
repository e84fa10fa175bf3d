"""One level of page tables laid out for walks, and the two walks: of one address, and of many.

Linux' view (`vmcore.paging.linux`) and the hardware's (`vmcore.paging.mmu`) both walk with these. They differ in
the entries that they follow, and in the memory that they read. Frame fields are decoded and encoded by the
functions of `vmcore.architecture.levels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from attrs import frozen

from vmcore.architecture import Leaf, Level, Segment
from vmcore.architecture.levels import decode, decode_many


class TableMemory(Protocol):
    """Physical memory that page tables are read from, little-endian."""

    def word(self, address: int, size: int) -> int | None:
        """Return the aligned word of ``size`` (4 or 8) bytes at a physical address, or None if it is absent."""
        ...

    def words(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the aligned words at physical addresses (int64, shape ``(n,)``), and 0 for absent ones.

        Returns:
            Words, unsigned, and whether each is there, bool, both of shape ``(n,)``.
        """
        ...

    def rows(self, starts: np.ndarray, row_bytes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whole rows of aligned words, each row within one page, and zeros for absent ones.

        Args:
            starts: physical addresses, bytes, int64, shape ``(n,)``, multiples of ``row_bytes``.
            row_bytes: bytes of a row, a power of two.
            size: bytes of a word, 4 or 8.

        Returns:
            Words, unsigned, shape ``(n, row_bytes // size)``, and whether the row is there, bool, ``(n,)``.
        """
        ...


@frozen
class Page:
    """A kind of page that a level can map, laid out for walks.

    Attributes:
        leaf: the record's leaf, or None for any entry of a last level that lists no leaves.
        mask: with ``value``: an entry maps such a page if ``entry & mask == value``.
        value: see ``mask``.
        shift: log2 of the bytes that the entry maps.
        address_mask: the bits of a virtual address that select a byte of the page.
        in_place: mask of the frame field if it holds the address at the address's own bits, else 0.
        frame: the frame field.
    """

    leaf: Leaf | None
    mask: int
    value: int
    shift: int
    address_mask: int
    in_place: int
    frame: tuple[Segment, ...]

    def start(self, word: int) -> int:
        """Return the physical address (bytes) at which the page of an entry begins."""
        return (word & self.in_place or decode(self.frame, word)) & ~self.address_mask

    def starts(self, words: np.ndarray) -> np.ndarray:
        """Return the physical addresses (bytes, int64) at which the pages of many entries begin."""
        return _addresses(self.frame, self.in_place, words) & ~np.int64(self.address_mask)


@frozen
class LaidOutLevel:
    """One level of page tables, with its numbers computed once.

    An entry lies at ``table + offset + index * stride``, where ``index`` is ``address >> shift & index_mask``.

    Attributes:
        level: the record's level.
        last: whether there is no level below.
        shift: log2 of the bytes that an entry covers.
        index_mask: number of entries less 1.
        stride: bytes of an entry.
        offset: bytes from the start of a table's page to its first entry.
        size: bytes of a word, 4 or 8.
        word_shift: log2 of ``size``.
        present: the record's ``present_mask``.
        none_mask: as in the record. So are ``missing_mask``, ``bad_mask`` and ``good_value``.
        missing_mask: see ``none_mask``.
        bad_mask: see ``none_mask``.
        good_value: see ``none_mask``.
        sure_mask: with ``sure_value``: ``entry & sure_mask == sure_value`` proves that an entry points to a table
            for Linux: it is not none, missing or bad. Other entries may point to one, too.
        sure_value: see ``sure_mask``.
        in_place: mask of the frame field if it holds the address at the address's own bits, else 0.
        pages: the kinds of pages that its entries can map.
    """

    level: Level
    last: bool
    shift: int
    index_mask: int
    stride: int
    offset: int
    size: int
    word_shift: int
    present: int
    none_mask: int
    missing_mask: int
    bad_mask: int
    good_value: int
    sure_mask: int
    sure_value: int
    in_place: int
    pages: tuple[Page, ...]

    def entry(self, table: int, address: int) -> int:
        """Return the physical address of the entry for a virtual address in a table of this level."""
        return table + self.offset + (address >> self.shift & self.index_mask) * self.stride

    def entries(self, tables: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the physical addresses (int64) of entries, by table (int64) and index (int64), broadcast."""
        found: np.ndarray = tables + (indices * self.stride + self.offset)
        return found

    def indices(self, addresses: np.ndarray) -> np.ndarray:
        """Return the index (int64) of the entry for each virtual address (uint64)."""
        return (addresses >> np.uint64(self.shift) & np.uint64(self.index_mask)).view(np.int64)

    def table(self, word: int) -> int:
        """Return the physical address of the table (or, at the last level, of the page) that an entry holds."""
        return word & self.in_place or decode(self.level.frame, word)

    def tables(self, words: np.ndarray) -> np.ndarray:
        """Return the physical addresses (int64) of the tables (or pages) that entries (unsigned) hold."""
        return _addresses(self.level.frame, self.in_place, words)

    def table_entries(self, words: np.ndarray) -> np.ndarray:
        """Return which entries point to a table for Linux, bool: neither none nor bad (as large pages are)."""
        kind = words.dtype.type
        found: np.ndarray = words & kind(self.none_mask) != 0
        return found & (words & kind(self.bad_mask) == kind(self.good_value)) if self.bad_mask else found


def _addresses(frame: tuple[Segment, ...], in_place: int, words: np.ndarray) -> np.ndarray:
    if in_place:
        return (words.astype(np.uint64, copy=False) & np.uint64(in_place)).view(np.int64)
    return decode_many(frame, words).view(np.int64)


def _in_place(frame: tuple[Segment, ...]) -> int:
    fits = all(s.entry_bit == s.address_bit for s in frame)
    return sum(s.entry_mask for s in frame) if fits else 0


def _sure(level: Level) -> tuple[int, int]:
    """Return a mask and a value that together prove that an entry points to a table."""
    bits = level.table_flags & level.none_mask & level.missing_mask
    bit = bits & -bits  # one bit that tells it from none and from missing
    return (level.bad_mask | bit, level.good_value | bit) if bit else (0, 1)


def _page(leaf: Leaf | None, level: Level) -> Page:
    mask, value, shift, frame = (0, 0, level.shift, level.frame) if leaf is None else (
        leaf.mask, leaf.value, leaf.shift, leaf.frame
    )  # fmt: skip
    return Page(leaf, mask, value, shift, (1 << shift) - 1, _in_place(frame), frame)


def lay_out(levels: Iterable[Level]) -> tuple[LaidOutLevel, ...]:
    """Lay out the levels of one set of page tables, root first."""
    levels = tuple(levels)
    return tuple(_lay_out(level, level is levels[-1]) for level in levels)


def _lay_out(level: Level, last: bool) -> LaidOutLevel:
    pages = tuple(_page(leaf, level) for leaf in level.leaves)
    return LaidOutLevel(
        level,
        last,
        level.shift,
        level.entries - 1,
        level.entry_bytes,
        level.offset,
        level.word_bytes,
        level.word_bytes.bit_length() - 1,
        level.present_mask,
        level.none_mask,
        level.missing_mask,
        level.bad_mask,
        level.good_value,
        *_sure(level),
        _in_place(level.frame),
        pages or ((_page(None, level),) if last else ()),
    )


#: Decides on an entry during `descend`, by (number of the level, level, physical address of the entry). It returns
#: the word of an entry that points to a table, or None to stop.
Follow = Callable[[int, LaidOutLevel, int], int | None]


def descend(levels: Iterable[LaidOutLevel], root: int, address: int, follow: Follow) -> int | None:
    """Walk page tables for one address.

    Args:
        levels: the levels to pass, the root's first.
        root: physical address of the root table.
        address: virtual, bytes.
        follow: decides whether an entry is followed.

    Returns:
        The table below the last of ``levels``; None if ``follow`` stopped.
    """
    table = root
    for number, level in enumerate(levels):
        word = follow(number, level, level.entry(table, address))
        if word is None:
            return None
        table = level.table(word)
    return table


class Descent:
    """The walk of many addresses at once, one level at a time.

    Use it in a loop over the levels: ``entries()`` says which entries to read, ``follow()`` goes on by them.
    Addresses often share an entry, for example one of the root's. Where that saves reads, the entry is read once.
    Then ``words[walk.node]`` has the word of each address.

    Attributes:
        who: positions of the addresses that are still walked, int64, shape ``(n,)``.
        addresses: those addresses, virtual, uint64, shape ``(n,)``.
        node: for each address the position of its entry among those to read, int64, shape ``(n,)``, and, after
            ``follow()``, of its table among ``tables``; a slice of all if there is one for each address.
        tables: physical addresses of the tables that were reached, int64.
    """

    def __init__(self, root: int, addresses: np.ndarray, chosen: np.ndarray | None = None) -> None:
        """Start at the root.

        Args:
            root: physical address.
            addresses: virtual, uint64, shape ``(m,)``.
            chosen: which of them to walk, bool, shape ``(m,)``, or None for all.
        """
        self.who, self.addresses = np.arange(len(addresses)), addresses
        self.node: np.ndarray | slice = slice(None)
        self.tables = np.array([root], np.int64)
        if chosen is not None and not chosen.all():
            self._keep(chosen)

    def entries(self, level: LaidOutLevel) -> np.ndarray:
        """Return the physical addresses (int64) of the entries to read at a level."""
        tables, node, index = self.tables, self.node, level.indices(self.addresses)
        size = level.index_mask + 1
        if len(tables) * size > len(index):
            self.node = slice(None)
            return level.entries(tables[node], index)
        key = index if isinstance(node, slice) else node * size + index  # a slice: of the root alone
        used = np.zeros(len(tables) * size, bool)
        used[key] = True
        entries = np.flatnonzero(used)
        number = np.empty(len(used), np.int64)
        number[entries] = np.arange(len(entries))
        self.node = number[key]
        return level.entries(tables[entries // size], entries % size)

    def follow(self, level: LaidOutLevel, words: np.ndarray, pointing: np.ndarray) -> None:
        """Go on to the tables that entries point to, with the addresses of those entries alone.

        Args:
            level: the level that was read.
            words: its entries, unsigned, in the order of ``entries()``.
            pointing: which of them point to a table, bool.
        """
        self.tables = level.tables(words)
        if pointing.all():
            return
        self._keep(pointing[self.node])
        if isinstance(self.node, slice):
            self.tables = self.tables[pointing]
        else:
            self.node = self.node[pointing[self.node]]

    def _keep(self, on: np.ndarray) -> None:
        self.who, self.addresses = self.who[on], self.addresses[on]
