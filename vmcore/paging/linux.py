"""Page tables as Linux reads them: 2 to 5 levels, in simulated memory, in the architecture's own bits.

The format comes from the record's levels alone. Two calls store or copy one entry; the others only read.

Sources: include/asm-generic/pgtable.h, mm/memory.c (vmalloc_to_page).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from vmcore.architecture import Level
from vmcore.flags import NO_FRAME
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.pte import Descent, Follow, LaidOutLevel, descend, lay_out


class TableWalk:
    """Linux' walks of the page tables below one root.

    Attributes:
        root: physical address of the root table.
        levels: the record's, root first.
        memory: holds the tables.
        upper: the levels above the last, laid out.
        last: the last level, laid out.
        array: the memory's buffer as last-level words.
        span: log2 of the bytes that one last-level table maps.
        page_shift: log2 of the page size, bytes.
        word_bits: bits of an address.
    """

    def __init__(self, levels: tuple[Level, ...], memory: PhysicalMemory, root: int, word_bits: int) -> None:
        """Walk tables of these levels below ``root``, for addresses of ``word_bits``."""
        self.levels, self.root, self.memory, self.word_bits = levels, root, memory, word_bits
        self._laid_out = lay_out(levels)
        self.upper, self.last = self._laid_out[:-1], self._laid_out[-1]
        self.array = memory.array64 if self.last.size == 8 else memory.array32
        self.page_shift, self.span = self.last.shift, self.upper[-1].shift

    # ---- one entry

    def entry(self, address: int, depth: int) -> tuple[int, int] | None:
        """Return where the entry for a virtual address lies at a level, and its (first) word.

        Args:
            address: virtual, bytes.
            depth: 0 is the root level, ``len(levels) - 1`` the last.

        Returns:
            (physical address, word), or None if an entry above is none.

        Raises:
            IndexError: there is no such level.
        """
        if not 0 <= depth < len(self.levels):
            raise IndexError(f"depth {depth}: these tables have levels 0 to {len(self.levels) - 1}")
        table = descend(self._laid_out[:depth], self.root, address, self._unless_none)
        if table is None:
            return None
        d = self._laid_out[depth]
        at = d.entry(table, address)
        return at, self.memory.load(at, d.size)

    def _unless_none(self, _number: int, level: LaidOutLevel, at: int) -> int | None:
        word = self.memory.load(at, level.size)
        return word if word & level.none_mask else None

    def set_entry(self, entry_address: int, depth: int, word: int) -> None:
        """Store an entry above the last level. Its further words are derived from the first."""
        level = self.levels[depth]
        words = [word, *(word + more if word else 0 for more in level.repeat)]
        self.memory.write(entry_address, b"".join(w.to_bytes(level.word_bytes, "little") for w in words))

    def copy_entry(self, to: int, source: int, depth: int) -> None:
        """Copy all bytes of an entry from one physical address to another."""
        self.memory.write(to, self.memory.read(source, self.levels[depth].entry_bytes))

    def address_of(self, word: int, depth: int) -> int:
        """Return the physical address that the frame field of an entry holds."""
        return self._laid_out[depth].table(word)

    # ---- pages

    def lookup(self, address: int) -> int | None:
        """Return the last-level word for a virtual address, or None if it has no table (mm/memory.c)."""
        found = self.entry(address, len(self.levels) - 1)
        return found[1] if found else None

    def frame(self, address: int) -> int | None:
        """Return the frame that a virtual address maps to, or None if no page is present (vmalloc_to_pfn)."""
        word = self.lookup(address)
        if word is None or not word & self.last.present:
            return None
        return self.last.table(word) >> self.page_shift

    def frames(self, start: int, count: int) -> np.ndarray:
        """Return the frames that consecutive pages map to.

        Args:
            start: virtual, bytes.
            count: pages.

        Returns:
            Shape ``(count,)``, int64; NO_FRAME where no page is present.
        """
        d, span_pages = self.last, self.span - self.page_shift
        page = (start >> self.page_shift) + np.arange(count)
        first = int(page[0]) >> span_pages
        spans = (page >> span_pages) - first
        tables = self.find_tables(first, int(spans[-1]) + 1)[spans]
        there = np.flatnonzero(tables >= 0)
        words = self._words(d, d.entries(tables[there], page[there] & d.index_mask))
        present = words & words.dtype.type(d.present) != 0
        out = np.full(count, NO_FRAME, np.int64)
        out[there[present]] = d.tables(words[present]) >> self.page_shift
        return out

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every last-level entry that is not none.

        Returns:
            Virtual addresses (uint64, sign-extended from the top bit that the tables know) and words, both of
            shape ``(n,)``, in order of the table indices.
        """
        d, bits = self.last, self._address_bits
        address, table = self.present_tables(0, 1 << bits)
        if not len(table):
            return np.empty(0, np.uint64), np.empty(0, self.array.dtype)
        words = np.concatenate([self.array[at] for at in self.word_slices(table)]).reshape(len(table), -1)
        rows, columns = np.nonzero(words & words.dtype.type(d.none_mask))
        address = address[rows] + (columns.astype(np.uint64) << np.uint64(self.page_shift))
        if bits < self.word_bits:
            high = address >> np.uint64(bits - 1) != 0
            address[high] |= np.uint64((1 << self.word_bits) - (1 << bits))
        return address, words[rows, columns]

    # ---- tables

    def find_table(self, address: int, follow: Follow | None = None) -> int | None:
        """Return the last-level table for an address, or None if the walk stops above it.

        This is a copy of `descend` that calls ``follow`` for unusual entries alone: the 1-page row of
        ``test_vmalloc_and_vfree`` in tests/bench pays for it.

        Args:
            address: virtual, bytes.
            follow: decides on an entry that is not 0, and that may not point to a table, as for `descend`; None to
                stop there. The walk always stops at an entry of 0.
        """
        table, load = self.root, self.memory.load
        for n, d in enumerate(self.upper):
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = load(at, d.size)
            if word & d.sure_mask != d.sure_value:
                if not word or follow is None or (decided := follow(n, d, at)) is None:
                    return None
                word = decided
            table = word & d.in_place or d.table(word)
        return table

    def find_tables(self, first: int, count: int) -> np.ndarray:
        """Return the last-level tables of consecutive spans of the address space.

        Args:
            first: number of the first span, ``address >> span``.
            count: spans.

        Returns:
            Physical addresses, int64, shape ``(count,)``; -1 where a table is missing.
        """
        out = np.full(count, -1, np.int64)
        walk = Descent(self.root, np.arange(first, first + count, dtype=np.uint64) << np.uint64(self.span))
        for d in self.upper:
            words = self._words(d, walk.entries(d))
            walk.follow(d, words, words & words.dtype.type(d.missing_mask) != 0)
        out[walk.who] = walk.tables[walk.node]
        return out

    def present_tables(
        self, start: int, end: int, on_bad: Callable[[LaidOutLevel, int, int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the last-level tables that exist for ``[start, end)``.

        The cost grows with the tables that exist, not with the range.

        Args:
            start: virtual, bytes.
            end: virtual, bytes.
            on_bad: is called with (level, entry address, word) for each bad entry. Bad entries are not followed.
                Linux takes large pages for bad.

        Returns:
            Two arrays of shape ``(n,)``: the first address of the range that each table serves (uint64), and the
            table (int64), in address order.
        """
        *_, (address, table) = self._reach(start, end, on_bad)
        return np.maximum(address, np.uint64(start)), table

    def table_addresses(self, end: int | None = None) -> dict[str, np.ndarray]:
        """Return the physical addresses (int64) of the tables that are reached, by level name.

        Args:
            end: number of the first root entry to leave out, or None for all entries.
        """
        root = self.upper[0]
        last = root.index_mask + 1 if end is None else end
        below = self._reach(0, last << root.shift, None)
        return {level.name: table for level, (_, table) in zip(self.levels[1:], below, strict=True)}

    def _reach(
        self, start: int, end: int, on_bad: Callable[[LaidOutLevel, int, int], None] | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield two arrays for each level below the root: first virtual addresses, and table addresses.

        The arguments are those of `present_tables`.
        """
        bits = self._address_bits
        address, table = np.array([start >> bits << bits], np.uint64), np.array([self.root], np.int64)
        for d in self.upper:
            index = np.arange(d.index_mask + 1)
            number = (address >> np.uint64(d.shift))[:, None] + index.astype(np.uint64)
            low, high = np.uint64(start >> d.shift), np.uint64(-(-end >> d.shift))
            rows, columns = np.nonzero((number >= low) & (number < high))
            at = d.entries(table[rows], columns)
            words = self._words(d, at)
            good = d.table_entries(words)
            if on_bad is not None:
                for b in np.flatnonzero((words & words.dtype.type(d.none_mask) != 0) & ~good).tolist():
                    on_bad(d, int(at[b]), int(words[b]))
            address = number[rows[good], columns[good]] << np.uint64(d.shift)
            table = d.tables(words[good])
            yield address, table

    @property
    def _address_bits(self) -> int:
        """Bits of an address that the tables tell apart."""
        return self.upper[0].shift + self.upper[0].level.bits

    # ---- words of the buffer

    def _words(self, level: LaidOutLevel, addresses: np.ndarray) -> np.ndarray:
        """Return the (first) words of entries at physical addresses (int64)."""
        array = self.memory.array64 if level.size == 8 else self.memory.array32
        words: np.ndarray = array[self.memory.offsets(addresses) >> level.word_shift]
        return words

    def word_index(self, table: int, address: int) -> int:
        """Return the index, in words of the memory's buffer, of an address' entry in its last-level table.

        The entry's address is that of ``last.entry()``, without its call: see `find_table`.
        """
        d = self.last
        entry = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
        return self.memory.offset(entry) >> d.word_shift

    def word_slices(self, tables: np.ndarray) -> list[slice]:
        """Return which words of the buffer whole last-level tables are. Neighbours in memory share a slice."""
        d = self.last
        starts = self.memory.offsets(tables + d.offset) >> d.word_shift
        size = d.index_mask + 1
        edges = [0, *(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]
        return [slice(int(starts[a]), int(starts[b - 1]) + size) for a, b in pairwise(edges)]
