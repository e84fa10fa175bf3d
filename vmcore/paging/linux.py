"""Walking page tables of 2 to 5 levels, in simulated memory, in the architecture's own bits.

One address at a time in plain integers, many in whole-array steps; level count, shifts and bits come from the
levels alone. Nothing is changed here but single entries on request.

Sources: include/asm-generic/pgtable.h, mm/memory.c (vmalloc_to_page).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen

from vmcore.architecture import Level
from vmcore.flags import NO_FRAME
from vmcore.memory.physical import PhysicalMemory


@frozen
class Depth:
    """One level, laid out for the walk: plain ints and the words of the buffer."""

    level: Level
    shift: int
    index_mask: int
    stride: int  # bytes of an entry
    word_shift: int  # log2 bytes of a word
    words: Any  # the buffer as words: a memoryview of unsigned ints
    array: np.ndarray
    none_mask: int
    missing_mask: int
    bad_mask: int
    good_value: int
    frame_mask: int
    simple: bool  # the frame field holds the address in place
    offset: int


def _depth(level: Level, memory: PhysicalMemory) -> Depth:
    wide = level.word_bytes == 8
    simple = len(level.frame) == 1 and level.frame[0].entry_bit == level.frame[0].address_bit
    return Depth(
        level,
        level.shift,
        level.entries - 1,
        level.entry_bytes,
        3 if wide else 2,
        memory.words64 if wide else memory.words32,
        memory.array64 if wide else memory.array32,
        level.none_mask,
        level.missing_mask,
        level.bad_mask,
        level.good_value,
        level.frame_mask,
        simple,
        level.offset,
    )


class TableWalk:
    """The page tables below one root.

    Attributes:
        root: physical address of the root table.
        levels: root first.
    """

    def __init__(self, levels: tuple[Level, ...], memory: PhysicalMemory, root: int, word_bits: int) -> None:
        """Walk tables of these levels below ``root``, for addresses of ``word_bits``."""
        self.levels, self.root, self._memory = levels, root, memory
        self._page_shift = levels[-1].shift
        self._word_bits, self._word_mask = word_bits, (1 << word_bits) - 1
        depths = [_depth(level, memory) for level in levels]
        self._depths, self._upper, self._last = depths, depths[:-1], depths[-1]
        self._span = self._upper[-1].shift  # log2 bytes one last-level table covers
        self._present = levels[-1].present_mask

    # ---- one entry

    def entry(self, address: int, depth: int) -> tuple[int, int] | None:
        """Return where the entry for a virtual address is at a level, and its (first) word.

        Args:
            address: virtual, bytes.
            depth: 0 is the root level, ``len(levels) - 1`` the last.

        Returns:
            (physical address, word), or None when an entry above is none.

        Raises:
            IndexError: there is no such level.
        """
        if not 0 <= depth < len(self._depths):
            raise IndexError(f"depth {depth}: these tables have levels 0 to {len(self._depths) - 1}")
        table, d = self.root, self._depths[0]
        for below in (*self._depths[1 : depth + 1], None):
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word: int = d.words[self._memory.offset(at) >> d.word_shift]
            if below is None:
                return at, word
            if not word & d.none_mask:
                break
            table, d = word & d.frame_mask if d.simple else d.level.decode(word), below
        return None

    def set_entry(self, entry_address: int, depth: int, word: int) -> None:
        """Store an entry above the last level; further words of it are derived from the first."""
        d = self._depths[depth]
        at = self._memory.offset(entry_address, d.stride) >> d.word_shift
        d.words[at] = word
        for n, more in enumerate(d.level.repeat, 1):
            d.words[at + n] = word + more if word else 0

    def copy_entry(self, to: int, source: int, depth: int) -> None:
        """Copy all bytes of an entry from one physical address to another."""
        self._memory.write(to, self._memory.read(source, self._depths[depth].stride))

    def address_of(self, word: int, depth: int) -> int:
        """Return the physical address the frame field of an entry holds."""
        return self.levels[depth].decode(word)

    def lookup(self, address: int) -> int | None:
        """Return the last-level word for a virtual address; None where no table is (mm/memory.c)."""
        found = self.entry(address, len(self._depths) - 1)
        return found[1] if found else None

    def frame(self, address: int) -> int | None:
        """Return the frame a virtual address maps to, None when it is not present (vmalloc_to_pfn)."""
        word = self.lookup(address)
        if word is None or not word & self._present:
            return None
        return self._last.level.decode(word) >> self._page_shift

    def frames(self, start: int, count: int) -> np.ndarray:
        """Return the frames that consecutive pages map to.

        Args:
            start: virtual, bytes.
            count: pages.

        Returns:
            Shape ``(count,)``, int64; NO_FRAME where the page is not present.
        """
        d, span_pages = self._last, self._span - self._page_shift
        page = (start >> self._page_shift) + np.arange(count)
        first = int(page[0]) >> span_pages
        spans = (page >> span_pages) - first
        tables = self._tables(first, int(spans[-1]) + 1)[spans]
        there = np.flatnonzero(tables >= 0)
        words = self._words(d, tables[there] + d.offset + (page[there] & d.index_mask) * d.stride)
        present = words & words.dtype.type(self._present) != 0
        out = np.full(count, NO_FRAME, np.int64)
        out[there[present]] = self._decode(d, words[present]) >> self._page_shift
        return out

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every last-level entry that is not none.

        Returns:
            Virtual addresses (uint64, sign-extended from the top bit the tables know) and words, both of
            shape ``(n,)``, in order of the table indices.
        """
        d, bits = self._last, self._depths[0].shift + self._depths[0].level.bits
        address, table = self._present_tables(0, 1 << bits)
        if not len(table):
            return np.empty(0, np.uint64), np.empty(0, d.array.dtype)
        words = np.concatenate([d.array[at] for at in self._whole(table)]).reshape(len(table), -1)
        rows, columns = np.nonzero(words & words.dtype.type(d.none_mask))
        address = address[rows] + (columns.astype(np.uint64) << np.uint64(self._page_shift))
        if bits < self._word_bits:
            high = address >> np.uint64(bits - 1) != 0
            address[high] |= np.uint64(self._word_mask & ~((1 << bits) - 1))
        return address, words[rows, columns]

    # ---- steps

    def _tables(self, first: int, count: int) -> np.ndarray:
        """Return the last-level table (int64; -1: missing) of consecutive spans of the address space."""
        address = np.arange(first, first + count, dtype=np.uint64) << np.uint64(self._span)
        table = np.full(count, self.root, np.int64)
        alive = np.arange(count)
        for d in self._upper:
            index = (address[alive] >> np.uint64(d.shift) & np.uint64(d.index_mask)).astype(np.int64)
            words = self._words(d, table[alive] + d.offset + index * d.stride)
            there = words & words.dtype.type(d.missing_mask) != 0
            table[alive[~there]] = -1
            alive = alive[there]
            table[alive] = self._decode(d, words[there])
        return table

    def _words(self, d: Depth, addresses: np.ndarray) -> np.ndarray:
        """Return the (first) words of entries at physical addresses (int64)."""
        words: np.ndarray = d.array[self._memory.offsets(addresses) >> d.word_shift]
        return words

    @staticmethod
    def _tables_in(d: Depth, words: np.ndarray) -> np.ndarray:
        """Tell which words of an upper level point to a table: not none, not bad (large pages are), bool."""
        kind = words.dtype.type
        tables: np.ndarray = words & kind(d.none_mask) != 0
        return tables & (words & kind(d.bad_mask) == kind(d.good_value)) if d.bad_mask else tables

    @staticmethod
    def _decode(d: Depth, words: np.ndarray) -> np.ndarray:
        """Return the physical addresses (int64) that words hold."""
        if d.simple:
            words = words & words.dtype.type(d.frame_mask)
            return words.astype(np.int64)
        return d.level.decode_array(words).astype(np.int64)

    def _index(self, table: int, address: int) -> int:
        """Return the index, in words of the buffer, of an address' entry in its last-level table."""
        d = self._last
        entry = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
        return self._memory.offset(entry) >> d.word_shift

    def _whole(self, tables: np.ndarray) -> list[slice]:
        """Return the words of whole last-level tables, tables that follow each other in memory as one."""
        d = self._last
        starts = self._memory.offsets(tables + d.offset) >> d.word_shift
        size = d.index_mask + 1
        edges = [0, *(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]
        return [slice(int(starts[a]), int(starts[b - 1]) + size) for a, b in pairwise(edges)]

    def _present_tables(
        self, start: int, end: int, on_bad: Callable[[int, int, int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Descend level by level through what is not none in ``[start, end)``.

        Args:
            start: virtual, bytes.
            end: virtual, bytes.
            on_bad: called with (depth, entry address, word) for a bad entry. Bad ones, as large pages are to
                Linux, are passed over.

        Returns:
            Two arrays of shape ``(n,)``: the first address of the range each last-level table serves (uint64),
            and the table (int64), in address order. Cost grows with the tables that exist, not with the range.
        """
        top = self._depths[0].shift + self._depths[0].level.bits
        address = np.array([start >> top << top], np.uint64)
        table = np.array([self.root], np.int64)
        for n, d in enumerate(self._upper):
            low, high = np.uint64(start >> d.shift), np.uint64(end - 1 >> d.shift)
            number = (address >> np.uint64(d.shift))[:, None] + np.arange(d.index_mask + 1, dtype=np.uint64)
            rows, columns = np.nonzero((number >= low) & (number <= high))
            at = table[rows] + d.offset + columns * d.stride
            words = self._words(d, at)
            keep = words & words.dtype.type(d.none_mask) != 0
            good = self._tables_in(d, words)
            if on_bad is not None:
                for b in np.flatnonzero(keep & ~good).tolist():
                    on_bad(n, int(at[b]), int(words[b]))
            keep &= good
            address = number[rows[keep], columns[keep]] << np.uint64(d.shift)
            table = self._decode(d, words[keep])
        return np.maximum(address, np.uint64(start)), table
